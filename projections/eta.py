"""When will it be done? A range with its basis, or nothing: never a countdown that lies.

The range is meant to hold the truth in 8 of 10 cases; `projections.calibration` says how often it did. Nothing is said
in the first 5 seconds of work, nor below 2 %, nor when neither the running step's rate nor the past says enough. A job
without a plan has no percentage; how long its kind usually takes says something all the same. Time in which a job waits
does not count: the range is of work. A step or job that takes longer than its kind ever did is told to be longer than
usual.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final, Literal

import msgspec

from eventstore.store import EventStore
from projections.histogram import count
from projections.shipped.clocks import mark_of
from projections.snapshots import JobSnapshot, StepView
from projections.usual import ENOUGH, JOB, Usual, leaves, read_usual, span

FIRST: Final = 5.0  # seconds of work before which nothing is said
LEAST: Final = 2.0  # percent below which nothing is said
WIDEST: Final = 50.0
"""A range whose end is more than so many times its beginning (or 10 s) says nothing, so it isn't told."""
SHARPER: Final = 0.6
LEAST_WIDE: Final = 0.95
"""However alike the past was, the next one may differ by so much."""
OPEN: Final = ("pending", "running", "waiting", "retrying")

Basis = Literal["rate", "history", "both"]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of work that are left: from `low` to `high`; both None if all that can be said is `longer`.

    `basis`: the rate of this run, the history of its kind, or both. `longer`: it takes longer than it ever did; 95 % of
    earlier ones took at most `usual` seconds. `paused`: it waits, so the seconds count from when it goes on.
    """

    low: float | None
    high: float | None
    basis: Basis
    longer: bool = False
    usual: float | None = None
    paused: bool = False


class _Left(msgspec.Struct, frozen=True):
    """What is left of something: a low, a middle and a high number of seconds, and where they come from."""

    low: float
    mid: float
    high: float
    basis: Basis


class _Longer(msgspec.Struct, frozen=True):
    usual: float


def estimate(store: EventStore, job: JobSnapshot, now: datetime) -> Estimate | None:
    """What is left of a job by its snapshot, its rate and its kind's history; None if nothing can be said."""
    if job.status not in ("running", "waiting"):
        return None
    return eta_of(job, read_usual(store, job), now)


def eta_of(job: JobSnapshot, usual: Usual, now: datetime) -> Estimate | None:
    """`estimate` without a database: the same snapshot, past and time give the same answer."""
    if job.status not in ("running", "waiting"):
        return None
    worked = usual.worked(job, now)
    if worked < FIRST:
        return None
    paused = job.status == "waiting"
    if job.percent < LEAST and not _without_plan(job):
        return None
    from_marks = _from_marks(job, worked, usual)
    if from_marks is not None:
        return _told(from_marks, paused)
    if job.percent < LEAST:
        return _told(_from_history(JOB, worked, usual), paused)
    left = _by_steps(job, usual, now)
    if not isinstance(left, _Left):
        rate = _from_rate(job.percent / 100, usual.worked_at_last_report(job), worked)
        if isinstance(left, _Longer) and rate is not None:
            # A rate that holds is better than the past; that it is slow is said beside it.
            return Estimate(low=rate.low, high=rate.high, basis="rate", longer=True, usual=left.usual, paused=paused)
        left = left or rate or _from_history(JOB, worked, usual)
    return _told(left, paused)


def _without_plan(job: JobSnapshot) -> bool:
    """Whether steps got on and the job's percentage did not: it has none."""
    return job.percent == 0 and any(step.percent > 0 for step in leaves(job))


def _told(left: _Left | _Longer | None, paused: bool) -> Estimate | None:
    match left:
        case None:
            return None
        case _Longer():
            return Estimate(low=None, high=None, basis="history", longer=True, usual=left.usual, paused=paused)
        case _Left(low=low, high=high) if high > WIDEST * max(low, 10.0):
            return None
        case _Left():
            return Estimate(low=left.low, high=left.high, basis=left.basis, paused=paused)


