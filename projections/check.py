"""What the `data` of each event type must look like; asked in the caller, before anything is queued.

Errors name the path (`data.steps[3].weight`), what was given and the rule. Members without a meaning are kept and
ignored; a member with a meaning that is null counts as absent, except where a number is what the report is about.
The envelope (ids, attempt, seq, sizes, depth, NUL, surrogates) is `eventstore.codec`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from eventstore.codec import MAX_INT, check_job_id
from eventstore.errors import InvalidEvent
from eventstore.events import NewEvent
from projections.check_plan import MAX_LABEL, check_entries, check_name, check_weight
from projections.numbers import is_finite, moment
from projections.state import json_text

MAX_MESSAGE: Final = 8 * 1024  # bytes of UTF-8
MAX_METADATA: Final = 16 * 1024  # bytes as JSON
MAX_METADATA_KEYS: Final = 64
MAX_METADATA_KEY: Final = 128  # bytes of UTF-8
LEVELS: Final = ("debug", "info", "warning", "error")

Data = dict[str, Any]


def check(event: NewEvent) -> None:
    """Raise `InvalidEvent` unless the event's `data`, and whether it names a step, follow the rules of its type."""
    kind = event.type
    data = event.data
    if kind == "step.progressed":
        if event.step is None:
            raise InvalidEvent("step", None, "the name of the step", "required")
        _progressed(data)
        return
    rules = _RULES.get(kind)
    if rules is None:
        raise InvalidEvent("type", kind, "an event type of version 1, for example step.progressed", "unknown_type")
    if kind.startswith("step."):
        if event.step is None:
            raise InvalidEvent("step", None, "the name of the step", "required")
    elif event.step is not None:
        raise InvalidEvent("step", event.step, f"no step: {kind} is about the job", "not_allowed")
    for name, rule in rules.items():
        value = data.get(name)
        if value is not None:
            rule(value, f"data.{name}")
        elif name in _REQUIRED.get(kind, ()):
            if name in data:
                raise InvalidEvent(f"data.{name}", None, "a value, not null", "wrong_type")
            raise InvalidEvent(f"data.{name}", None, f"{kind} needs it", "required")
    if kind == "step.added" and data.get("parent") == event.step:
        raise InvalidEvent("data.parent", event.step, "another step: none is its own parent", "cycle")


def _progressed(data: Data) -> None:
    if "percent" in data:
        _percent(data["percent"], "data.percent")
        if "done" in data or "total" in data:
            raise InvalidEvent("data.percent", data["percent"], "either percent, or done and total", "not_allowed")
        if len(data) == 1:
            return
    elif "done" in data:
        done = data["done"]
        if type(done) is not int or not 0 <= done <= MAX_INT:
            _integer(done, "data.done")
        total = data.get("total")
        if total is not None and (type(total) is not int or not 0 <= total <= MAX_INT):
            _integer(total, "data.total")
    else:
        raise InvalidEvent("data.percent", None, "step.progressed needs percent, or done", "required")
    message = data.get("message")
    if message is not None and (type(message) is not str or len(message) > _SURELY_SHORT):
        _message(message, "data.message")
    metadata = data.get("metadata")
    if metadata is not None:
        _metadata(metadata, "data.metadata")
    unit = data.get("unit")
    if unit is not None:
        _label(unit, "data.unit")


_SURELY_SHORT: Final = MAX_MESSAGE // 4


def _percent(value: object, field: str) -> None:
    if type(value) is not int and type(value) is not float:
        raise InvalidEvent(field, value, "a number from 0 to 100", "wrong_type")
    if not 0 <= value <= 100:
        if not is_finite(value):
            raise InvalidEvent(field, value, "a finite number from 0 to 100", "not_finite")
        raise InvalidEvent(field, value, "a number from 0 to 100", "out_of_range")


def _integer(value: object, field: str) -> None:
    rule = "an integer from 0 to 2^53"
    if type(value) is not int:
        finite = type(value) is not float or is_finite(value)
        raise InvalidEvent(field, value, rule, "wrong_type" if finite else "not_finite")
    if not 0 <= value <= MAX_INT:
        raise InvalidEvent(field, value, rule, "out_of_range")


