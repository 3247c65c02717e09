"""What an auditor asks for, checked: `audit_filter(job="build:7", types=["step.*"], since=…, text="推送")`."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from eventstore.codec import MAX_ACTOR, MAX_STEP
from eventstore.errors import InvalidFilter
from eventstore.events import EVENT_TYPES
from projections.audit_text import check_text

LOG_TYPES: Final = frozenset(("log.epoch_started", "log.fold_changed", "log.erased"))
TYPES: Final = EVENT_TYPES | LOG_TYPES
MAX_NAMES: Final = 100
"""Names in one filter."""

_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Clock(enum.Enum):
    """Which time is meant: the log's own, or the worker's claim (the log's where the worker made none)."""

    RECORDED = "recorded"
    OCCURRED = "occurred"


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """All of it must hold; None means any. Of several names one must be the event's. Made by `audit_filter`.

    `since` is inclusive and `until` exclusive; `reasons` are those of reports that did not count; `text` stands in a
    message, reason, title, label or error, whatever the case of its letters.
    """

    job: str | None = None
    prefix: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    clock: Clock = Clock.RECORDED
    types: tuple[str, ...] | None = None
    steps: tuple[str, ...] | None = None
    actors: tuple[str, ...] | None = None
    applied: bool | None = None
    reasons: tuple[str, ...] | None = None
    text: str | None = None


Names = str | Iterable[str] | None


def audit_filter(
    *,
    job: str | None = None,
    prefix: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    clock: Clock = Clock.RECORDED,
    types: Names = None,
    steps: Names = None,
    actors: Names = None,
    applied: bool | None = None,
    reasons: Names = None,
    text: str | None = None,
) -> AuditFilter:
    """A filter from what a caller gives; one name may stand without a list, and `step.*` for all types of steps.

    Raises `InvalidFilter`, which names the field, for what no event can have.
    """
    if job is not None and (not isinstance(job, str) or not _JOB_ID.fullmatch(job)):
        raise InvalidFilter("job", job, "a full job id; the beginning of one goes to prefix")
    if prefix is not None and (not isinstance(prefix, str) or not _JOB_ID.fullmatch(prefix)):
        raise InvalidFilter("prefix", prefix, "the beginning of a job id: A-Z a-z 0-9 . _ : @ -")
    if job is not None and prefix is not None:
        raise InvalidFilter("prefix", prefix, "either a job or a prefix")
    for field, moment in (("since", since), ("until", until)):
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidFilter(field, moment, "a time with a zone, for example 2026-01-31T12:00:00Z")
    if since is not None and until is not None and until <= since:
        raise InvalidFilter("until", until.isoformat(), "a time after since, it is not included itself")
    if applied is not None and not isinstance(applied, bool):
        raise InvalidFilter("applied", applied, "true or false")
    why = _names("reasons", reasons)
    for reason in why or ():
        if not _REASON.fullmatch(reason):
            raise InvalidFilter("reasons", reason, "words like regression or step_ended")
    if why is not None and applied:
        raise InvalidFilter("reasons", why, "only reports that did not count have one: leave applied out")
    return AuditFilter(
        job=job,
        prefix=prefix,
        since=since,
        until=until,
        clock=clock,
        types=_types(_names("types", types)),
        steps=_lines("steps", _names("steps", steps), MAX_STEP),
        actors=_lines("actors", _names("actors", actors), MAX_ACTOR),
        applied=False if why is not None else applied,
        reasons=why,
        text=None if text is None else check_text(text),
    )


def _names(field: str, given: Names) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    if not 1 <= len(names) <= MAX_NAMES:
        raise InvalidFilter(field, f"{len(names)} names", f"1 to {MAX_NAMES} names")
    for name in names:
        if not isinstance(name, str):
            raise InvalidFilter(field, name, "names as text")
    return names


def _types(given: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    wanted: set[str] = set()
    for name in given:
        found = {kind for kind in TYPES if kind == name or (name.endswith("*") and kind.startswith(name[:-1]))}
        if not found:
            raise InvalidFilter("types", name, "event types like step.failed, or a prefix like step.*")
        wanted |= found
    return tuple(sorted(wanted))


def _lines(field: str, given: tuple[str, ...] | None, limit: int) -> tuple[str, ...] | None:
    for name in given or ():
        check_text(name, field)
        if len(name) > limit:
            raise InvalidFilter(field, name, f"at most {limit} characters")
    return given
