"""What seems wrong with a running job: `stalled`, `worker_lost`, `overdue`. Never a status: nothing is decided by it.

How long a step may be silent is learned from how often it reports; a step that says nothing between its beginning and
its end may be silent for as long as it usually takes. A condition ends by itself when its reason is gone: `changes`
tells of those that came and those that are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from eventstore.store import EventStore
from projections.histogram import count, quantile
from projections.snapshots import JobSnapshot, StepView
from projections.usual import JOB, Usual, leaves, read_usual, worker_of

MANY: Final = 20
"""Pauses that must have been seen before they say how long one may be."""
PATIENCE: Final = 3.0
"""A pause is too long when it is so many times as long as 99 % of them were."""
LOST: Final = 2.0
"""A worker is lost that says nothing, of any step, for so many times as long as makes one stalled."""
SHORTEST: Final = 30.0  # seconds of silence that never mean anything
UNKNOWN: Final = 900.0  # seconds of silence that are too long for a step of which nothing was learned
GRACE: Final = 60.0  # seconds after a moment that was named before it counts as missed
LATE: Final = 1.5
"""Overdue is what takes so many times as long as 95 % did."""

Kind = Literal["stalled", "worker_lost", "overdue"]


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that seems wrong: since when, and why. `step` is None for the job itself."""

    kind: Kind
    step: str | None
    since: datetime
    reason: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that came (`recovered` false) or is over, and when that was seen."""

    condition: Condition
    recovered: bool
    at: datetime


def conditions(store: EventStore, job: JobSnapshot, now: datetime) -> list[Condition]:
    """What seems wrong with the job now. Reads nothing for a job that is not at work."""
    if job.status not in ("running", "waiting"):
        return []
    return conditions_of(job, read_usual(store, job), now)


def conditions_of(job: JobSnapshot, usual: Usual, now: datetime) -> list[Condition]:
    """`conditions` without a database: the job's own first, then its steps in plan order."""
    if job.status not in ("running", "waiting"):
        return []
    found: list[Condition] = []
    if job.status == "waiting":
        return _missed(None, job.until, now, "it waits for something that was due")
    if not job.steps and (silent := _silent(None, JOB, job.updated_at, usual, now)) is not None:
        found.append(silent)
    found += _late(None, JOB, usual.worked(job, now), usual, now)
    for step in leaves(job):
        match step.status:
            case "running":
                found += _of_running(job, step, usual, now)
            case "waiting":
                found += _missed(step.step, step.until, now, "it waits for something that was due")
            case "retrying":
                found += _missed(step.step, step.until, now, "the next try was due")
    return found


def changes(before: Sequence[Condition], after: Sequence[Condition], now: datetime) -> list[Change]:
    """What came and what is over between two looks at one job."""
    old, new = ({(c.kind, c.step): c for c in found} for found in (before, after))
    came = [Change(condition=c, recovered=False, at=now) for key, c in new.items() if key not in old]
    return came + [Change(condition=c, recovered=True, at=now) for key, c in old.items() if key not in new]


def patience(step: str, usual: Usual) -> float:
    """Seconds for which a step may say nothing before that is strange."""
    gaps, durations = usual.gaps.get(step, {}), usual.durations.get(step, {})
    learned = gaps if count(gaps) >= MANY else durations if usual.knows(step) else {}
    longest = quantile(learned, 0.99)
    return UNKNOWN if longest is None else max(PATIENCE * longest, SHORTEST)


def _of_running(job: JobSnapshot, step: StepView, usual: Usual, now: datetime) -> list[Condition]:
    found: list[Condition] = []
    silent = _silent(step.step, step.step, step.updated_at, usual, now)
    if silent is not None:
        found.append(_lost(job, step, usual, now) or silent)
    return found + _late(step.step, step.step, usual.worked_on(step, now), usual, now)


def _silent(name: str | None, step: str, last: datetime | None, usual: Usual, now: datetime) -> Condition | None:
    limit = patience(step, usual)
    silence = 0.0 if last is None else (now - last).total_seconds()
    if last is None or silence <= limit:
        return None
    reason = f"no report for {told(silence)}; more than {told(limit)} is strange here"
    return Condition(kind="stalled", step=name, since=last, reason=reason)


def _lost(job: JobSnapshot, step: StepView, usual: Usual, now: datetime) -> Condition | None:
    """Whether the step's worker says nothing at all any more, here or elsewhere."""
    worker = worker_of(step)
    if worker is None or not usual.fresh:
        return None
    here = [s.updated_at for s in job.steps if worker_of(s) == worker and s.updated_at is not None]
    last = max([*here, *([usual.workers[worker]] if worker in usual.workers else [])], default=None)
    if last is None or (now - last).total_seconds() <= LOST * patience(step.step, usual):
        return None
    reason = f"worker {worker} has reported nothing for {told((now - last).total_seconds())}, here or elsewhere"
    return Condition(kind="worker_lost", step=step.step, since=last, reason=reason)


def _late(name: str | None, step: str, worked: float, usual: Usual, now: datetime) -> list[Condition]:
    if not usual.knows(step):
        return []
    most = usual.took(step, 0.95)
    limit = max(LATE * most, most + 10.0)
    if worked <= limit:
        return []
    reason = f"at work for {told(worked)}; 95 % took at most {told(most)}"
    since = now - timedelta(seconds=worked - limit)
    return [Condition(kind="overdue", step=name, since=since, reason=reason)]


def _missed(step: str | None, until: datetime | None, now: datetime, what: str) -> list[Condition]:
    if until is None or (now - until).total_seconds() <= GRACE:
        return []
    reason = f"{what} {told((now - until).total_seconds())} ago"
    return [Condition(kind="overdue", step=step, since=until, reason=reason)]


def told(seconds: float) -> str:
    """Seconds for people, in at most two units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left, parts = round(seconds), []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])
