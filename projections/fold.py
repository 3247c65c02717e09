"""The fold: from events to status and percentage. Pure, no clock, no I/O, integers only.

One function serves append, rebuild, as-of, verify and the tests:

    state = initial("build-7")
    state, verdict = evolve(state, event)       # (applied, reason, ppm)

A state is used linearly: `evolve` changes it in place and returns it. It never raises on an event that
`projections.check` passed: whatever arrives in whatever order gets a verdict. Reasons: `regression`, `already`,
`stale_attempt`, `out_of_order`, `step_ended`, `job_ended`, `not_absolute`, `plan_full`.
"""

from __future__ import annotations

from typing import Final

from eventstore.inline import FoldEvent, Verdict
from projections.state import JobState, decode_state, encode_state, snapshot

__all__ = ["FOLD_VERSION", "JobState", "Verdict", "decode_state", "encode_state", "evolve", "initial", "snapshot"]

FOLD_VERSION: Final = 1
"""The rules that this code folds with; part of every append's compare-and-set."""


def initial(job_id: str) -> JobState:
    """The state of a job without events."""
    return JobState(job_id)


def evolve(state: JobState, event: FoldEvent) -> tuple[JobState, Verdict]:
    """Fold one event into the state. Sets the state's version and position to the event's."""
    raise NotImplementedError
