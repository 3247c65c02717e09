"""The fold: from events to status and percentage. Pure, no clock, no I/O, integers only.

One function serves append, rebuild, as-of, verify and the tests:

    state = initial("build-7")
    state, verdict = evolve(state, event)       # (applied, reason, ppm)

A state is used linearly: `evolve` changes it in place and returns it. It never raises on an event that
`projections.check` passed: whatever arrives in whatever order gets a verdict. Reasons: `regression`, `already`,
`stale_attempt`, `out_of_order`, `step_ended`, `job_ended`, `not_absolute`, `plan_full`.

What an event must not do is asked in this order: an attempt that is over, a number within the attempt that is not above
the last, what is true already, a step that has ended, a job that has ended. A rejected event is counted, and changes
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from eventstore.inline import FoldEvent, Verdict
from projections.job_rules import JOB_RULES, end, run
from projections.numbers import later
from projections.state import (
    COMPLETED,
    FAILED,
    JOB_ENDED,
    PENDING,
    SLOT,
    JobState,
    decode_state,
    encode_state,
    snapshot,
)
from projections.step_rules import OUT_OF_ORDER, STEP_RULES, WORK

__all__ = [
    "FOLDS",
    "FOLD_VERSION",
    "JobState",
    "Verdict",
    "decode_state",
    "encode_state",
    "evolve",
    "initial",
    "snapshot",
]

Evolve = Callable[[JobState, FoldEvent], tuple[JobState, Verdict]]

FOLD_VERSION: Final = 1
"""The rules that this code folds with; part of every append's compare-and-set."""

FOLDS: Final[dict[int, Evolve]] = {}
"""The rules by version. Old ones stay: what was folded with them keeps its verdicts, and is folded so again."""

_FAILED: Final = SLOT[FAILED]


def initial(job_id: str) -> JobState:
    """The state of a job without events."""
    return JobState(job_id)


def evolve(state: JobState, event: FoldEvent) -> tuple[JobState, Verdict]:
    """Fold one event into the state. Sets the state's version and position to the event's."""
    state.version = event.version
    state.position = event.position
    us = event.occurred_us
    if us is None:
        us = event.recorded_us
    last = state.updated_us
    if last is None:
        state.first_position = event.position
        state.created_us = state.updated_us = last = us
    kind = event.type
    if kind in STEP_RULES:
        reason = _fold_step(state, event, kind, us)
    elif kind in JOB_RULES:
        reason = _fold_job(state, event, kind, max(us, last))
    else:
        reason = None
    if reason is not None:
        state.rejected += 1
        return state, Verdict(False, reason, state.percent)
    state.updated_us = max(us, last)
    if not state.steps_open and state.auto_complete:
        _complete(state)
    return state, Verdict(True, None, state.percent)


def _fold_step(job: JobState, event: FoldEvent, kind: str, us: int) -> str | None:
    name = event.step
    assert name is not None
    step = job.steps.get(name)
    if step is not None:
        us = later(us, step.updated_us)
    reason = STEP_RULES[kind](job, event, us)
    if reason is not None:
        if step is not None:
            step.rejected += 1
            job.touched[name] = step
        return reason
    step = job.steps[name]
    step.updated_us = later(us, step.updated_us)
    if event.seq is not None and (event.attempt is None or event.attempt == step.attempt):
        step.seq = event.seq
    if job.status == PENDING:
        run(job, us)
    if kind in WORK:
        job.current_step = name
    return None


def _fold_job(job: JobState, event: FoldEvent, kind: str, us: int) -> str | None:
    seq = event.seq
    if seq is not None and job.seq is not None and seq <= job.seq:
        return OUT_OF_ORDER
    reason = JOB_RULES[kind](job, event, us)
    if reason is None and seq is not None:
        job.seq = seq
    return reason


def _complete(job: JobState) -> None:
    """The last open step has settled: the plan asked that this completes the job, unless a step failed."""
    if job.steps_total and job.status not in JOB_ENDED and not job.root.counts[_FAILED]:
        assert job.updated_us is not None
        end(job, COMPLETED, job.updated_us)
        job.reason = None


FOLDS[FOLD_VERSION] = evolve
