"""Many jobs from one seed, and what to say of a history that breaks a promise. A run folds more than 100,000 events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from hypothesis import HealthCheck, note, settings

from tests.property.histories import reports, shrink
from tests.support.given import Event, History

COUNTED = ("rejected", "version", "position")
"""What a rejected event may change."""

BULK = 1_000
"""Events of one bulk example, over as many jobs as it takes."""


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def jobs(seed: int, total: int = BULK, *, longest: int = 400, tame: bool = False) -> Iterator[list[Event]]:
    """Histories of jobs, `total` events together; each ends soon after its job completed, or at `longest`."""
    rng = Random(seed)
    while total > 0:
        folded, events, after = History(), [], 0
        for event in islice(reports(rng, tame=tame), min(total, longest)):
            folded.append(event)
            events.append(event)
            after += folded.state.status == "completed"
            if after > 15:
                break
        total -= len(events)
        yield events


def without_counts(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The snapshot without what a rejected event changes."""
    job = {field: value for field, value in snapshot.items() if field not in COUNTED}
    job["steps"] = [{field: value for field, value in step.items() if field != "rejected"} for step in job["steps"]]
    return job


def broken(promise: Callable[[Sequence[Event]], str | None], events: Sequence[Event]) -> str | None:
    """What a promise says of a history; when it breaks, the shortest history that breaks it is noted."""
    complaint = promise(events)
    if complaint is not None:
        short = shrink(events, lambda some: promise(some) is not None)
        note(f"{promise(short)}; shortest history:\n" + "\n".join(json.dumps(e, ensure_ascii=False) for e in short))
    return complaint
