"""`Feed`: one filter over a log, encoded once for everybody who has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from api.streams.frames import Chunk, Frame
from eventstore.cursor import Cursor
from eventstore.events import RecordedEvent
from eventstore.filters import Filter
from projections.state import CANCELLED, COMPLETED, FAILED, RUNNING

ENDINGS: Final = {
    "job.completed": COMPLETED,
    "job.failed": FAILED,
    "job.cancelled": CANCELLED,
    "job.reopened": RUNNING,
}
WHOLE: Final = 1_000_000  # parts per million: only a job that completed is there, also one that did so by its last step


class Seat(Protocol):
    """Who listens to a feed. Called in the event loop; must not wait."""

    def deliver(self, chunk: Chunk) -> None:
        """What is new under the filter."""

    def turn(self, at: Cursor) -> None:
        """The log's history may have changed after `at`: look whether your cursor is still on it."""

    def close(self) -> None:
        """Nothing will come any more."""


def status_after(events: Sequence[RecordedEvent]) -> str | None:
    """The status with which a job ended by these events of it, or `running` if it was reopened; None if neither."""
    for event in reversed(events):
        if event.applied:
            if event.ppm == WHOLE:
                return COMPLETED
            if event.type in ENDINGS:
                return ENDINGS[event.type]
    return None


def newest(events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
    """The last event of each step, and of each type of what jobs say without a step; in order."""
    last = {(event.job_id, event.step, None if event.step else event.type): event for event in events}
    return sorted(last.values(), key=lambda event: event.position) if len(last) < len(events) else events


class Sieve:
    """What of a log is shown. `follows`: it is of one job, whose end is told; `latest`: newest events only."""

    def __init__(self, wanted: Filter, *, follows: bool, latest: bool) -> None:
        self._select = wanted.compiled()
        self._follows, self._latest = follows, latest

    def pick(self, events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
        """The events to be shown."""
        passed = self._select(events)
        return newest(passed) if self._latest else passed

    def status(self, events: Sequence[RecordedEvent]) -> str | None:
        """See `status_after`; always None where no single job is followed."""
        return status_after(events) if self._follows else None


class Feed:
    """A sieve over some jobs (None: over the whole log) with those who listen to it."""

    def __init__(self, sieve: Sieve, jobs: Sequence[str] | None) -> None:
        self.jobs = jobs
        self.seats: set[Seat] = set()
        self._sieve = sieve

    def take(self, events: Sequence[RecordedEvent], at: Cursor, frame: Callable[[RecordedEvent], Frame]) -> None:
        """Events of its jobs have come; the log stands at `at` after them."""
        frames, status = [frame(event) for event in self._sieve.pick(events)], self._sieve.status(events)
        if frames or status is not None:
            chunk = Chunk(frames, at, status=status)
            for seat in tuple(self.seats):
                seat.deliver(chunk)
