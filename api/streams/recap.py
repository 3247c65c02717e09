"""`Recaps`: for those who come back at once to the same place, what they missed is read and encoded once.

It is the first page of a catch-up. Who is further behind goes on alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import count
from typing import Final

from api.streams.feed import Sieve
from api.streams.frames import Chunk, Frame, frame_of
from eventstore.cursor import Cursor, Where
from eventstore.filters import Filter
from eventstore.store import EventStore
from eventstore.subscription import Batch

KEEP: Final = 0.25  # seconds that a page is kept for others
REMEMBERED: Final = 16  # pages
LANES: Final = 3  # pages of a log that are read at once; see `eventstore.live.THREADS`
PIECE: Final = 64 * 1024  # bytes in one chunk, about

Key = tuple[Cursor | Where, Filter, bool, bool]


class Recap:
    """What follows a place, up to `at`. `caught_up`: that was the end of the log.

    `status`: the job ended within it, or runs again; None if these events don't say.
    """

    __slots__ = ("_chunks", "_epoch", "_events", "_next", "at", "caught_up", "status")

    def __init__(self, batch: Batch, sieve: Sieve) -> None:
        self.at, self.caught_up, self.status = batch.at, batch.caught_up, sieve.status(batch.events)
        self._events, self._epoch, self._next = sieve.pick(batch.events), batch.epoch, 0
        self._chunks: list[Chunk] = []

    def chunks(self) -> Iterator[Chunk]:
        """The frames, encoded when the first reader comes to them: he need not wait for the whole page."""
        for index in count():
            if index == len(self._chunks) and not self._encode():
                return
            yield self._chunks[index]

    def _encode(self) -> bool:
        """One more chunk; False if there is none."""
        part: list[Frame] = []
        size = 0
        while size < PIECE and self._next < len(self._events):
            part.append(frame_of(self._events[self._next], self._epoch))
            size += len(part[-1].tail)
            self._next += 1
        if part:
            self._chunks.append(Chunk(part, self.at))
        return bool(part)


class _Page:
    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.readers = 0
        self.at = 0.0
        self.recap: Recap | None = None
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None


class Recaps:
    """The pages of one log that are being read, or were read a moment ago."""

    def __init__(self, store: EventStore, redis_url: str | None) -> None:
        self._store, self._redis_url = store, redis_url
        self.lanes = asyncio.Semaphore(LANES)
        """To be held while a page is read, also by those who read alone: the hub's own questions have a thread left."""
        self._pages: OrderedDict[Key, _Page] = OrderedDict()

    async def after(
        self,
        place: Cursor | Where,
        wanted: Filter,
        jobs: tuple[str, ...] | None,
        *,
        follows: bool,
        latest: bool,
        to: int,
    ) -> Recap:
        """The first page after a place; it is full, or reaches at least to position `to`, which the log has.

        Raises what a subscription raises.
        """
        key = (place, wanted, follows, latest)
        while True:
            page = self._pages.get(key)
            if page is None or (page.done.is_set() and not _good(page, to)):
                page = self._pages[key] = _Page()
                sieve = Sieve(wanted, follows=follows, latest=latest)
                page.task = asyncio.get_running_loop().create_task(self._read(page, place, jobs, sieve))
                self._pages.move_to_end(key)
                self._forget()
            await self._wait(key, page)
            if page.error is not None:
                raise page.error
            assert page.recap is not None
            if _reaches(page.recap, to):
                return page.recap

    async def _wait(self, key: Key, page: _Page) -> None:
        page.readers += 1
        try:
            await page.done.wait()
        finally:
            page.readers -= 1
            if not page.readers and not page.done.is_set():
                # All who wanted it have left.
                assert page.task is not None
                page.task.cancel()
                if self._pages.get(key) is page:
                    del self._pages[key]

    async def _read(self, page: _Page, place: Cursor | Where, jobs: tuple[str, ...] | None, sieve: Sieve) -> None:
        try:
            async with self._store.subscribe(after=place, jobs=jobs, redis_url=self._redis_url) as news:
                async with self.lanes:
                    batch = await news.batch()
                assert batch is not None
                page.recap = Recap(batch, sieve)
        except Exception as error:
            page.error = error
        finally:
            page.at = time.monotonic()
            page.done.set()
            asyncio.get_running_loop().call_later(KEEP, self._forget)

    def _forget(self) -> None:
        now = time.monotonic()
        for key, page in list(self._pages.items()):
            old = page.done.is_set() and now - page.at >= KEEP
            if old or (page.done.is_set() and len(self._pages) > REMEMBERED):
                del self._pages[key]


def _good(page: _Page, to: int) -> bool:
    return page.recap is not None and time.monotonic() - page.at < KEEP and _reaches(page.recap, to)


def _reaches(recap: Recap, to: int) -> bool:
    return not recap.caught_up or recap.at.position >= to
