"""A sink in memory: for tests, and for one process that relays to itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final

from eventstore.publishers import Entry, Publisher, Tail

KEEP: Final = 100_000


class InMemory(Publisher):
    """Keeps the newest entries of each log and epoch. Not for several event loops at once."""

    name: ClassVar[str] = "memory"

    def __init__(self, *, keep: int = KEEP) -> None:
        self.keep = keep
        self.streams: dict[tuple[str, int], deque[Entry]] = {}
        self.beats = 0

    async def look(self, log: str, epoch: int) -> Tail:
        for other in [key for key in self.streams if key[0] == log and key[1] < epoch]:
            del self.streams[other]
        return self._tail(log, epoch)

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        log, epoch = tail.log, tail.epoch
        if self._tail(log, epoch).state == tail.state:
            if replace:
                self.streams.pop((log, epoch), None)
            if entries:
                self.streams.setdefault((log, epoch), deque(maxlen=self.keep)).extend(entries)
        return self._tail(log, epoch)

    async def caught_up(self, log: str) -> None:
        del log
        self.beats += 1

    def _tail(self, log: str, epoch: int) -> Tail:
        stream = self.streams.get((log, epoch))
        if not stream:
            state = "none" if stream is None else "empty"
            return Tail(log=log, epoch=epoch, state=state, empty=stream is None)
        return Tail(log=log, epoch=epoch, state=stream[-1].cursor, cursor=stream[-1].cursor)
