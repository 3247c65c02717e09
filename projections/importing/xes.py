"""XES (IEEE 1849) as rows, read as a stream, with nothing of XML that a log does not need.

Refused: document types, and with them every entity, internal or external, so nothing expands and nothing is fetched;
deep nesting; a single tag of megabytes. Only `concept:name` of the trace and `concept:name`, `lifecycle:transition`,
`time:timestamp` and `org:resource` of the event are looked at, as direct children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from xml.parsers import expat

from projections.importing.happenings import Raw
from projections.importing.source import Source

MAX_DEPTH: Final = 100
MAX_TOKEN: Final = 2 * 1024 * 1024  # bytes that the parser may hold back because a tag does not end
_LOG, _TRACE, _EVENT = 1, 2, 3


def read_xes(source: Source, without_events: Callable[[], None]) -> Iterator[Raw]:
    """The events in the order of the file. `without_events` is called for each trace that has none.

    Raises `ImportRefused` for what is not XES, and for what is not to be trusted.
    """
    reader = _Reader(source, without_events)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.EntityDeclHandler = reader.doctype
    reader.line = lambda: parser.CurrentLineNumber
    fed = 0
    try:
        for piece in source.pieces():
            parser.Parse(piece, False)
            fed += len(piece)
            if fed - parser.CurrentByteIndex > MAX_TOKEN:
                raise source.refuse(f"a tag or text of more than {MAX_TOKEN:,} bytes", parser.CurrentLineNumber)
            source.line = parser.CurrentLineNumber
            yield from reader.rows
            reader.rows.clear()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise source.refuse(f"not well-formed XML: {expat.ErrorString(error.code)}", error.lineno) from None
    except (UnicodeError, LookupError, ValueError) as error:
        raise source.refuse(f"the text can't be decoded ({error})", parser.CurrentLineNumber) from None
    yield from reader.rows


class _Reader:
    def __init__(self, source: Source, without_events: Callable[[], None]) -> None:
        self.rows: list[Raw] = []
        self.line: Callable[[], int] = lambda: 0
        self._source = source
        self._without_events = without_events
        self._depth = 0
        self._in_trace = False
        self._in_event = False
        self._case: str | None = None
        self._events = 0
        self._values: dict[str, str] = {}
        self._line = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        depth = self._depth = self._depth + 1
        if depth == _EVENT + 1:
            if self._in_event:
                self._values[attributes.get("key", "")] = attributes.get("value", "")
        elif depth == _EVENT:
            if self._in_trace:
                self._in_a_trace(_local(tag), attributes)
        elif depth <= _TRACE:
            self._at_the_top(_local(tag), depth)
        elif depth > MAX_DEPTH:
            raise self._source.refuse(f"elements are nested more than {MAX_DEPTH} deep", self.line())

    def end(self, tag: str) -> None:
        del tag
        depth = self._depth
        self._depth = depth - 1
        if depth == _EVENT:
            if self._in_event:
                self._in_event = False
                value = self._values.get
                self.rows.append(
                    Raw(
                        self._line,
                        self._case,
                        value("concept:name"),
                        value("lifecycle:transition"),
                        value("time:timestamp"),
                        value("org:resource"),
                    )
                )
        elif depth == _TRACE and self._in_trace:
            self._in_trace = False
            if not self._events:
                self._without_events()

    def doctype(self, *_: Any) -> None:
        what = "the XML brings a document type of its own (DTD); take the <!DOCTYPE …> out if you trust the file"
        raise self._source.refuse(what, self.line())

    def _at_the_top(self, tag: str, depth: int) -> None:
        if depth == _LOG:
            if tag != "log":
                raise self._source.refuse(f"the XML is no XES: it begins with <{tag[:40]}>, not <log>", self.line())
        elif tag == "trace":
            self._in_trace, self._case, self._events = True, None, 0
        elif tag == "event":
            raise self._source.refuse("an event outside of a trace belongs to no case", self.line())

    def _in_a_trace(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "event":
            if self._case is None:
                raise self._source.refuse("the trace has no concept:name before its first event", self.line())
            self._in_event, self._values, self._line = True, {}, self.line()
            self._events += 1
        elif attributes.get("key") == "concept:name":
            self._case = attributes.get("value", "")


def _local(tag: str) -> str:
    return tag.rpartition(":")[2]
