"""What is usual for jobs of one kind, and where this job's clocks stand: what `eta` and `conditions` look at.

Read from the tables of the projection `durations` (projections/shipped/durations.py). Without them, or before anything
was learned, everything works and says less.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime
from typing import Final

import msgspec

from eventstore.events import to_datetime, to_us
from eventstore.store import EventStore
from projections.histogram import Counts, count, quantile
from projections.projection import checkpoint_of
from projections.shipped.clocks import JOB, JobClocks, decode
from projections.shipped.durations import Durations
from projections.snapshots import JobSnapshot, StepView

ENOUGH: Final = 5
"""How often a step must have completed before its past says anything."""
FRESH: Final = 60.0  # seconds that the projection may be behind before "nothing was heard" means nothing

_COUNTS: Final = "SELECT step, measure, class, count FROM step_durations WHERE log_id = %s AND kind = %s"
"""Served by step_durations_pkey."""
_LEFT: Final = "SELECT mark, measure, class, count FROM job_remaining WHERE log_id = %s AND kind = %s"
"""Served by job_remaining_pkey."""
_CLOCKS: Final = "SELECT clocks FROM step_clocks WHERE log_id = %s AND job_id = %s"
_WORKERS: Final = "SELECT worker, last_seen FROM workers_seen WHERE log_id = %s AND worker = ANY(%s)"
_BEHIND: Final = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - e.recorded_at), 0)::float8
  FROM logs l LEFT JOIN checkpoints c ON c.log_id = l.log_id AND c.name = %(name)s
  LEFT JOIN events e ON e.log_id = l.log_id AND e.position = coalesce(c.position, 0) + 1
 WHERE l.log_id = %(log_id)s
"""


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """`durations` and `gaps` by step, `""` for the job: class → count. `left` and `ratio` by mark: the work that was
    left when jobs had come so far, in seconds and in parts of the work done. `workers`: the last report of each worker
    of the job in any job. `fresh`: whether the projection has seen (nearly) all that is in the log."""

    durations: dict[str, Counts] = {}
    gaps: dict[str, Counts] = {}
    left: dict[int, Counts] = {}
    ratio: dict[int, Counts] = {}
    clocks: JobClocks | None = None
    workers: dict[str, datetime] = {}
    fresh: bool = True

    def knows(self, step: str, *, beyond: float = 0.0) -> bool:
        """Whether enough attempts at the step (that took longer than `beyond` seconds) completed."""
        return count(self.durations.get(step, {}), beyond=beyond) >= ENOUGH

    def took(self, step: str, part: float, *, beyond: float = 0.0) -> float:
        """Seconds that this part of the attempts did not exceed; ask `knows` first."""
        return quantile(self.durations.get(step, {}), part, beyond=beyond) or 0.0

    def worked_on(self, step: StepView, now: datetime) -> float:
        """Seconds of work in the step's attempt, without waiting as far as that is known."""
        clock = None if self.clocks is None else self.clocks.steps.get(step.step)
        if clock is not None:
            return clock.worked(to_us(now)) / 1e6
        return _since(_began(step), step.updated_at if step.status == "waiting" else now)

    def worked_at_last_report(self, of: StepView | JobSnapshot) -> float:
        """Seconds of work in a step's attempt, or in the job, when it reported last."""
        if self.clocks is not None:
            clock = self.clocks.job if isinstance(of, JobSnapshot) else self.clocks.steps.get(of.step)
            if clock is not None:
                return clock.worked(clock.last) / 1e6
        return _since(of.started_at if isinstance(of, JobSnapshot) else _began(of), of.updated_at)

    def worked(self, job: JobSnapshot, now: datetime) -> float:
        """Seconds of work in the job, likewise."""
        clock = None if self.clocks is None else self.clocks.job
        if clock is not None:
            return clock.worked(to_us(now)) / 1e6
        return _since(job.started_at, job.updated_at if job.status == "waiting" else now)


def span(counts: Counts, *, beyond: float = 0.0) -> tuple[float, float, float] | None:
    """The range that holds the next one in 8 of 10 cases, with its middle; of those beyond. None if too few are known.

    Of few the whole range is taken: the ranks are those of n + 1.
    """
    total = count(counts, beyond=beyond)
    if total < ENOUGH:
        return None
    ranks = (math.floor(0.1 * (total + 1)), 0.5 * total, math.ceil(0.9 * (total + 1)))
    low, mid, high = (quantile(counts, min(rank / total, 1.0), beyond=beyond) or 0.0 for rank in ranks)
    return low, mid, high


def read_usual(store: EventStore, job: JobSnapshot) -> Usual:
    """What is usual for the job's kind, from the store's log."""
    log_id = store.log_id()
    workers = sorted({worker for step in job.steps if (worker := worker_of(step)) is not None})
    behind = {"log_id": log_id, "name": checkpoint_of(Durations.name, Durations.version)}
    with store.database.session() as conn, conn.pipeline():
        counted = conn.execute(_COUNTS, (log_id, job.kind or ""))
        remaining = conn.execute(_LEFT, (log_id, job.kind or ""))
        clocks = conn.execute(_CLOCKS, (log_id, job.job_id))
        seen = conn.execute(_WORKERS, (log_id, workers), binary=True)
        late = conn.execute(_BEHIND, behind)
        by_measure: dict[str, defaultdict[str, dict[int, int]]] = {
            "duration": defaultdict(dict), "gap": defaultdict(dict)
        }  # fmt: skip
        for step, measure, number, times in counted.fetchall():
            by_measure[measure][step][number] = times
        by_mark: dict[str, defaultdict[int, dict[int, int]]] = {"left": defaultdict(dict), "ratio": defaultdict(dict)}
        for mark, measure, number, times in remaining.fetchall():
            by_mark[measure][mark][number] = times
        text, seconds = clocks.fetchone(), late.fetchone()
        return Usual(
            durations=dict(by_measure["duration"]),
            gaps=dict(by_measure["gap"]),
            left=dict(by_mark["left"]),
            ratio=dict(by_mark["ratio"]),
            clocks=None if text is None else decode(text[0]),
            workers={worker: to_datetime(us) for worker, us in seen.fetchall()},
            fresh=seconds is not None and seconds[0] < FRESH,
        )


def worker_of(step: StepView) -> str | None:
    """Who works on the step's present attempt, if that was said."""
    return step.attempts[-1].worker if step.attempts else None


def leaves(job: JobSnapshot) -> list[StepView]:
    """The steps that are no groups."""
    groups = {step.parent for step in job.steps}
    return [step for step in job.steps if step.step not in groups]


def _began(step: StepView) -> datetime | None:
    return step.attempts[-1].started_at if step.attempts else step.started_at


def _since(moment: datetime | None, now: datetime | None) -> float:
    return 0.0 if moment is None or now is None else max((now - moment).total_seconds(), 0.0)


__all__ = ["ENOUGH", "JOB", "Usual", "leaves", "read_usual", "span", "worker_of"]
