"""Events of the log as the fold wants them: data decoded once, and the stored verdict held against the new one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from eventstore.errors import EventStoreError
from eventstore.events import LOG_JOB, RecordedEvent
from projections.fold import evolve, initial
from projections.state import JobState

_decode: Final = msgspec.json.Decoder().decode


class FoldMismatch(EventStoreError):
    """Folding the log again gave another verdict than the one that was stored: the fold or the log was changed."""

    code: ClassVar[str] = "fold_mismatch"

    def __init__(self, position: int, stored: object, recomputed: object) -> None:
        super().__init__(
            f"position {position}: stored verdict {stored}, folded again {recomputed}: the rules or the rows were"
            " changed; `headway verify` tells whether it was the rows"
        )
        self.position, self.stored, self.recomputed = position, stored, recomputed


class PastEvent:
    """A recorded event with its data decoded (`eventstore.inline.FoldEvent`)."""

    __slots__ = (
        "actor", "attempt", "data", "job_id", "occurred_us", "position", "recorded_us", "seq", "step", "type",
        "version",
    )  # fmt: skip

    def __init__(self, event: RecordedEvent) -> None:
        self.job_id = event.job_id
        self.type = event.type
        self.step = event.step
        self.attempt = event.attempt
        self.seq = event.seq
        self.data: dict[str, Any] = _decode(event.data_json)
        self.actor = event.actor
        self.occurred_us = event.occurred_us
        self.recorded_us = event.recorded_us
        self.position = event.position
        self.version = event.version


def fold_past(states: dict[str, JobState], events: Iterable[RecordedEvent]) -> None:
    """Fold events of the log into the states of their jobs. Raises `FoldMismatch` if a verdict isn't the stored one."""
    get = states.get
    for event in events:
        job_id = event.job_id
        state = get(job_id)
        if state is None:
            if job_id == LOG_JOB:
                continue
            state = states[job_id] = initial(job_id)
        _, verdict = evolve(state, PastEvent(event))
        if verdict != (event.applied, event.reason, event.ppm):
            raise FoldMismatch(event.position, (event.applied, event.reason, event.ppm), tuple(verdict))
