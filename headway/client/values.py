"""What the server answers, as values. Percentages are percent (0 to 100), times have a zone.

Fields that a newer server adds are passed over; what an older one leaves out has a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

import msgspec


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A report to be appended; a mapping with the same names does as well.

    `type`: `step.progressed`, `job.completed` … `event_id` makes a repeated call harmless; without one the client draws
    it. `actor` needs a key with the scope act-as.
    """

    type: str
    step: str | None = None
    attempt: int | None = None
    seq: int | None = None
    occurred_at: datetime | None = None
    event_id: str | None = None
    data: dict[str, Any] = {}
    actor: str | None = None


class AppendedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event. `applied`: it counted; else `reason` says why not. `percent` is the job's after it."""

    position: int
    cursor: str
    event_id: str = ""
    version: int = 0
    applied: bool = True
    reason: str | None = None
    percent: float = 0.0
    duplicate: bool = False


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event: of a stream, or of the history.

    `cursor` is the place after it. `prev`, on a stream only, is the cursor that a reader must have had before it.
    """

    position: int
    job_id: str
    type: str
    cursor: str = ""
    version: int = 0
    event_id: str = ""
    step: str | None = None
    attempt: int | None = None
    seq: int | None = None
    applied: bool = True
    reason: str | None = None
    percent: float = 0.0
    actor: str | None = None
    occurred_at: datetime | None = None
    recorded_at: datetime | None = None
    data: dict[str, Any] = {}
    hash: str = ""
    prev: str | None = None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a step."""

    attempt: int
    status: str
    percent: float = 0.0
    worker: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: Any = None
    error_stack: str | None = None


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan, as it stands."""

    step: str
    status: str
    parent: str | None = None
    label: str | None = None
    weight: float | None = None
    range: tuple[float, float] | None = None
    percent: float = 0.0
    done: int | None = None
    total: int | None = None
    unit: str | None = None
    attempt: int = 0
    message: str | None = None
    reason: str | None = None
    metadata: Any = None
    error: Any = None
    error_stack: str | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    until: datetime | None = None
    rejected: int = 0
    attempts: list[AttemptView] = []


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A job without its steps, as lists show it."""

    job_id: str
    status: str
    percent: float
    title: str | None = None
    kind: str | None = None
    message: str | None = None
    reason: str | None = None
    current_step: str | None = None
    continues: str | None = None
    metadata: Any = None
    error: Any = None
    error_stack: str | None = None
    plan_version: int = 0
    steps_total: int = 0
    steps_open: int = 0
    steps_done: int = 0
    steps_failed: int = 0
    rejected: int = 0
    version: int = 0
    position: int = 0
    first_position: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    until: datetime | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that are left, from `low` to `high`; None if all that can be said is that it takes `longer` than ever."""

    low: float | None = None
    high: float | None = None
    basis: str = ""
    longer: bool = False
    usual: float | None = None
    paused: bool = False


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that seems wrong with a job (`step` None) or a step: since when, and why."""

    kind: str
    step: str | None = None
    since: datetime | None = None
    reason: str = ""


class JobSnapshot(JobSummary, frozen=True, kw_only=True):
    """A job with its steps in plan order. `cursor`: what comes after it is not in the picture yet."""

    type: ClassVar[str] = "snapshot"
    cursor: str = ""
    steps: list[StepView] = []
    eta: Estimate | None = None
    conditions: list[Condition] = []

    def step(self, name: str) -> StepView | None:
        return next((step for step in self.steps if step.step == name), None)


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What an append to one job did: its events in the order given, and the job right after them."""

    events: list[AppendedEvent]
    job: JobSummary | None = None


class AppendedMany(msgspec.Struct, frozen=True, kw_only=True):
    """What an append to many jobs did: its events in the order given, and each job right after them."""

    events: list[AppendedEvent]
    jobs: list[JobSummary] = []


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two moments. `step` is None for the job itself."""

    step: str | None
    field: str
    before: Any = None
    after: Any = None


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """What changed in a job between two moments; `versions` and `percents` are those of both, 0 before its begin."""

    changes: list[Change]
    job_id: str = ""
    versions: tuple[int, int] = (0, 0)
    percents: tuple[float, float] = (0.0, 0.0)


class StreamToken(msgspec.Struct, frozen=True, kw_only=True):
    """A key to streams alone, for a browser. Not shown when printed."""

    token: str
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"StreamToken(token='***', expires_at={self.expires_at!r})"
