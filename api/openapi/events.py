"""What may be appended, as JSON schemas: an envelope for each type of event, with the `data` that the type has.

The rules are those of `eventstore.codec` and `projections.check`; a test holds the names of the members against theirs.
What a schema can't say (bytes instead of characters, each step once in a plan) is told in words, and refused with 422.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api.parameters import JOB_ID, TIME
from eventstore.codec import MAX_ACTOR, MAX_INT, MAX_STEP
from eventstore.events import EVENT_TYPES
from projections.check import LEVELS, MAX_MESSAGE, MAX_METADATA_KEYS
from projections.check_plan import MAX_LABEL, MAX_WEIGHT, MIN_WEIGHT

Schema = dict[str, Any]

_INNER: Final = "[^\\u0000-\\u001f\\u007f-\\u009f]"
_EDGE: Final = "[^\\s\\u0000-\\u001f\\u007f-\\u009f]"
NO_NUL: Final = "^[^\\u0000]*$"
MAX_SMALL: Final = 2**31 - 1


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    if isinstance(kind := schema.get("type"), str) and "enum" not in schema:
        return schema | {"type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _bytes(limit: int, **more: Any) -> Schema:
    return {
        "type": "string",
        "maxLength": limit,
        "pattern": NO_NUL,
        "description": f"At most {limit:,} bytes of UTF-8",
    } | more


STEP: Final[Schema] = {
    "type": "string", "minLength": 1, "maxLength": MAX_STEP,
    "pattern": f"^{_EDGE}({_INNER}{{0,{MAX_STEP - 2}}}{_EDGE})?$",
    "description": "The name of a step: no controls, no blank at either end",
}  # fmt: skip
_LABEL: Final = _bytes(MAX_LABEL)
_MESSAGE: Final = _bytes(MAX_MESSAGE)
_PERCENT: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 100}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
_TIME: Final[Schema] = {"type": "string", "format": "date-time", "pattern": TIME}
_WEIGHT: Final[Schema] = {"type": "number", "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT}

SHARED: Final[dict[str, Schema]] = {
    "StepName": STEP,
    "Metadata": {
        "type": "object", "maxProperties": MAX_METADATA_KEYS,
        "description": "Merged into what the step or job has, member by member; at most 16 KiB as JSON",
    },
    "ErrorInfo": {
        "type": "object", "required": ["message"],
        "properties": {
            "message": _MESSAGE,
            "type": _or_null(_LABEL),
            "stack": {"type": ["string", "null"], "description": "Of a long one head and tail are kept"},
            "code": {"type": ["string", "integer", "null"], "maxLength": MAX_LABEL},
        },
    },
    "PlannedStep": {
        "type": "object", "required": ["step"],
        "properties": {
            "step": ref("StepName"),
            "parent": _or_null(ref("StepName")),
            "label": _or_null(_LABEL),
            "weight": _or_null(_WEIGHT),
            "range": _or_null({
                "type": "array", "items": _PERCENT, "minItems": 2, "maxItems": 2,
                "description": "[start, end] in percent of its group, instead of a weight",
            }),
        },
    },
}  # fmt: skip

_DATA: Final[dict[str, Schema]] = {
    "steps": {"type": "array", "items": ref("PlannedStep"), "description": "Each step once; groups at most 16 deep"},
    "title": _LABEL,
    "kind": _LABEL,
    "auto_complete": {
        "type": "boolean",
        "description": "Default true: the last step that ends completes the job; `job.completed` after it is `already`",
    },
    "continues": {"type": "string", "pattern": JOB_ID},
    "worker": _LABEL,
    "message": _MESSAGE,
    "percent": _PERCENT,
    "metadata": ref("Metadata"),
    "reason": _MESSAGE,
    "until": _TIME,
    "level": {"type": "string", "enum": list(LEVELS)},
    "error": ref("ErrorInfo"),
    "by": _LABEL,
    "label": _LABEL,
    "weight": _WEIGHT,
    "parent": ref("StepName"),
    "after": ref("StepName"),
    "retry_at": _TIME,
    "done": _COUNT,
    "total": _COUNT,
    "unit": _LABEL,
}
_WAIT: Final = "reason until"
_WHY: Final = "reason by"
_NOTE: Final = "level! message!"
_PROGRESS: Final = "message metadata unit"
MEMBERS: Final[dict[str, str]] = {
    "job.planned": "steps! title kind auto_complete continues",
    "job.started": "worker",
    "job.progressed": "percent! message metadata",
    "job.waiting": _WAIT,
    "job.resumed": _WAIT,
    "job.noted": _NOTE,
    "job.completed": "message",
    "job.failed": "error! message",
    "job.cancelled": _WHY,
    "job.reopened": _WHY,
    "step.added": "label weight parent after",
    "step.started": "worker message",
    "step.progressed": "percent done total unit message metadata",
    "step.waiting": _WAIT,
    "step.resumed": _WAIT,
    "step.noted": _NOTE,
    "step.completed": "message",
    "step.failed": "error! retry_at message",
    "step.skipped": _WHY,
    "step.cancelled": _WHY,
    "step.reset": _WHY,
    "step.removed": _WHY,
}
"""The members of each type's `data` that mean something; ! marks those that must be there."""
assert MEMBERS.keys() == EVENT_TYPES


