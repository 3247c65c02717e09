"""From what a caller gives to what the log stores: validation of the envelope, canonical text, digest.

Canonical text is RFC 8785 (JSON Canonicalization Scheme): keys sorted by UTF-16 code units, shortest numbers as
ECMAScript writes them, -0 is 0. It is what is stored, hashed and compared, so a retry with other spacing or key order
is still a retry.
"""

from __future__ import annotations

import math
import operator
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from eventstore import chain
from eventstore.errors import InvalidEvent
from eventstore.events import EVENT_TYPES, LOG_JOB, NewEvent, to_us

MAX_INT: Final = 2**53
MAX_DEPTH: Final = 32
MAX_DATA: Final = 64 * 1024  # bytes of canonical text
MAX_STACK: Final = 32 * 1024  # bytes; longer stacks keep head and tail
MAX_STEP: Final = 200  # characters
MAX_ACTOR: Final = 200  # characters
MIN_US: Final = -62_135_596_800_000_000  # 0001-01-01
MAX_US: Final = 253_402_300_799_999_999  # 9999-12-31

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_LOG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder().decode


class Prepared:
    """An event on its way into the log: checked, canonical, digested. The committer fills in the lower half."""

    __slots__ = (
        "actor", "applied", "attempt", "data", "digest", "event_id", "hash", "job_id", "occurred_us", "position",
        "ppm", "reason", "recorded_us", "salt", "seq", "step", "text", "type", "version",
    )  # fmt: skip

    job_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    data: dict[str, Any]
    text: bytes
    actor: str | None
    occurred_us: int | None
    event_id: bytes
    salt: bytes
    digest: bytes
    recorded_us: int
    position: int
    version: int
    applied: bool
    reason: str | None
    ppm: int
    hash: bytes


