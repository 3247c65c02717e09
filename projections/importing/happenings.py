"""One line of a history: who did what in which case, when. Checked where it is read, so that later nothing can fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from eventstore.codec import MAX_STEP, MAX_US, MIN_US, check_step, prepare
from eventstore.errors import InvalidEvent, shorten
from eventstore.events import NewEvent, to_us
from projections.importing.mapping import job_id_of
from projections.importing.source import Source

COMPLETE: Final = "complete"
"""What a row without a lifecycle transition stands for (IEEE 1849: such events are taken as completions)."""

_OFFSET: Final = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)


class Raw(NamedTuple):
    """A row as the file says it. `transition` and `resource` may be missing, or empty."""

    line: int
    case: str | None
    activity: str | None
    transition: str | None
    time: str | None
    resource: str | None


class Happening(NamedTuple):
    """A row that the log will take. Ordered by job, then time, then place in the file.

    `us`: microseconds since 1970; `place` counts the rows from 0; `transition` is in lower case.
    """

    job_id: str
    us: int
    place: int
    line: int
    activity: str
    transition: str
    resource: str | None


def zone_of(name: str) -> tzinfo:
    """The zone of times that name none: an offset like +01:00, UTC, or a name like Europe/Berlin. Raises ValueError."""
    if name in ("Z", "UTC"):
        return UTC
    if found := _OFFSET.fullmatch(name):
        minutes = int(found[2]) * 60 + int(found[3])
        if int(found[3]) < 60 and minutes < 24 * 60:
            return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no such zone: {name!r}; give +01:00, UTC or a name like Europe/Berlin") from None


def checked(rows: Iterator[Raw], source: Source, *, prefix: str, zone: tzinfo | None) -> Iterator[Happening]:
    """The rows, each fit for the log. Raises `ImportRefused` with the line of the first that is not."""
    for place, row in enumerate(rows):
        try:
            happening = _checked(row, place, prefix, zone)
        except ValueError as error:
            raise source.refuse(str(error), row.line) from None
        yield happening


def _checked(row: Raw, place: int, prefix: str, zone: tzinfo | None) -> Happening:
    line, case, activity, transition, time, resource = row
    if not case:
        raise ValueError("the event has no case")
    if not activity:
        raise ValueError("the event has no activity")
    if not time:
        raise ValueError("the event has no time")
    return Happening(
        job_id_of(prefix, case),
        moment(time, zone),
        place,
        line,
        _step(activity),
        _transition(transition) if transition else COMPLETE,
        _actor(resource) if resource else None,
    )


def moment(text: str, zone: tzinfo | None) -> int:
    """An ISO 8601 time as microseconds since 1970; finer digits are cut off. Raises ValueError, saying what to do."""
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"time: {shorten(text)} is no time from year 1 to 9999 in ISO 8601, such as 2011-10-01T00:38:44.546+02:00"
        ) from None
    if when.tzinfo is None:
        if zone is None:
            raise ValueError(f"time: {shorten(text)} has no zone; say which it is with --zone, for example --zone UTC")
        when = when.replace(tzinfo=zone)
    us = to_us(when)
    if not MIN_US <= us <= MAX_US:
        raise ValueError(f"time: {shorten(text)} is not from year 1 to 9999 in UTC")
    return us


@lru_cache(maxsize=4_096)
def _step(activity: str) -> str:
    step = activity.strip()
    try:
        check_step(step)
    except InvalidEvent as error:
        raise _renamed(error, "activity") from None
    return step


@lru_cache(maxsize=4_096)
def _transition(text: str) -> str:
    name = text.strip().lower()
    if not name:
        return COMPLETE
    if len(name) > MAX_STEP or not name.isprintable():
        raise ValueError(f"transition: {shorten(text)} is not a word of at most {MAX_STEP} characters")
    return name


@lru_cache(maxsize=16_384)
def _actor(resource: str) -> str | None:
    name = resource.strip()
    if not name:
        return None
    try:
        prepare("any", NewEvent(type="job.started", actor=name))
    except InvalidEvent as error:
        raise _renamed(error, "resource") from None
    return name


def _renamed(error: InvalidEvent, field: str) -> ValueError:
    return ValueError(f"{field}: {error.rule}; given {error.given}")