def _from_marks(job: JobSnapshot, worked: float, usual: Usual) -> _Left | _Longer | None:
    """As the jobs of this kind that had come as far: by the work that was left to them, or by its ratio to the work
    that they had done, whichever told more."""
    if usual.clocks is None:
        return None
    mark = mark_of(round(job.percent * 10_000), usual.clocks.done)
    reached = usual.clocks.marks.get(mark)
    if reached is None:
        return None
    entry = reached / 1e6
    since = max(worked - entry, 0.0)
    found: list[_Left] = []
    if (left := span(usual.left.get(mark, {}), beyond=since)) is not None:
        found.append(_less(left, since, 1.0, "history"))
    if entry >= FIRST and (ratio := span(usual.ratio.get(mark, {}), beyond=since / entry)) is not None:
        found.append(_less(ratio, since, entry, "both"))
    if found:
        # Whoever takes the narrower of two ranges too lightly finds the truth outside more often.
        return found[-1] if found[-1].high - found[-1].low < SHARPER * (found[0].high - found[0].low) else found[0]
    return _Longer(usual.took(JOB, 0.95)) if count(usual.left.get(mark, {})) >= ENOUGH else None


def _by_steps(job: JobSnapshot, usual: Usual, now: datetime) -> _Left | _Longer | None:
    """All open steps: those at work side by side, then the others, as many at once as are at work now."""
    todo = [step for step in leaves(job) if step.status in OPEN]
    at_work: list[_Left] = []
    waiting: list[_Left] = []
    for step in todo:
        if step.status == "pending":
            left: _Left | _Longer | None = _from_history(step.step, 0.0, usual)
        else:
            left = _of_running(step, usual, now)
        if not isinstance(left, _Left):
            return left
        (waiting if step.status == "pending" else at_work).append(left)
    if not todo:
        return None
    side_by_side = max(len(at_work), 1)
    first = max(at_work, key=lambda left: left.mid, default=_Left(0.0, 0.0, 0.0, "history"))
    mid = first.mid + sum(left.mid for left in waiting) / side_by_side
    below = math.hypot(first.mid - first.low, *((left.mid - left.low) / side_by_side for left in waiting))
    above = math.hypot(first.high - first.mid, *((left.high - left.mid) / side_by_side for left in waiting))
    bases = {left.basis for left in [*at_work, *waiting]}
    return _Left(max(mid - below, 0.0), mid, mid + above, bases.pop() if len(bases) == 1 else "both")


def _of_running(step: StepView, usual: Usual, now: datetime) -> _Left | _Longer | None:
    """A step at work: by its rate, by its past, the more by its rate the further it is."""
    worked = usual.worked_on(step, now)
    part = step.percent / 100
    # The mark of an earlier attempt says nothing about the speed of this one.
    rate = _from_rate(part, usual.worked_at_last_report(step), worked) if step.attempt <= 1 else None
    past = _from_history(step.step, worked, usual)
    if isinstance(past, _Left) and rate is not None:
        low, mid, high = (
            past_side * (1 - part) + rate_side * part
            for past_side, rate_side in ((past.low, rate.low), (past.mid, rate.mid), (past.high, rate.high))
        )
        return _Left(low, mid, high, "both")
    return past if rate is None or isinstance(past, _Longer) else rate


def _from_rate(part: float, reported: float, worked: float) -> _Left | None:
    """On at the speed that it had at its last report, after `reported` seconds of work. The less is done, the wider the
    range. When that time is up without a further report, the speed is not what it was: None."""
    if reported < FIRST or part * 100 < LEAST:
        return None
    mid, gone = reported * (1 - part) / part, max(worked - reported, 0.0)
    spread = 1.2 + 0.8 * (1 - part)
    if mid * spread <= gone:
        return None
    return _Left(max(mid / spread - gone, 0.0), max(mid - gone, 0.0), mid * spread - gone, "rate")


def _from_history(step: str, worked: float, usual: Usual) -> _Left | _Longer | None:
    """As those of the past that took longer than this one did up to now."""
    if not usual.knows(step):
        return None
    took = span(usual.durations.get(step, {}), beyond=worked)
    if took is None:
        return _Longer(usual.took(step, 0.95))
    return _less(took, worked, 1.0, "history")


def _less(span: tuple[float, float, float], gone: float, unit: float, basis: Basis) -> _Left:
    """What is left of a span, in units of so many seconds, when so many seconds are gone."""
    low, mid, high = (max(part * unit - gone, 0.0) for part in span)
    return _Left(min(low, LEAST_WIDE * mid), mid, max(high, mid / LEAST_WIDE), basis)
