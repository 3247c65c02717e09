"""PostgreSQL arrays in binary, packed by hand: one parameter per column, whatever the number of rows.

A list given to psycopg is dumped element by element and its type depends on its values, so the same statement
would be prepared again and again. These wrappers have one fixed type each and are packed in one pass.
Format (array_send in PostgreSQL): ndim, has-null flag, element oid, length, lower bound, then (length, bytes) each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Final

import msgspec
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEAD: Final = struct.Struct(">iiIii")
_NULL: Final = struct.pack(">i", -1)
_INT8: Final = struct.Struct(">iq")
_INT4: Final = struct.Struct(">ii")
_LEN: Final = struct.Struct(">i").pack
_TRUE: Final = b"\x00\x00\x00\x01\x01"
_FALSE: Final = b"\x00\x00\x00\x01\x00"
PG_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: PostgreSQL counts from there."""


class PgArray(msgspec.Struct, gc=False):
    """An array parameter, packed already; made by `int8`, `int4`, `text`, `json`, `uuid`, `bytea`, `bools`, `times`."""

    packed: bytes
    oid: ClassVar[int] = 0


class _Dumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        return bytes(obj.packed)


_ELEMENT_OIDS: Final[dict[str, tuple[int, int]]] = {
    # name: (element oid, array oid), from the catalog pg_type
    "int8": (20, 1016),
    "int4": (23, 1007),
    "text": (25, 1009),
    "json": (114, 199),
    "uuid": (2950, 2951),
    "bytea": (17, 1001),
    "bool": (16, 1000),
    "timestamptz": (1184, 1185),
}
_CLASSES: Final[dict[str, type[PgArray]]] = {
    name: type(f"Pg_{name}", (PgArray,), {"oid": oids[1]}) for name, oids in _ELEMENT_OIDS.items()
}


def register(conn: psycopg.Connection[Any]) -> None:
    """Teach a connection to send these arrays."""
    for name, cls in _CLASSES.items():
        dumper = type(f"{name}ArrayDumper", (_Dumper,), {"oid": _ELEMENT_OIDS[name][1]})
        conn.adapters.register_dumper(cls, dumper)


def _array(name: str, parts: Sequence[bytes], has_null: bool) -> PgArray:
    return _CLASSES[name](_HEAD.pack(1, int(has_null), _ELEMENT_OIDS[name][0], len(parts), 1) + b"".join(parts))


@lru_cache(maxsize=256)
def _nulls(name: str, length: int) -> PgArray:
    """An array of nothing but NULL: most columns of most batches. One of length 0 has no dimension."""
    if length == 0:
        return _CLASSES[name](struct.pack(">iiI", 0, 0, _ELEMENT_OIDS[name][0]))
    return _array(name, [_NULL] * length, True)


def _uniform(values: Sequence[Any]) -> bool:
    """Most columns of most batches hold one value in all rows: it is packed once."""
    return not values or values.count(values[0]) == len(values)


def _repeated(name: str, values: Sequence[Any], pack: Callable[[Any], bytes]) -> PgArray:
    count = len(values)
    if count == 0 or values[0] is None:
        return _nulls(name, count)
    return _array(name, [pack(values[0])] * count, False)


def _ints(name: str, packer: struct.Struct, width: int, values: Sequence[int | None]) -> PgArray:
    pack = packer.pack
    if _uniform(values):
        return _repeated(name, values, lambda value: pack(width, value))
    return _array(name, [_NULL if v is None else pack(width, v) for v in values], None in values)


def int8(values: Sequence[int | None]) -> PgArray:
    return _ints("int8", _INT8, 8, values)


def int4(values: Sequence[int | None]) -> PgArray:
    return _ints("int4", _INT4, 4, values)


def times(values: Sequence[int | None]) -> PgArray:
    """timestamptz[] from microseconds since 1970."""
    return _ints("timestamptz", _INT8, 8, [None if v is None else v - PG_EPOCH_US for v in values])


