"""A job's history by seconds, without a database: what a reader would have seen at any second of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from eventstore.events import RecordedEvent, to_us
from projections.calibration import Past
from projections.fold import evolve, initial
from projections.past import PastEvent
from projections.shipped.clocks import JobClocks, Measured, tick
from projections.snapshots import JobSnapshot
from projections.usual import Usual
from projections.views import view_of

BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def second(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


class Timeline:
    """`Timeline().say(0, "step.started", "build").say(60, "step.completed", "build")`"""

    def __init__(self, job_id: str = "job") -> None:
        self.job_id = job_id
        self.events: list[RecordedEvent] = []
        self._state = initial(job_id)

    def say(
        self, at: float, kind: str, step: str | None = None, /, *, attempt: int | None = None, **data: Any
    ) -> Timeline:
        number, us = len(self.events) + 1, to_us(second(at))
        text = json.dumps(data).encode()
        event = RecordedEvent(
            number,
            self.job_id,
            number,
            bytes(16),
            kind,
            step,
            attempt,
            None,
            text,
            True,
            None,
            0,
            None,
            us,
            us,
            bytes(32),
        )
        self._state, verdict = evolve(self._state, PastEvent(event))
        applied, reason, ppm = verdict
        self.events.append(msgspec.structs.replace(event, applied=applied, reason=reason, ppm=ppm))
        return self

    def seen(self, at: float) -> tuple[JobSnapshot, JobClocks]:
        """The snapshot and the clocks when the reports up to this second were taken."""
        state, clocks = initial(self.job_id), JobClocks()
        for event in self.events:
            if event.recorded_us <= to_us(second(at)):
                state, _ = evolve(state, PastEvent(event))
                if event.applied:
                    tick(clocks, event, Measured())
        return view_of(state, ""), clocks


def learned(jobs: Iterable[Timeline], clocks: JobClocks, job: JobSnapshot) -> Usual:
    """What is usual after these jobs, for a job that is seen now."""
    past = Past()
    for line in jobs:
        past.learn(line.events)
    return past.usual(clocks, job)
