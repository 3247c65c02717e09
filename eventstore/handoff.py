"""Events handed over by the committer of the same process, so that the relay need not read what was just written.

A hint like every wake-up: what does not fit is dropped, and the reader finds the hole by its positions.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from eventstore.batch import Head
from eventstore.events import RecordedEvent

MAX_EVENTS: Final = 5_000
MAX_BYTES: Final = 8 * 1024 * 1024


class Handoff:
    """Batches of one log between the committer's thread and one event loop.

    `put` is a listener for `EventStore.on_append`; `rung(head)` is called in the event loop after news. Nothing is kept
    while it is closed.
    """

    def __init__(self, log_id: int, rung: Callable[[int], None]) -> None:
        self._log_id, self._rung = log_id, rung
        self._lock = threading.Lock()
        self._batches: deque[tuple[Head, Sequence[RecordedEvent], int]] = deque()
        self._events = self._bytes = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ringing = False
        self._newest = 0

    def open(self) -> None:
        """Begin to keep, for the running event loop."""
        with self._lock:
            self._loop, self._ringing = asyncio.get_running_loop(), False

    def close(self) -> None:
        with self._lock:
            self._loop = None
            self._batches.clear()
            self._events = self._bytes = 0

    def put(self, head: Head, events: Sequence[RecordedEvent]) -> None:
        """Called in the committer's thread; never raises, never waits."""
        if head.log_id != self._log_id:
            return
        size = sum([len(event.data_json) for event in events])
        with self._lock:
            loop = self._loop
            if loop is None:
                return
            if self._events + len(events) <= MAX_EVENTS and self._bytes + size <= MAX_BYTES:
                self._batches.append((head, events, size))
                self._events += len(events)
                self._bytes += size
            self._newest = head.position
            if self._ringing:
                return
            self._ringing = True
            try:
                loop.call_soon_threadsafe(self._ring)
            except RuntimeError:  # the loop was closed under us
                self._loop = None

    def take(self, after: int, epoch: int, limit: int = 1_000) -> list[RecordedEvent]:
        """The events that follow position `after` without a hole, up to about `limit`; forgets what is older."""
        taken: list[RecordedEvent] = []
        with self._lock:
            while self._batches and len(taken) < limit:
                head, events, size = self._batches[0]
                first = events[0].position
                if first > after + 1 and head.epoch == epoch:
                    break
                self._batches.popleft()
                self._events -= len(events)
                self._bytes -= size
                if head.epoch == epoch and head.position > after:
                    taken += events[after + 1 - first :]
                    after = head.position
        return taken

    def _ring(self) -> None:
        with self._lock:
            self._ringing = False
            newest = self._newest
        self._rung(newest)
