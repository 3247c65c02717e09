"""`Wheel`: one clock for all streams of a process: heartbeats, tokens that end, old connections, readers at a halt.

A timer for each would be thousands; this looks at all of them once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

TURN: Final = 1.0  # seconds
STILL: Final = 10.0  # seconds that a reader may take nothing


def _now() -> float:
    return time.monotonic()


class Timed(Protocol):
    """A stream as the wheel sees it. `due`: when `tick` wants to be called next, in seconds of the wheel's clock."""

    due: float

    def tick(self, now: float) -> None:
        """It is time for something."""

    def taken(self) -> int | None:
        """How many bytes the client took so far; None if nothing is on its way to it."""

    def cut(self) -> None:
        """The client has taken nothing for too long."""


class Wheel:
    """Turns while there are streams. `clock` may be replaced by a test."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = _now
        self._streams: dict[Timed, None] = {}
        self._slow: dict[Timed, tuple[int, float]] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: Timed) -> None:
        self._streams[stream] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def remove(self, stream: Timed) -> None:
        self._streams.pop(stream, None)
        self._slow.pop(stream, None)

    def watch(self, stream: Timed) -> None:
        """Something is on its way to this stream's client: see to it that it moves."""
        if stream not in self._slow:
            self._slow[stream] = (-1, self.clock())

    async def _run(self) -> None:
        try:
            while self._streams:
                await asyncio.sleep(TURN)
                self.turn()
        finally:
            self._task = None

    def turn(self) -> None:
        """One look at everybody."""
        now = self.clock()
        for stream in list(self._streams):
            if stream.due <= now:
                stream.tick(now)
        for stream, (before, since) in list(self._slow.items()):
            taken = stream.taken()
            if taken is None:
                self._slow.pop(stream, None)
            elif taken != before:
                self._slow[stream] = (taken, now)
            elif now - since >= STILL:
                self._slow.pop(stream, None)
                stream.cut()
