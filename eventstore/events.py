"""What is appended and what is read back: `NewEvent`, `RecordedEvent`, and the answer to an append.

Times inside the log are integers: microseconds since 1970-01-01 UTC. Percentages inside the log are integers: parts per
million (ppm). People see `datetime` and percent through properties.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from eventstore.cursor import format_cursor

LOG_JOB: Final = "headway.log"
"""Job id under which the server writes events about the log itself; never listed, never accepted from a caller."""

JOB_TYPES: Final = frozenset(
    "job." + verb
    for verb in "planned started progressed waiting resumed noted completed failed cancelled reopened".split()
)
STEP_TYPES: Final = frozenset(
    "step." + verb
    for verb in (
        "added started progressed waiting resumed noted completed failed skipped cancelled reset removed"
    ).split()
)
EVENT_TYPES: Final = JOB_TYPES | STEP_TYPES
ENDING_TYPES: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})
"""The events that a full job still accepts."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def to_datetime(us: int) -> datetime:
    """Microseconds since 1970 as an aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def to_us(moment: datetime) -> int:
    """An aware datetime as microseconds since 1970. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a time needs a zone, for example 2026-01-31T12:00:00Z")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


class Expected(enum.Enum):
    """What an appender may demand of a job's version, besides a number."""

    ANY = "any"
    NO_JOB = "no_job"


ANY: Final = Expected.ANY
"""Append whatever the job's version is."""
NO_JOB: Final = Expected.NO_JOB
"""Append only if the job has no event yet."""


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A report that is to be appended. `event_id` makes a retry safe; without one the store draws a uuid7.

    `attempt` counts from 1 and `seq` from 0, both optional; `occurred_at` is the worker's claim and needs a zone.
    """

    type: str
    step: str | None = None
    attempt: int | None = None
    seq: int | None = None
    occurred_at: datetime | None = None
    event_id: UUID | None = None
    data: dict[str, Any] = {}
    actor: str | None = None


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the log. Immutable, for ever.

    `ppm` is the job's overall percentage after this event, in parts per million; `data_json` the canonical text of
    `data`; `*_us` are microseconds since 1970; `hash` the chain hash at this position (32 bytes).
    """

    position: int
    job_id: str
    version: int
    event_id_bytes: bytes
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    data_json: bytes
    applied: bool
    reason: str | None
    ppm: int
    actor: str | None
    occurred_us: int | None
    recorded_us: int
    hash: bytes

    @property
    def event_id(self) -> UUID:
        return UUID(bytes=self.event_id_bytes)

    @property
    def data(self) -> dict[str, Any]:
        """The decoded data; decoded anew at each call, so keep it if you need it twice."""
        decoded: dict[str, Any] = msgspec.json.decode(self.data_json)
        return decoded

    @property
    def percent(self) -> float:
        return self.ppm / 10_000

    @property
    def occurred_at(self) -> datetime | None:
        return None if self.occurred_us is None else to_datetime(self.occurred_us)

    @property
    def recorded_at(self) -> datetime:
        return to_datetime(self.recorded_us)


class Appended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to one appended event. `duplicate` says that it was in the log already, at this position."""

    event_id_bytes: bytes
    epoch: int
    position: int
    version: int
    applied: bool
    reason: str | None
    ppm: int
    hash: bytes
    duplicate: bool = False

    @property
    def event_id(self) -> UUID:
        return UUID(bytes=self.event_id_bytes)

    @property
    def percent(self) -> float:
        return self.ppm / 10_000

    @property
    def cursor(self) -> str:
        """The cursor of this event: a consumer that starts there sees what follows it."""
        return format_cursor(self.epoch, self.position, self.hash[:4].hex())