def members_of(kind: str) -> dict[str, bool]:
    """The members of a type's `data`, and whether each must be there."""
    return {name.removesuffix("!"): name.endswith("!") for name in MEMBERS[kind].split()}


def data_of(kind: str) -> Schema:
    """The schema of a type's `data`. Members that mean nothing are kept."""
    if kind == "step.progressed":
        return _progress()
    members = members_of(kind)
    found: Schema = {
        "type": "object",
        "properties": {name: _DATA[name] if must else _or_null(_DATA[name]) for name, must in members.items()},
    }
    if needed := [name for name, must in members.items() if must]:
        found["required"] = needed
    return found


def _progress() -> Schema:
    """A percentage, or a count: not both."""
    common = {name: _or_null(_DATA[name]) for name in _PROGRESS.split()}
    return {
        "oneOf": [
            {
                "type": "object", "required": ["percent"], "title": "percent",
                "properties": {"percent": _PERCENT, **common, "done": False, "total": False},
            },
            {
                "type": "object", "required": ["done"], "title": "count",
                "properties": {"done": _COUNT, "total": _or_null(_COUNT), **common, "percent": False},
            },
        ]
    }  # fmt: skip


def _title(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("."))


def event_schemas() -> dict[str, Schema]:
    """Components: `NewEvent` and `NewEventOfJob` (with its `job_id`), and what they refer to."""
    found = dict(SHARED)
    for kind in sorted(MEMBERS):
        found[f"{_title(kind)}Data"] = data_of(kind)
    found["NewEvent"] = {
        "oneOf": [_envelope(kind, {}) for kind in sorted(MEMBERS)],
        "description": "A report about one job. Other members than these are refused; null means: not given.",
    }
    job_id = {"job_id": {"type": "string", "pattern": JOB_ID}}
    found["NewEventOfJob"] = {
        "oneOf": [_envelope(kind, job_id) for kind in sorted(MEMBERS)],
        "description": "`NewEvent` with the job that it is about.",
    }
    return found


def _envelope(kind: str, more: Mapping[str, Schema]) -> Schema:
    needs = [*more, "type"]
    properties: Schema = {"type": {"const": kind}, **more}
    if kind.startswith("step."):
        needs.append("step")
        properties["step"] = ref("StepName")
    else:
        properties["step"] = {"type": "null"}
    if any(members_of(kind).values()) or kind == "step.progressed":
        needs.append("data")
    properties |= {
        "attempt": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_SMALL},
        "seq": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_SMALL},
        "occurred_at": _or_null(_TIME),
        "event_id": {"type": ["string", "null"], "format": "uuid", "description": "Any UUID but the nil one"},
        "data": ref(f"{_title(kind)}Data"),
        "actor": {
            "type": ["string", "null"], "minLength": 1, "maxLength": MAX_ACTOR, "pattern": f"^{_INNER}+$",
            "description": "Who reports; left out: the key. Needs a key with the scope act-as",
        },
    }  # fmt: skip
    return {"type": "object", "title": kind, "required": needs, "properties": properties, "additionalProperties": False}
