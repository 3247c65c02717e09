"""At most so many progress reports per second and source; the last value is never lost.

Not safe between threads by itself: the reporter calls it under its lock. A `source` is any hashable thing that
progresses: a step's attempt, or a job.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Hashable)
Value = dict[str, Any]
"""The data of a progress report."""


class Coalescer(Generic[S]):
    """Lets a value through at once, then holds the newest until `interval` seconds are over.

    While a value of the source is still on its way (`sent` said so, `arrived` not yet) the next is held too: however
    long the log is away, there is one value on its way and one held per source, not a queue of them.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval  # seconds
        self._next: dict[S, float] = {}
        self._held: dict[S, Value] = {}
        self._flying: set[S] = set()

    def offer(self, source: S, value: Value, now: float) -> Value | None:
        """The value to send now, or None: it is held. A newer value inherits message and metadata if it has none."""
        held = self._held.pop(source, None)
        if held is not None:
            for name in ("message", "metadata"):
                if name in held and name not in value:
                    value[name] = held[name]
        if source in self._flying or now < self._next.get(source, 0.0):
            self._held[source] = value
            return None
        self._sent(source, now)
        return value

    def holds(self, source: S) -> bool:
        return source in self._held

    def take(self, source: S) -> Value | None:
        """The held value, no longer held: what must go before the next event of this source."""
        return self._held.pop(source, None)

    def due(self, now: float) -> Iterator[tuple[S, Value]]:
        """The held values whose time has come."""
        for source in [s for s in self._held if s not in self._flying and self._next.get(s, 0.0) <= now]:
            value = self._held.pop(source)
            self._sent(source, now)
            yield source, value

    def next_due(self) -> float | None:
        """When a held value is due, None if nothing waits for time (but perhaps for an arrival)."""
        times = [self._next.get(source, 0.0) for source in self._held if source not in self._flying]
        return min(times) if times else None

    def arrived(self, source: S) -> None:
        """The value that was sent last is in the log, or was given up."""
        self._flying.discard(source)

    def forget(self, source: S) -> None:
        """The source has ended."""
        self._held.pop(source, None)
        self._next.pop(source, None)
        self._flying.discard(source)

    def sources(self) -> list[S]:
        """The sources that have something held."""
        return list(self._held)

    def _sent(self, source: S, now: float) -> None:
        self._next[source] = now + self.interval
        self._flying.add(source)