def text(values: Sequence[str | None]) -> PgArray:
    if _uniform(values):
        return _repeated("text", values, _sized_text)
    size = _LEN
    return _array("text", [_NULL if v is None else size(len(raw := v.encode())) + raw for v in values], None in values)


def _sized_text(value: str) -> bytes:
    return _sized(value.encode())


def _sized(value: bytes) -> bytes:
    return _LEN(len(value)) + value


def _bytes(name: str, values: Sequence[bytes | None]) -> PgArray:
    if _uniform(values):
        return _repeated(name, values, _sized)
    size = _LEN
    return _array(name, [_NULL if v is None else size(len(v)) + v for v in values], None in values)


def json(values: Sequence[bytes | None]) -> PgArray:
    """json[] from canonical text, already UTF-8."""
    return _bytes("json", values)


def uuid(values: Sequence[bytes | None]) -> PgArray:
    return _bytes("uuid", values)


def bytea(values: Sequence[bytes | None]) -> PgArray:
    return _bytes("bytea", values)


def bools(values: Sequence[bool | None]) -> PgArray:
    parts = [_NULL if v is None else _TRUE if v else _FALSE for v in values]
    return _array("bool", parts, _NULL in parts) if parts else _nulls("bool", 0)


Pack = Callable[[Sequence[Any]], PgArray]
PackOne = Callable[[Any], PgArray]


def packers(name: str) -> tuple[Pack, PackOne, PgArray]:
    """For one type: how to pack a column, how to pack a single value that is not NULL (three times as fast), and the
    packed single NULL. Types: int8, int4, text, bool, uuid, bytea, times, json (given as text), raw_json (as bytes).
    """
    element = {"times": "timestamptz", "raw_json": "json"}.get(name, name)
    head = _HEAD.pack(1, 0, _ELEMENT_OIDS[element][0], 1, 1)
    cls, null = _CLASSES[element], _nulls(element, 1)
    pack8, pack4, size = _INT8.pack, _INT4.pack, _LEN

    def one_text(value: str) -> PgArray:
        raw = value.encode()
        return cls(head + size(len(raw)) + raw)

    def one_bytes(value: bytes) -> PgArray:
        return cls(head + size(len(value)) + value)

    match name:
        case "int8":
            return int8, lambda value: cls(head + pack8(8, value)), null
        case "int4":
            return int4, lambda value: cls(head + pack4(4, value)), null
        case "times":
            return times, lambda value: cls(head + pack8(8, value - PG_EPOCH_US)), null
        case "bool":
            return bools, lambda value: cls(head + (_TRUE if value else _FALSE)), null
        case "text":
            return text, one_text, null
        case "json":
            return lambda values: json([None if v is None else v.encode() for v in values]), one_text, null
        case "uuid" | "bytea" | "raw_json":
            return {"uuid": uuid, "bytea": bytea, "raw_json": json}[name], one_bytes, null
    raise ValueError(f"no packers for {name}")


class Columns:
    """Rows of Python objects as parameters: `PREFIX_COLUMN` is an array with one element per row.

    `columns`: (attribute, column, type), types as `packers` knows them.
    """

    def __init__(self, prefix: str, columns: Sequence[tuple[str, str, str]]) -> None:
        self._get: Callable[[Any], tuple[Any, ...]] = attrgetter(*(attribute for attribute, _, _ in columns))
        self._packers = tuple((f"{prefix}_{column}", *packers(kind)) for _, column, kind in columns)

    def params(self, rows: Sequence[Any]) -> dict[str, PgArray]:
        if len(rows) == 1:
            return {
                name: null if value is None else one(value)
                for (name, _, one, null), value in zip(self._packers, self._get(rows[0]), strict=True)
            }
        columns: Iterable[Sequence[Any]] = (
            zip(*map(self._get, rows), strict=True) if rows else [()] * len(self._packers)
        )
        return {name: pack(values) for (name, pack, _, _), values in zip(self._packers, columns, strict=True)}
