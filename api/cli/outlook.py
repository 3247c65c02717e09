"""What is to be expected of a running job, in words: the remaining time, and what seems wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from api.cli.text import visible
from eventstore.events import to_datetime
from projections.conditions import Condition, conditions_of, told
from projections.eta import Estimate, eta_of
from projections.usual import read_usual

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from projections.snapshots import JobSnapshot

BASES = {"rate": "at its present rate", "history": "as earlier jobs of its kind", "both": "its rate and earlier jobs"}


def outlook(store: EventStore, job: JobSnapshot) -> list[tuple[str, str]]:
    """Names and texts; empty for a job that is not at work, or of which nothing can be said."""
    if job.status not in ("running", "waiting"):
        return []
    now, usual = to_datetime(time.time_ns() // 1_000), read_usual(store, job)
    found = eta_of(job, usual, now)
    listed = [] if found is None else [("left", eta_text(found))]
    return listed + [condition_text(condition) for condition in conditions_of(job, usual, now)]


def eta_text(found: Estimate) -> str:
    """A range with its basis; `longer than usual` where that is so."""
    parts = []
    if found.low is not None and found.high is not None:
        low, high = told(found.low), told(found.high)
        work = " of work, once it goes on" if found.paused else ""
        parts.append(f"{low} to {high}{work} ({BASES[found.basis]})" if low != high else f"{low}{work}")
    if found.longer:
        usually = "" if found.usual is None else f" (95 % took at most {told(found.usual)})"
        parts.append(f"longer than usual{usually}")
    return ", ".join(parts)


def condition_text(condition: Condition) -> tuple[str, str]:
    where = "" if condition.step is None else f"{visible(condition.step)}: "
    return condition.kind.replace("_", " "), f"{where}{visible(condition.reason)}"
