"""How much one key may do, and how many streams one process serves. No limit per key where no key is needed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from api.auth import Principal
from api.problems import Stopping, TooManyRequests

MOST_KEYS: Final = 100_000  # buckets kept; one that was dropped begins anew, full


class Bucket:
    """A token bucket: `rate` a second, `burst` at once. `clock` gives seconds."""

    __slots__ = ("_full", "_left", "_rate", "_seen")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._full, self._left, self._seen = rate, float(burst), float(burst), now

    def take(self, now: float) -> float:
        """Take one; 0.0, or the seconds after which there will be one."""
        self._left = min(self._full, self._left + max(0.0, now - self._seen) * self._rate)
        self._seen = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._rate
        self._left -= 1.0
        return 0.0


class Limits:
    """The counters of one process. `rate` appends a second and key, `burst` at once; streams per key and in all."""

    def __init__(
        self,
        *,
        rate: float = 200.0,
        burst: int = 1_000,
        streams_per_key: int = 100,
        streams: int = 10_000,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._rate, self._burst = rate, burst
        self._streams_per_key, self._most_streams = streams_per_key, streams
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._open: dict[str, int] = {}
        self.streams = 0
        """Streams that are open now."""

    def append(self, who: Principal) -> None:
        """Count one append request of this key. Raises `TooManyRequests` with the time after which to try again."""
        if who.key_id is None:
            return
        now = (self._clock or time.monotonic)()
        bucket = self._buckets.get(who.key_id)
        if bucket is None:
            bucket = self._buckets[who.key_id] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(who.key_id)
        wait = bucket.take(now)
        if wait:
            raise TooManyRequests(f"this key may append {self._rate:g} times a second: try again later", wait)

    @contextmanager
    def open_stream(self, who: Principal) -> Iterator[None]:
        """Count a stream while it is open.

        Raises `TooManyRequests` at the key's limit, and `Stopping` (503) at the process'.
        """
        if self.streams >= self._most_streams:
            raise Stopping(f"{self._most_streams:,} streams are open here: try again later, or another server")
        key, mine = who.key_id, 0
        if key is not None:
            mine = self._open.get(key, 0)
            if mine >= self._streams_per_key:
                raise TooManyRequests(f"this key has {mine} streams open: close one, or share one", 5.0)
            self._open[key] = mine + 1
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1
            if key is not None:
                left = self._open[key] - 1
                if left:
                    self._open[key] = left
                else:
                    del self._open[key]
