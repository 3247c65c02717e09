"""Parameters of the query, declared once: how each is read, what it must be, and how the OpenAPI document shows it.

    given = read(exchange, (LIMIT, PREFIX))
    given["limit"], given["prefix"]

A parameter that the route does not have, or that stands twice without being a list, is a 400 that names it: a slip of
the pen never becomes an answer to another question.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from api.problems import MalformedRequest
from api.requests import Exchange
from eventstore.cursor import Cursor, Where, parse_cursor
from eventstore.errors import InvalidCursor, shorten
from projections.audit_text import MAX_TEXT

MOST: Final = 50
"""How often a parameter may be repeated that is a list."""
JOB_ID: Final = "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}$"
CURSOR: Final = "^(|-1|now|0|[1-9][0-9]{0,14}|[1-8][0-9]{15}|[0-9]{4,9}_[0-8][0-9]{15}_[0-9a-f]{8})$"
TIME: Final = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
TIME_RULE: Final = "a time with a zone, for example 2026-01-31T12:00:00Z (in an address + is written %2B)"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter. `parse` raises ValueError with the rule that is broken; `many`: may be repeated, gives a tuple."""

    name: str
    purpose: str
    parse: Callable[[str], Any]
    schema: dict[str, Any]
    many: bool = False
    default: Any = None
    example: Any = None


def read(exchange: Exchange, known: Sequence[Parameter]) -> dict[str, Any]:
    """The value of each known parameter, or its default. Raises `MalformedRequest`."""
    query = exchange.query
    by_name = {parameter.name: parameter for parameter in known}
    for name in query:
        if name not in by_name:
            raise _unknown(name, by_name)
    values: dict[str, Any] = {}
    for name, parameter in by_name.items():
        given = query.get(name)
        if given is None:
            values[name] = parameter.default
        elif parameter.many:
            if len(given) > MOST:
                raise MalformedRequest(f"{name}: give it at most {MOST} times", field=name)
            values[name] = tuple(_parsed(parameter, text) for text in given)
        elif len(given) > 1:
            raise MalformedRequest(f"{name}: give it once", field=name)
        else:
            values[name] = _parsed(parameter, given[0])
    return values


def _parsed(parameter: Parameter, text: str) -> Any:
    try:
        return parameter.parse(text)
    except InvalidCursor:
        raise
    except ValueError as error:
        shown = str(shorten(text))
        raise MalformedRequest(
            f"{parameter.name}: give {error}; given {shown}", field=parameter.name, given=shown, rule=str(error)
        ) from None


def _unknown(name: str, known: dict[str, Parameter]) -> MalformedRequest:
    near = difflib.get_close_matches(name[:50], known, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    takes = ", ".join(known) or "none"
    return MalformedRequest(
        f"{shorten(name)}: there is no such parameter. {hint}This route takes: {takes}",
        field=name[:100],
        known=sorted(known),
    )


# -- kinds of values -----------------------------------------------------------------------------------------------


def whole(
    name: str, purpose: str, low: int, high: int, default: int | None = None, example: int | None = None
) -> Parameter:
    """A whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if re.fullmatch("0|[1-9][0-9]{0,17}", text, re.ASCII) is None or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low:,} to {high:,}")
        return int(text)

    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    if default is not None:
        schema["default"] = default
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, default=default, example=example)


def choice(
    name: str, purpose: str, among: Sequence[str], default: str | None = None, *, many: bool = False
) -> Parameter:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in among:
            raise ValueError(f"one of {', '.join(among)}")
        return text

    schema: dict[str, Any] = {"type": "string", "enum": list(among)}
    if default is not None:
        schema["default"] = default
    return Parameter(
        name=name, purpose=purpose, parse=parse, schema=schema, many=many, default=default, example=among[0]
    )


def switch(name: str, purpose: str, default: bool | None = None) -> Parameter:
    """true or false."""

    def parse(text: str) -> bool:
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"

    schema: dict[str, Any] = {"type": "boolean"}
    if default is not None:
        schema["default"] = default
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, default=default)


def text(
    name: str, purpose: str, longest: int = MAX_TEXT, *, many: bool = False, example: str | None = None
) -> Parameter:
    """What people wrote: 1 to `longest` characters without NUL."""

    def parse(given: str) -> str:
        if not 1 <= len(given) <= longest or "\0" in given:
            raise ValueError(f"a text of 1 to {longest:,} characters without NUL")
        return given

    schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": "^[^\\u0000]*$"}
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, many=many, example=example)


def matching(
    name: str, purpose: str, pattern: str, rule: str, *, many: bool = False, example: str | None = None
) -> Parameter:
    """A text of a pattern (ECMA 262 and Python agree on it)."""
    compiled = re.compile(pattern.removeprefix("^").removesuffix("$"), re.ASCII)

    def parse(given: str) -> str:
        if compiled.fullmatch(given) is None:
            raise ValueError(rule)
        return given

    schema = {"type": "string", "pattern": pattern}
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, many=many, example=example)


def place(name: str, purpose: str, *, example: str = "41") -> Parameter:
    """A cursor, a position, -1, now or nothing. Raises the log's own error for garbage."""
    schema = {"type": "string", "pattern": CURSOR}
    return Parameter(name=name, purpose=purpose, parse=parse_cursor, schema=schema, example=example)


def moment(name: str, purpose: str, *, example: str = "2026-01-31T12:00:00Z") -> Parameter:
    """A time with a zone."""
    schema = {"type": "string", "format": "date-time", "pattern": TIME}
    return Parameter(name=name, purpose=purpose, parse=parse_time, schema=schema, example=example)


def place_or_moment(name: str, purpose: str, *, example: str = "41") -> Parameter:
    """A cursor or position of the log, or a time with a zone."""

    def parse(given: str) -> Cursor | Where | datetime:
        if re.match("[0-9]{4}-[0-9]{2}-", given):
            return parse_time(given)
        try:
            return parse_cursor(given)
        except InvalidCursor:
            raise ValueError(f"a position or cursor of the log, or {TIME_RULE}") from None

    schema = {
        "type": "string",
        "anyOf": [{"pattern": CURSOR}, {"format": "date-time", "pattern": TIME}],
    }
    return Parameter(name=name, purpose=purpose, parse=parse, schema=schema, example=example)


_ZONED: Final = Annotated[datetime, msgspec.Meta(tz=True)]


def parse_time(given: str) -> datetime:
    """An RFC 3339 time with a zone, in UTC. Raises ValueError."""
    if re.fullmatch(TIME.removeprefix("^").removesuffix("$"), given, re.ASCII) is None:
        raise ValueError(TIME_RULE)
    try:
        moment: datetime = msgspec.convert(given, _ZONED)
        return moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(TIME_RULE) from None


def words(kind: type[enum.Enum]) -> tuple[str, ...]:
    return tuple(member.value for member in kind)
