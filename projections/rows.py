"""Between the fold's state and the rows of jobs, steps and attempts: what is written and read again is the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from eventstore import pgarray
from eventstore.pgarray import Columns, PgArray
from projections.state import AttemptState, GroupState, JobState, StepState

_encode: Final = msgspec.json.Encoder().encode
_MODES: Final = (None, "percent", "count")

# (attribute of the state, column, type) of what is a column of its own; `state` follows.
_JOB: Final[Sequence[tuple[str, str, str]]] = (
    ("job_id", "job_id", "text"),
    ("first_position", "first_position", "int8"),
    ("position", "position", "int8"),
    ("version", "version", "int4"),
    ("status", "status", "text"),
    ("percent", "percent", "int4"),
    ("plan_version", "plan_version", "int4"),
    ("steps_named", "steps_named", "int4"),
    ("steps_total", "steps_total", "int4"),
    ("steps_open", "steps_open", "int4"),
    ("steps_done", "steps_done", "int4"),
    ("steps_failed", "steps_failed", "int4"),
    ("rejected", "rejected", "int4"),
    ("created_us", "created_at", "times"),
    ("started_us", "started_at", "times"),
    ("updated_us", "updated_at", "times"),
    ("ended_us", "ended_at", "times"),
    ("until_us", "until_at", "times"),
    ("title", "title", "text"),
    ("kind", "kind", "text"),
    ("continues", "continues", "text"),
    ("current_step", "current_step", "text"),
    ("message", "message", "text"),
    ("reason", "reason", "text"),
    ("metadata", "metadata", "json"),
    ("error", "error", "json"),
    ("error_stack", "error_stack", "text"),
)
_STEP: Final[Sequence[tuple[str, str, str]]] = (
    ("step", "step", "text"),
    ("parent", "parent", "text"),
    ("ordinal", "ordinal", "int4"),
    ("label", "label", "text"),
    ("weight", "weight", "int8"),
    ("start", "span_start", "int8"),
    ("status", "status", "text"),
    ("frac", "percent", "int4"),
    ("done", "done", "int8"),
    ("total", "total", "int8"),
    ("unit", "unit", "text"),
    ("attempt", "attempt", "int4"),
    ("seq", "seq", "int4"),
    ("rejected", "rejected", "int4"),
    ("started_us", "started_at", "times"),
    ("updated_us", "updated_at", "times"),
    ("ended_us", "ended_at", "times"),
    ("until_us", "until_at", "times"),
    ("message", "message", "text"),
    ("reason", "reason", "text"),
    ("metadata", "metadata", "json"),
    ("error", "error", "json"),
    ("error_stack", "error_stack", "text"),
)
_ATTEMPT: Final[Sequence[tuple[str, str, str]]] = (
    ("step", "step", "text"),
    ("attempt", "attempt", "int4"),
    ("status", "status", "text"),
    ("percent", "percent", "int4"),
    ("worker", "worker", "text"),
    ("started_us", "started_at", "times"),
    ("ended_us", "ended_at", "times"),
    ("error", "error", "json"),
    ("error_stack", "error_stack", "text"),
)

_JOBS: Final = Columns("j", _JOB)
_STEPS: Final = Columns("s", _STEP)
_ATTEMPTS: Final = Columns("a", _ATTEMPT)
_NO_ATTEMPTS: Final = {**_ATTEMPTS.params(()), "a_job_id": pgarray.text(())}


def write_params(states: Collection[JobState]) -> dict[str, PgArray]:
    """The parameters of sql/write_ctes.sql: the jobs, and what was touched of them, each row once, sorted by key."""
    jobs = sorted(states, key=attrgetter("job_id"))
    step_jobs: list[str] = []
    steps: list[StepState] = []
    attempt_jobs: list[str] = []
    attempts: list[AttemptState] = []
    for job in jobs:
        touched = job.touched
        if len(touched) == 1:
            steps.extend(touched.values())
        else:
            steps.extend(touched[name] for name in sorted(touched))
        step_jobs.extend([job.job_id] * len(touched))
        if job.touched_attempts:
            attempts.extend(job.touched_attempts[key] for key in sorted(job.touched_attempts))
            attempt_jobs.extend([job.job_id] * len(job.touched_attempts))
    params = _JOBS.params(jobs)
    params["j_state"] = pgarray.json([_encode(_job_ints(job)) for job in jobs])
    params |= _STEPS.params(steps)
    params["s_job_id"] = pgarray.text(step_jobs)
    params["s_state"] = pgarray.json([_step_ints(step) for step in steps])
    if attempts:
        params |= _ATTEMPTS.params(attempts)
        params["a_job_id"] = pgarray.text(attempt_jobs)
    else:
        params |= _NO_ATTEMPTS
    return params


def _job_ints(job: JobState) -> tuple[Any, ...]:
    return job.auto_complete, job.planned, job.absolute, job.seq, job.last_ordinal, _group_ints(job.root)


def _group_ints(group: GroupState) -> tuple[Any, ...]:
    return group.base, group.rem, group.rem0, group.mark, group.tail, group.counts


def _step_ints(step: StepState) -> bytes | None:
    mode, group = step.mode, step.group
    ints = (
        step.mark, step.gap, step.begun, step.open, _MODES.index(mode), step.base, step.done0,
    )  # fmt: skip
    if group is not None:
        return _encode((*ints, step.own, _group_ints(group)))
    return None if ints == _PLAIN else _encode(ints)


_PLAIN: Final = (0, 0, False, False, 0, 0, 0)


class GroupInts(msgspec.Struct, array_like=True, gc=False):
    base: int
    rem: int
    rem0: int
    mark: int
    tail: int
    counts: list[int]

    def state(self) -> GroupState:
        return GroupState(self.base, self.rem, self.rem0, self.mark, self.tail, self.counts)


class JobInts(msgspec.Struct, array_like=True, gc=False):
    auto_complete: bool
    planned: bool
    absolute: int | None
    seq: int | None
    last_ordinal: int
    root: GroupInts


class JobRow(msgspec.Struct, array_like=True, gc=False):
    """A job as sql/load_states.sql gives it: the columns, then the fold's own integers."""

    job_id: str
    version: int
    position: int
    first_position: int
    status: str
    percent: int
    plan_version: int
    steps_named: int
    steps_total: int
    steps_open: int
    steps_done: int
    steps_failed: int
    rejected: int
    created_us: int
    started_us: int | None
    updated_us: int
    ended_us: int | None
    until_us: int | None
    title: str | None
    kind: str | None
    continues: str | None
    current_step: str | None
    message: str | None
    reason: str | None
    metadata: str | None
    error: str | None
    error_stack: str | None
    state: JobInts

    def state_of(self) -> JobState:
        job = JobState(self.job_id)
        for name in _JOB_FIELDS:
            setattr(job, name, getattr(self, name))
        ints = self.state
        job.auto_complete, job.planned, job.absolute = ints.auto_complete, ints.planned, ints.absolute
        job.seq, job.last_ordinal, job.root = ints.seq, ints.last_ordinal, ints.root.state()
        job.text_size = sum(len(text) for text in (self.message, self.metadata, self.error, self.error_stack) if text)
        return job


