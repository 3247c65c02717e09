"""The problems that there are, from the table of `api.problems`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from api.problems import INTERNAL, TABLE, Kind

INTERNAL_CODE: Final = "internal_error"
ANYWHERE: Final = frozenset((414, 431))
"""Statuses that the edge may answer to any request."""
KEYED: Final = frozenset((400, 401, 403, 503))
"""Statuses of every route that looks at the log."""


class ProblemKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of problem. `meaning`: what led to it; `retry_after`: seconds, for what may work later."""

    code: str
    status: int
    title: str
    meaning: str
    retry_after: int | None


@lru_cache(maxsize=1)
def kinds() -> tuple[ProblemKind, ...]:
    """All kinds, by status and code."""
    found = {_code(error): _kind(_code(error), kind, error.__doc__) for error, kind in TABLE.items()}
    found[INTERNAL_CODE] = _kind(INTERNAL_CODE, INTERNAL, "Nobody foresaw it; the server's log has the reason.")
    return tuple(sorted(found.values(), key=lambda kind: (kind.status, kind.code)))


def _code(error: type[Exception]) -> str:
    return str(getattr(error, "code", INTERNAL_CODE))


def _kind(code: str, kind: Kind, meaning: str | None) -> ProblemKind:
    text = " ".join((meaning or "").split()).replace("`rule_code`", "`code`")
    return ProblemKind(code=code, status=kind.status, title=kind.title, meaning=text, retry_after=kind.retry_after)


def problem_schema() -> dict[str, Any]:
    """Of every answer with `application/problem+json`."""
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457). Further members are facts: `field`, `rule`, `actual`, `common` …",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string", "enum": [f"/problems/{kind.code}" for kind in kinds()]},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {
                "type": "string",
                "pattern": "^[a-z_]{1,60}$",
                "description": "The last part of `type`; of `invalid_event` the word for the rule: `out_of_range`, …",
            },
            "detail": {"type": "string", "description": "What to do about it"},
            "request_id": {"type": "string"},
            "field": {"type": "string", "description": "The path of what breaks a rule: `events[3].data.percent`"},
        },
    }