def _text(value: object, field: str, limit: int) -> None:
    if type(value) is not str:
        raise InvalidEvent(field, value, "text", "wrong_type")
    if len(value) * 4 > limit and len(value.encode("utf-8", "surrogatepass")) > limit:
        raise InvalidEvent(field, value, f"at most {limit} bytes of UTF-8", "too_long")


def _message(value: object, field: str) -> None:
    _text(value, field, MAX_MESSAGE)


def _label(value: object, field: str) -> None:
    _text(value, field, MAX_LABEL)


def _metadata(value: object, field: str) -> None:
    if type(value) is not dict:
        raise InvalidEvent(field, value, "an object", "wrong_type")
    if len(value) > MAX_METADATA_KEYS:
        raise InvalidEvent(field, f"{len(value)} members", f"at most {MAX_METADATA_KEYS} members", "too_long")
    for key in value:
        if type(key) is not str:
            raise InvalidEvent(field, key, "text as the name of a member", "wrong_type")
        if len(key.encode("utf-8", "surrogatepass")) > MAX_METADATA_KEY:
            raise InvalidEvent(field, key, f"names of members of at most {MAX_METADATA_KEY} bytes", "too_long")
    size = len(json_text(value).encode())
    if size > MAX_METADATA:
        raise InvalidEvent(field, f"{size} bytes", f"at most {MAX_METADATA} bytes as JSON", "too_long")


def _error(value: object, field: str) -> None:
    if type(value) is not dict:
        raise InvalidEvent(field, value, "an object with a message", "wrong_type")
    if value.get("message") is None:
        raise InvalidEvent(f"{field}.message", None, "an error needs a message", "required")
    _message(value["message"], f"{field}.message")
    if value.get("type") is not None:
        _label(value["type"], f"{field}.type")
    if value.get("stack") is not None and type(value["stack"]) is not str:
        raise InvalidEvent(f"{field}.stack", value["stack"], "text", "wrong_type")
    if value.get("code") is not None and type(value["code"]) is not int:
        _label(value["code"], f"{field}.code")


def _moment(value: object, field: str) -> None:
    if type(value) is not str:
        raise InvalidEvent(field, value, "a time as text, for example 2026-01-31T12:00:00Z", "wrong_type")
    if moment(value) is None:
        raise InvalidEvent(field, value, "a time with a zone, for example 2026-01-31T12:00:00Z", "bad_time")


def _bool(value: object, field: str) -> None:
    if type(value) is not bool:
        raise InvalidEvent(field, value, "true or false", "wrong_type")


def _level(value: object, field: str) -> None:
    if value not in LEVELS:
        raise InvalidEvent(field, value, "debug, info, warning or error", "unknown_value")


def _job_id(value: object, field: str) -> None:
    check_job_id(value, field)


Rule = Callable[[object, str], None]
_WAIT: Final[dict[str, Rule]] = {"reason": _message, "until": _moment}
_WHY: Final[dict[str, Rule]] = {"reason": _message, "by": _label}
_NOTE: Final[dict[str, Rule]] = {"level": _level, "message": _message}
_RULES: Final[dict[str, dict[str, Rule]]] = {
    "job.planned": {
        "steps": check_entries,
        "title": _label,
        "kind": _label,
        "auto_complete": _bool,
        "continues": _job_id,
    },
    "job.started": {"worker": _label},
    "job.progressed": {"percent": _percent, "message": _message, "metadata": _metadata},
    "job.waiting": _WAIT,
    "job.resumed": _WAIT,
    "job.noted": _NOTE,
    "job.completed": {"message": _message},
    "job.failed": {"error": _error, "message": _message},
    "job.cancelled": _WHY,
    "job.reopened": _WHY,
    "step.added": {"label": _label, "weight": check_weight, "parent": check_name, "after": check_name},
    "step.started": {"worker": _label, "message": _message},
    "step.progressed": {},
    "step.waiting": _WAIT,
    "step.resumed": _WAIT,
    "step.noted": _NOTE,
    "step.completed": {"message": _message},
    "step.failed": {"error": _error, "retry_at": _moment, "message": _message},
    "step.skipped": _WHY,
    "step.cancelled": _WHY,
    "step.reset": _WHY,
    "step.removed": _WHY,
}
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "job.planned": ("steps",),
    "job.progressed": ("percent",),
    "job.noted": ("level", "message"),
    "step.noted": ("level", "message"),
    "job.failed": ("error",),
    "step.failed": ("error",),
}