_JOB_FIELDS: Final = tuple(attribute for attribute, _, _ in _JOB)


class StepInts(msgspec.Struct, array_like=True, gc=False):
    mark: int = 0
    gap: int = 0
    begun: bool = False
    open: bool = False
    mode: int = 0
    base: int = 0
    done0: int = 0
    own: str | None = None
    group: GroupInts | None = None


class StepRow(msgspec.Struct, array_like=True, gc=False):
    """A step as sql/load_states.sql gives it."""

    step: str
    parent: str | None
    ordinal: int
    label: str | None
    weight: int
    start: int | None
    status: str
    frac: int
    done: int | None
    total: int | None
    unit: str | None
    attempt: int
    seq: int | None
    rejected: int
    started_us: int | None
    updated_us: int | None
    ended_us: int | None
    until_us: int | None
    message: str | None
    reason: str | None
    metadata: str | None
    error: str | None
    error_stack: str | None
    state: StepInts | None

    def state_of(self) -> StepState:
        step = StepState(self.step)
        for name in _STEP_FIELDS:
            setattr(step, name, getattr(self, name))
        ints = self.state
        if ints is not None:
            step.mark, step.gap, step.begun, step.open = ints.mark, ints.gap, ints.begun, ints.open
            step.mode, step.base, step.done0, step.own = _MODES[ints.mode], ints.base, ints.done0, ints.own
            step.group = None if ints.group is None else ints.group.state()
        return step


_STEP_FIELDS: Final = tuple(attribute for attribute, _, _ in _STEP)
_decode_job: Final = msgspec.json.Decoder(JobRow).decode
_decode_step: Final = msgspec.json.Decoder(StepRow).decode


def read_states(rows: Iterable[tuple[str | None, ...]]) -> dict[str, JobState]:
    """The states in the answer of sql/load_states.sql."""
    found = [(str(job_id), step, str(text)) for job_id, step, text in rows]
    jobs = {job_id: _decode_job(text).state_of() for job_id, step, text in found if step is None}
    for job_id, name, text in found:
        if name is None:
            continue
        job, step = jobs[job_id], _decode_step(text).state_of()
        job.steps[name] = step
        job.text_size += sum(len(text) for text in (step.message, step.metadata, step.error, step.error_stack) if text)
    return jobs