def prepare(
    job_id: str,
    event: NewEvent,
    *,
    check: Callable[[NewEvent], None] | None = None,
    redact: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Prepared:
    """Check one report and make it ready to be appended. Raises `InvalidEvent` with the path of the field.

    `redact` may replace texts before anything is digested; `check` knows the rules of each type's `data`.
    """
    ready = Prepared()
    ready.job_id = job_id
    ready.type = kind = event.type
    if type(kind) is not str or kind not in EVENT_TYPES:
        import difflib

        near = difflib.get_close_matches(kind[:50], EVENT_TYPES, 1) if isinstance(kind, str) else []
        example = near[0] if near else "step.progressed"
        raise InvalidEvent("type", kind, f"an event type of version 1, for example {example}", "unknown_type")
    step = event.step
    if step is not None:
        check_step(step)
    ready.step = step
    ready.attempt = _small_int("attempt", event.attempt, 1, 2**31 - 1)
    ready.seq = _small_int("seq", event.seq, 0, 2**31 - 1)
    ready.actor = event.actor
    if event.actor is not None:
        _line("actor", event.actor, MAX_ACTOR)
    ready.occurred_us = None if event.occurred_at is None else _moment("occurred_at", event.occurred_at)
    given_id = event.event_id
    if given_id is None:
        ready.event_id = uuid7()
    elif not isinstance(given_id, UUID) or given_id.int == 0:
        raise InvalidEvent("event_id", given_id, "a UUID that is not nil", "wrong_type")
    else:
        ready.event_id = given_id.bytes
    data = event.data
    if type(data) is not dict:
        raise InvalidEvent("data", data, "an object", "wrong_type")
    if redact is not None:
        data = redact(data)
    ready.data, ready.text = canonical(data)
    if check is not None:
        check(event if data is event.data else msgspec.structs.replace(event, data=data))
    ready.salt, ready.digest = digest_of(ready.text)
    return ready


def digest_of(text: bytes) -> tuple[bytes, bytes]:
    """A fresh salt, and the digest that stands for the text in the chain."""
    salt = noise()
    return salt, chain.digest(salt, text)


def canonical(data: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """`data` as the log keeps it, decoded and as canonical text. Raises `InvalidEvent` for what JSON can't hold.

    Decoded means from the text, so that what is folded now is what a rebuild will fold, whatever the caller does to
    its own objects meanwhile. A stack above 32 KiB is cut in the middle and marked; everything else above its limit is
    refused.
    """
    error = data.get("error")
    if type(error) is dict and type(error.get("stack")) is str and len(error["stack"]) > MAX_STEP:
        data = {**data, "error": {**error, "stack": cut_middle(error["stack"], MAX_STACK)}}
    plain = _object(data, "data", 1)
    try:
        text = _encode(plain)
    except UnicodeEncodeError:
        raise _bad_text(data, "data") from None
    if b"\\u0000" in text and (bad := _find_text(data, "data", "\0")) is not None:
        raise InvalidEvent(bad[0], bad[1], "text without NUL characters", "nul_not_allowed")
    if len(text) > MAX_DATA:
        raise InvalidEvent("data", f"{len(text)} bytes", f"at most {MAX_DATA} bytes as JSON", "too_long")
    return _decode(text), text


def _object(value: dict[str, Any], path: str, depth: int) -> Any:
    """The object with numbers as the encoder must see them. Copies only if something changes."""
    changed: dict[str, Any] | None = None
    astral = False
    for key, item in value.items():
        if type(key) is not str:
            raise InvalidEvent(path, key, "text as the name of a member", "wrong_type")
        if not key.isascii() and max(key) > "\uffff":
            astral = True
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        kept = _value(item, f"{path}.{key}", depth)
        if kept is not item:
            changed = dict(value) if changed is None else changed
            changed[key] = kept
    plain = value if changed is None else changed
    if not astral:
        return plain
    # UTF-8 order, in which the encoder sorts, puts U+E000-U+FFFF before the astral planes; UTF-16 order puts it after.
    names = sorted(plain, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    try:
        members = [_encode(name) + b":" + _encode(plain[name]) for name in names]
    except UnicodeEncodeError:
        raise _bad_text(value, path) from None
    return msgspec.Raw(b"{" + b",".join(members) + b"}")


def _value(item: Any, path: str, depth: int) -> Any:
    kind = type(item)
    if kind is int:
        if not -MAX_INT <= item <= MAX_INT:
            raise InvalidEvent(path, item, "an integer from -2^53 to 2^53", "out_of_range")
        return item
    if kind is float:
        return _number(item, path)
    if kind is dict or kind is list or kind is tuple:
        if depth >= MAX_DEPTH:
            raise InvalidEvent(path, "…", f"at most {MAX_DEPTH} levels of nesting", "too_deep")
        if kind is dict:
            return _object(item, path, depth + 1)
        return _array(item, path, depth + 1)
    if kind is str or kind is bool or item is None:
        return item
    raise InvalidEvent(path, item, f"a JSON value, not {kind.__name__}", "wrong_type")


def _array(items: list[Any] | tuple[Any, ...], path: str, depth: int) -> Any:
    kept = [_value(item, f"{path}[{index}]", depth) for index, item in enumerate(items)]
    return kept if any(map(operator.is_not, kept, items)) else items


def _number(value: float, path: str) -> Any:
    if not math.isfinite(value):
        raise InvalidEvent(path, value, "a finite number", "not_finite")
    size = abs(value)
    if value.is_integer() and size <= MAX_INT:
        return int(value)
    if 1e-5 <= size <= MAX_INT:
        return value
    return msgspec.Raw(es_number(value).encode())


def es_number(value: float) -> str:
    """A finite double as ECMAScript's Number::toString writes it (RFC 8785, section 3.2.2.3)."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return sign + digits[0] + (f".{digits[1:]}" if count > 1 else "") + power


def check_job_id(job_id: object, field: str = "job_id") -> str:
    """The id, or `InvalidEvent`. Ids differ if their characters differ: no case folding, no normalisation."""
    if type(job_id) is not str:
        raise InvalidEvent(field, job_id, "text", "wrong_type")
    if _JOB_ID.fullmatch(job_id) is None:
        rule = "1 to 200 of A-Z a-z 0-9 . _ : @ -, beginning with a letter or digit"
        raise InvalidEvent(field, job_id, rule, "bad_job_id")
    if job_id == LOG_JOB:
        raise InvalidEvent(field, job_id, "any other id: this one belongs to the log itself", "reserved")
    return job_id


def check_log(name: object) -> str:
    """The log's name, or `InvalidEvent`."""
    if type(name) is not str or _LOG.fullmatch(name) is None:
        raise InvalidEvent("log", name, "1 to 63 of a-z 0-9 _ -, beginning with a letter or digit", "bad_log")
    return name


def check_step(step: object) -> None:
    """`InvalidEvent` unless the step's name is 1-200 characters, without controls, no blank at either end."""
    if type(step) is not str:
        raise InvalidEvent("step", step, "text", "wrong_type")
    _line("step", step, MAX_STEP)
    if step != step.strip():
        raise InvalidEvent("step", step, "no blank at either end", "blank_at_end")


def _line(field: str, text: object, limit: int) -> None:
    if type(text) is not str:
        raise InvalidEvent(field, text, "text", "wrong_type")
    if not 1 <= len(text) <= limit:
        raise InvalidEvent(field, text, f"1 to {limit} characters", "too_long" if text else "empty")
    if "\0" in text:
        raise InvalidEvent(field, text, "text without NUL characters", "nul_not_allowed")
    if _CONTROL.search(text):
        raise InvalidEvent(field, text, "text without control characters", "control_not_allowed")
    if not text.isascii() and _surrogate(text):
        raise InvalidEvent(field, text, "valid Unicode, no lone surrogates", "not_unicode")


def _small_int(field: str, value: object, low: int, high: int) -> int | None:
    if value is None:
        return None
    if type(value) is not int:
        raise InvalidEvent(field, value, "an integer", "wrong_type")
    if not low <= value <= high:
        raise InvalidEvent(field, value, f"an integer from {low} to {high}", "out_of_range")
    return value


def _moment(field: str, value: object) -> int:
    if not isinstance(value, datetime):
        raise InvalidEvent(field, value, "a time", "wrong_type")
    if value.tzinfo is None:
        raise InvalidEvent(field, value.isoformat(), "a time with a zone, for example 2026-01-31T12:00:00Z", "no_zone")
    us = to_us(value)
    if not MIN_US <= us <= MAX_US:
        raise InvalidEvent(field, value.isoformat(), "a time from year 1 to 9999 in UTC", "out_of_range")
    return us


def cut_middle(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8: head and tail kept, the middle marked. Never cuts a character."""
    raw = text.encode("utf-8", "surrogatepass")
    if len(raw) <= limit:
        return text
    mark = f"\n… {len(raw) - limit} bytes left out …\n"
    room = limit - len(mark.encode())
    head = raw[: room // 2].decode("utf-8", "ignore")
    tail = raw[-(room - room // 2) :].decode("utf-8", "ignore")
    return head + mark + tail


def _surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _bad_text(data: object, path: str) -> InvalidEvent:
    found = _find_text(data, path, None)
    where, given = found if found is not None else (path, "text")
    return InvalidEvent(where, given, "valid Unicode, no lone surrogates", "not_unicode")


def _find_text(value: object, path: str, needle: str | None) -> tuple[str, str] | None:
    """Where a text holds `needle` (None: a lone surrogate), with the text."""
    match value:
        case str():
            if _surrogate(value) if needle is None else needle in value:
                return path, value
        case Mapping():
            for key, item in value.items():
                if found := _find_text(key, path, needle) or _find_text(item, f"{path}.{key}", needle):
                    return found
        case list() | tuple():
            for index, item in enumerate(value):
                if found := _find_text(item, f"{path}[{index}]", needle):
                    return found
        case _:
            pass
    return None


def uuid7(now: Callable[[], int] = time.time_ns) -> bytes:
    """A UUID of version 7 (RFC 9562): milliseconds, then random, so that new ids go to the end of the index."""
    ms = now() // 1_000_000
    drawn = noise()
    return ms.to_bytes(6, "big") + bytes((0x70 | drawn[0] & 0x0F, drawn[1], 0x80 | drawn[2] & 0x3F)) + drawn[3:10]


def noise() -> bytes:
    """16 bytes from the system's generator, drawn 256 at a time: each call of it lets go of the interpreter's lock."""
    try:
        return _drawn.popleft()
    except IndexError:
        block = os.urandom(4096)
        _drawn.extend(block[start : start + 16] for start in range(16, 4096, 16))
        return block[:16]


_drawn: Final[deque[bytes]] = deque()
os.register_at_fork(after_in_child=_drawn.clear)
