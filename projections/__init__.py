"""Read models: what the log's events add up to.

    from projections import Progress, evolve, initial, snapshot

    state = initial("build-7")
    for event in store.read_job("build-7"):
        state, verdict = evolve(state, event)          # (applied, reason, ppm)
    snapshot(state)["percent_ppm"]                     # 425_000 is 42.5 %

    EventStore("postgresql://…", projection=Progress())   # the same fold inside each append: jobs, steps, attempts

The way through this package:

    numbers.py      percent and weights as exact integers
    state.py        a job, its steps, attempts and groups; JSON; `snapshot`
    tree.py         the sums of groups, from a leaf up to the job: the percentage
    plan.py         a plan in place of another, a step added or removed: what was reached stays
    job_rules.py    job.* events        step_rules.py   step.* events
    fold.py         `evolve`: one event → state and verdict
    check.py, check_plan.py   what `data` must look like, asked before the append
    schema.py       the tables          rows.py, sql/   between state and tables
    progress.py     `Progress`: the inline projection that the store calls
    as_of.py        a job, or all, at any position or time; diff, curve
    projection.py   a read model of one's own      runner.py keeps it up to date, parked.py: what it could not take
    shipped/        durations, activity, failures  eta.py: what is left; conditions.py: what seems wrong
    audit.py        any question about the whole history, in bounded requests or as a stream

What holds, whatever arrives in whatever order: every event gets a verdict; a rejected one changes nothing but the
counts of rejected events; the percentage of a job never falls, is at most 99 % before the job completed and 100 %
exactly after; the same events always give the same state, byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from projections.check import check
from projections.fold import FOLD_VERSION, JobState, decode_state, encode_state, evolve, initial, snapshot

if TYPE_CHECKING:
    from projections.progress import Progress

__all__ = [
    "FOLD_VERSION",
    "JobState",
    "Progress",
    "check",
    "decode_state",
    "encode_state",
    "evolve",
    "initial",
    "snapshot",
]


def __getattr__(name: str) -> Any:
    if name == "Progress":
        from projections.progress import Progress

        return Progress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
