"""From the body of an append to events: the strict envelope of the wire, read once, refused with a path.

    {"type": "step.progressed", "step": "push", "attempt": 1, "seq": 7, "occurred_at": "2026-01-31T12:00:00Z",
     "event_id": "0197…", "data": {"percent": 40}}

One event, an array of them, or one per line (NDJSON; blank lines are skipped). A member that is not named here is
refused, null stands for "not given" everywhere but in `data`. Times are RFC 3339 with a zone, ids UUIDs in any case.
What is checked here is the shape; `eventstore.codec` and `projections.check` know the rules of the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from itertools import accumulate
from typing import Any, Final, NamedTuple, NoReturn
from uuid import UUID

import msgspec

from api.auth import Principal, Scope
from api.problems import DuplicateKey, InvalidLine, MalformedRequest, NotFound
from eventstore.codec import MAX_DEPTH, check_job_id
from eventstore.errors import InvalidEvent, Shown
from eventstore.events import NewEvent

MAX_EVENTS: Final = 500
"""Events in one request."""

_FIELDS: Final = frozenset(("type", "step", "attempt", "seq", "occurred_at", "event_id", "data", "actor"))
_FIELDS_OF_MANY: Final = _FIELDS | {"job_id"}
_BODY_DEPTH: Final = MAX_DEPTH + 2  # data is 32 deep; an event around it, an array around that
_LONGEST_INTEGER: Final = 400  # characters; the value of a longer one matters to nobody

_decode: Final = msgspec.json.Decoder().decode
# A string that does not end reaches to the end of the body, else each quote in it would be tried as a beginning.
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS: Final = bytes(ord(char) for char in "[]{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


class Given(NamedTuple):
    """Events with their jobs, in the order of the body. `alone`: the body was one event, not an array of one.
    `lines`: the line of each event, for NDJSON."""

    events: list[tuple[str, NewEvent]]
    alone: bool
    lines: list[int] | None = None

    def where(self, error: InvalidEvent) -> InvalidEvent:
        """The error of an event (`events[3].data.percent`) as the sender of this body knows the place."""
        found = _INDEX.match(error.field)
        if found is None:
            return error
        if self.alone:
            return _moved(error, error.field[found.end() :])
        return error if self.lines is None else on_line(error, self.lines[int(found[1])])

    def without(self, traceparent: str) -> Given:
        """The same events without the trace context that `Reader` put into their data."""
        return self._replace(events=[(job_id, _untraced(event, traceparent)) for job_id, event in self.events])


def _untraced(event: NewEvent, traceparent: str) -> NewEvent:
    if event.data.get("traceparent") is not traceparent:
        return event
    data = {name: value for name, value in event.data.items() if name != "traceparent"}
    return msgspec.structs.replace(event, data=data)


_INDEX: Final = re.compile(r"events\[(\d+)\]\.?")


class Reader:
    """Reads the bodies of one request. `job_id`: of the job route, None where each event names its own.

    `identify(index)` gives the id of an event that has none; `traceparent` is kept in `data` unless there is one.
    """

    __slots__ = ("_fields", "_identify", "_job_id", "_traceparent", "_who")

    def __init__(
        self,
        who: Principal,
        job_id: str | None,
        *,
        identify: Callable[[int], UUID] | None = None,
        traceparent: str | None = None,
    ) -> None:
        self._who, self._job_id, self._identify, self._traceparent = who, job_id, identify, traceparent
        self._fields = _FIELDS_OF_MANY if job_id is None else _FIELDS

    def read_json(self, body: bytes) -> Given:
        """One event or an array. Raises `MalformedRequest`, `DuplicateKey`, `InvalidEvent`, `NotFound`."""
        value = decode(body)
        if type(value) is not list:
            return Given([self._event(value, 0)], True)
        check_count(len(value))
        events = []
        for index, each in enumerate(value):
            try:
                events.append(self._event(each, index))
            except InvalidEvent as error:
                raise error.at(f"events[{index}]") from None
        return Given(events, False)

    def read_lines(self, body: bytes) -> Given:
        """One event per line. Errors name the line besides the index of the event."""
        numbered = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip(b" \t\r")]
        check_count(len(numbered))
        events = []
        for index, (number, line) in enumerate(numbered):
            try:
                events.append(self._event(decode(line), index))
            except InvalidEvent as error:
                raise on_line(error.at(f"events[{index}]"), number) from None
            except MalformedRequest as error:
                raise type(error)(f"line {number}: {error.detail}", line=number, **error.facts) from None
        return Given(events, False, [number for number, _ in numbered])

    def _event(self, given: Any, index: int) -> tuple[str, NewEvent]:
        if type(given) is not dict:
            raise InvalidEvent("", given, "an event: an object with a type", "wrong_type")
        if not self._fields.issuperset(given):
            self._refuse_fields(given)
        kind, data = given.get("type"), given.get("data", _NOTHING)
        if type(kind) is not str:
            raise InvalidEvent("type", kind, "the type of the event", "required" if kind is None else "wrong_type")
        job_id = self._job_id
        if job_id is None:
            if "job_id" not in given:
                raise InvalidEvent("job_id", None, "the job of the event", "required")
            job_id = check_job_id(given["job_id"])
            if not self._who.sees(job_id):
                raise NotFound(self._who.says_absent(job_id))
        actor = given.get("actor")
        if actor is None:
            actor = self._who.key_id
        elif not self._who.may(Scope.ACT_AS):
            raise InvalidEvent("actor", actor, "no actor: that needs a key with the scope act-as", "not_allowed")
        ident, moment = given.get("event_id"), given.get("occurred_at")
        if ident is not None:
            ident = _convert("event_id", ident, UUID, "a UUID", "bad_uuid")
        elif self._identify is not None:
            ident = self._identify(index)
        if moment is not None:
            moment = _convert("occurred_at", moment, datetime, "a time, for example 2026-01-31T12:00:00Z", "bad_time")
        if self._traceparent is not None and type(data) is dict and "traceparent" not in data:
            data = {**data, "traceparent": self._traceparent}
        return job_id, NewEvent(
            type=kind,
            step=given.get("step"),
            attempt=given.get("attempt"),
            seq=given.get("seq"),
            occurred_at=moment,
            event_id=ident,
            data=data,
            actor=actor,
        )

    def _refuse_fields(self, given: dict[str, Any]) -> NoReturn:
        name = next(name for name in given if name not in self._fields)
        if name == "job_id":
            raise InvalidEvent(name, given[name], "no job_id: the address names the job", "unknown_field")
        raise InvalidEvent(name, given[name], f"one of {', '.join(sorted(self._fields))}", "unknown_field")


_NOTHING: Final[dict[str, Any]] = {}


def check_count(count: int) -> None:
    if not 1 <= count <= MAX_EVENTS:
        raise InvalidEvent("events", f"{count} events", f"1 to {MAX_EVENTS} events in a request", "out_of_range")


def decode(body: bytes) -> Any:
    """JSON, strictly: UTF-8 without a byte order mark, each name once in an object, at most 34 levels.

    Numbers that JSON has no room for (NaN, 1e999) are let through as they are, for the codec to refuse them by path.
    """
    outside = _STRINGS.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    if outside.count(b"[") + outside.count(b"{") > _BODY_DEPTH:
        steps = memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")
        if max(accumulate(steps)) > _BODY_DEPTH:
            raise _too_deep()
    try:
        value = _decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _decode_slowly(body, error)
    if _members(value) != outside.count(b":"):
        return _decode_slowly(body, None)
    return value


def _members(value: Any) -> int:
    """Members of all objects in it."""
    if type(value) is dict:
        count = len(value)
        for item in value.values():
            if type(item) is dict or type(item) is list:
                count += _members(item)
        return count
    if type(value) is list:
        return sum(_members(item) for item in value if type(item) is dict or type(item) is list)
    return 0


def _decode_slowly(body: bytes, error: Exception | None) -> Any:
    """What is wrong with a body that the fast decoder refused, or in which a name stands twice.

    Gives it back decoded if only its numbers (or lone surrogates) are wrong: the codec tells where.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as bad:
        raise MalformedRequest(f"the body is not UTF-8 (byte {bad.start})") from None
    if text.startswith("\ufeff"):
        raise MalformedRequest("the body begins with a byte order mark: send UTF-8 without one")
    strange = False

    def integer(digits: str) -> int:
        return int(digits) if len(digits) < _LONGEST_INTEGER else 10**_LONGEST_INTEGER

    def constant(name: str) -> float:
        nonlocal strange
        strange = True
        return float(name)

    try:
        value = json.loads(text, object_pairs_hook=_once, parse_int=integer, parse_constant=constant)
    except json.JSONDecodeError as bad:
        raise MalformedRequest(f"the body is no JSON: {bad.msg} (character {bad.pos})") from None
    except RecursionError:
        raise _too_deep() from None
    if error is None or strange or "out of range" in str(error) or _SURROGATE.search(text):
        return value
    raise MalformedRequest(f"the body is no JSON: {error}")


_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        shown = ascii(name)[:82]
        raise DuplicateKey(f"the name {shown} stands twice in one object", name=shown)
    return found


def _too_deep() -> InvalidEvent:
    return InvalidEvent("data", "…", f"at most {MAX_DEPTH} levels of nesting", "too_deep")


def _convert(field: str, given: Any, kind: type[Any], rule: str, code: str) -> Any:
    if type(given) is not str:
        raise InvalidEvent(field, given, rule, "wrong_type")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError:
        raise InvalidEvent(field, given, rule, code) from None
    except UnicodeEncodeError:
        raise InvalidEvent(field, given, rule, "not_unicode") from None


def _moved(error: InvalidEvent, field: str) -> InvalidEvent:
    return InvalidEvent(field, Shown(error.given), error.rule, error.rule_code)


def on_line(error: InvalidEvent, line: int) -> InvalidLine:
    """The same error, with the number of its line as a fact."""
    told = InvalidLine(error.field, Shown(error.given), error.rule, error.rule_code)
    told.line = line
    return told
