"""NDJSON and CSV as rows: {"case", "activity", "transition", "time", "resource"}, or columns of other names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from eventstore.errors import printable, shorten
from projections.importing.happenings import Raw
from projections.importing.source import Source

DELIMITERS: Final = ",;\t|"
FIELDS: Final = ("case", "activity", "transition", "time", "resource")
_REQUIRED: Final = frozenset({"case", "activity", "time"})
_XES: Final = {
    "case": "case:concept:name",
    "activity": "concept:name",
    "transition": "lifecycle:transition",
    "time": "time:timestamp",
    "resource": "org:resource",
}
_decode: Final = msgspec.json.Decoder().decode


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the columns. None: the field's own name, or the one that XES has for it (`concept:name` …).

    Transition and resource may be missing in the file unless they are named here.
    """

    case: str | None = None
    activity: str | None = None
    transition: str | None = None
    time: str | None = None
    resource: str | None = None

    def found_in(self, header: list[str], source: Source) -> list[str | None]:
        """The column of each field, in the order of `FIELDS`. Raises `ImportRefused`, naming what there is."""
        chosen: list[str | None] = []
        for field in FIELDS:
            given = getattr(self, field)
            names = (given,) if given is not None else (field, _XES[field])
            column = next((name for name in names if name in header), None)
            if column is None and (given is not None or field in _REQUIRED):
                there = ", ".join(printable(name, 40) for name in header[:20]) or "none"
                raise source.refuse(
                    f"there is no column {shorten(names[0])}; the columns are: {there}."
                    f" Say which one it is: --{field} COLUMN",
                    source.line or 1,
                )
            chosen.append(column)
        return chosen


def read_ndjson(source: Source, columns: Columns, ignored: list[str]) -> Iterator[Raw]:
    """An object per line. Names that mean nothing here, in the first line, are put into `ignored`."""
    chosen: list[str | None] | None = None
    for text in source.lines():
        if text.isspace():
            continue
        row = decode_object(text, source)
        if chosen is None:
            chosen = columns.found_in(list(row), source)
            ignored += [name for name in row if name not in chosen]
        values = [None if name is None else _text(row.get(name), name, source) for name in chosen]
        yield Raw(source.line, *values)


def decode_object(text: bytes, source: Source) -> dict[str, Any]:
    """The line's JSON object. Raises `ImportRefused`."""
    try:
        row = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise source.refuse(f"not JSON in UTF-8: {error}", source.line) from None
    if type(row) is not dict:
        raise source.refuse("not a JSON object", source.line)
    return row


def _text(value: Any, name: str, source: Source) -> str | None:
    if type(value) is str or value is None:
        return value
    if type(value) is int:
        return str(value)
    raise source.refuse(f"{printable(name, 40)}: a text is needed; given {shorten(value)}", source.line)


def read_csv(source: Source, columns: Columns, ignored: list[str]) -> Iterator[Raw]:
    """A header, then a row per event, separated by comma, semicolon, tab or bar: whichever gives the columns."""
    texts = _texts(source)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise source.refuse("the file has no header and no rows")
    delimiter, header = _header(first, columns, source)
    chosen = columns.found_in(header, source)
    if repeated := [name for name in set(header) if name in chosen and header.count(name) > 1]:
        raise source.refuse(f"two columns are called {shorten(repeated[0])}", source.line)
    ignored += [name for name in header if name not in chosen]
    places = [None if name is None else header.index(name) for name in chosen]
    width, line = len(header), source.line + 1
    rows = csv.reader(texts, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            if row:
                if len(row) != width:
                    raise source.refuse(f"{len(row)} columns, and the header has {width}", line)
                yield Raw(line, *[None if place is None else row[place] for place in places])
            line = source.line + 1
    except csv.Error as error:
        raise source.refuse(f"not CSV: {error}", line) from None


def _header(first: str, columns: Columns, source: Source) -> tuple[str, list[str]]:
    wanted = [getattr(columns, field) for field in FIELDS]
    best: tuple[int, int, str, list[str]] = (-1, 0, ",", [])
    for delimiter in DELIMITERS:
        try:
            names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter, strict=True))]
        except csv.Error:
            continue
        named = sum(
            any(name in names for name in ([given] if given else [field, _XES[field]]))
            for field, given in zip(FIELDS, wanted, strict=True)
        )
        if (named, len(names)) > best[:2]:
            best = (named, len(names), delimiter, names)
    if not best[3]:
        raise source.refuse("not CSV: the header can't be read", source.line)
    return best[2], best[3]


def _texts(source: Source) -> Iterator[str]:
    for text in source.lines():
        try:
            yield text.decode()
        except UnicodeDecodeError as error:
            raise source.refuse(f"not UTF-8 ({error.reason} at byte {error.start})", source.line) from None
