"""`Hub`: one log, followed once for all its streams.

One task reads what happens now, and hands each event to the feeds whose filter may want it. While there is much to do,
what comes within a tick of up to 50 ms goes out together; otherwise at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import anyio

from api.streams.feed import Feed, Seat, Sieve
from api.streams.frames import Frame, frame_of
from eventstore.cursor import NOW, Cursor
from eventstore.errors import EventStoreError, LogDiverged, StoreUnavailable
from eventstore.events import RecordedEvent
from eventstore.filters import Filter
from eventstore.store import EventStore
from eventstore.subscription import Batch

logger = logging.getLogger("headway.streams")

TICK: Final = 0.05  # seconds that news may wait for more news, at most
REST: Final = 2.0  # times as long as a round took, the next one waits
SLICE: Final = 128 * 1024  # bytes of data in one round, about
LINGER: Final = 5.0  # seconds that a hub stays when its last reader has left: many come back
PATIENCE: Final = 5.0  # seconds for the first answer of the database

Key = tuple[Filter, bool, bool]
"""What makes two readers share a feed: the filter, whether a job's end is told, and `latest`."""


class Hub:
    """What happens in a log, from now on. `at`: the place up to which everything was handed to the feeds.

    `life` counts how often the log's history changed. Between two awaits of a caller `at` and the seats do not move.
    """

    def __init__(self, store: EventStore, redis_url: str) -> None:
        self._store, self._redis_url = store, redis_url or None
        self.at = Cursor(0)
        self.life = 0
        self.closed = False
        self._ready = asyncio.Event()
        self._feeds: dict[Key, Feed] = {}
        self._general: dict[Feed, None] = {}
        self._by_job: dict[str, dict[Feed, None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._holders = 0
        self.linger = LINGER
        self._leaving: asyncio.TimerHandle | None = None

    # -- who uses it ------------------------------------------------------------------------------------------------

    async def hold(self) -> None:
        """Make it run; `release` it once for each call. Raises `StoreUnavailable` if the database does not answer."""
        self._holders += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            with anyio.move_on_after(PATIENCE):
                await self._ready.wait()
            if self.closed or not self._ready.is_set():
                raise StoreUnavailable(f"log {self._store.log} can't be followed now: try again in a moment")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        self._holders -= 1
        if not self._holders and not self.closed:
            self._leaving = asyncio.get_running_loop().call_later(self.linger, self.stop)

    def stop(self) -> None:
        """End it, if nobody uses it."""
        if not self._holders:
            self.closed = True
            if self._leaving is not None:
                self._leaving.cancel()
            if self._task is not None:
                self._task.cancel()

    def sit(self, seat: Seat, wanted: Filter, jobs: Sequence[str] | None, *, follows: bool, latest: bool) -> None:
        """Take a seat: what comes after `at` is delivered to it."""
        key = (wanted, follows, latest)
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(Sieve(wanted, follows=follows, latest=latest), jobs)
            if jobs is None:
                self._general[feed] = None
            for job_id in jobs or ():
                self._by_job.setdefault(job_id, {})[feed] = None
        feed.seats.add(seat)

    def leave(self, seat: Seat, wanted: Filter, *, follows: bool, latest: bool) -> None:
        """Give the seat back; leaving twice is no error."""
        key = (wanted, follows, latest)
        feed = self._feeds.get(key)
        if feed is None:
            return
        feed.seats.discard(seat)
        if feed.seats:
            return
        del self._feeds[key]
        if feed.jobs is None:
            del self._general[feed]
        for job_id in feed.jobs or ():
            here = self._by_job[job_id]
            del here[feed]
            if not here:
                del self._by_job[job_id]

    # -- following --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._follow()
                except LogDiverged as error:
                    logger.warning("log %s: streams look for their place again: %s", self._store.log, error)
                    self._turn()
        except EventStoreError as error:
            logger.warning("log %s: its streams end: %s", self._store.log, error)
        except Exception:
            logger.exception("log %s: its streams end, and may begin again", self._store.log)
        finally:
            self.closed = True
            self._ready.set()
            for seat in self._all_seats():
                seat.close()

    async def _follow(self) -> None:
        async with self._store.subscribe(after=NOW, redis_url=self._redis_url) as first:
            head, position = await first.ask(partial(self._store.resolve, NOW))
            self.at = Cursor(position, head.epoch, head.hash[:4].hex())
            async with self._store.subscribe(after=self.at, redis_url=self._redis_url) as news:
                await first.aclose()
                if self._ready.is_set():
                    # Who took a seat since the last turn was told a place of the old history.
                    self._turn()
                self._ready.set()
                while True:
                    batch = await news.batch()
                    assert batch is not None
                    if batch.at.epoch != self.at.epoch:
                        self._turn()
                    for part, at in _slices(batch):
                        begun = time.perf_counter()
                        self._hand_out(part, at)
                        # What was written goes out at the end of a round of the event loop: that is part of the cost.
                        await asyncio.sleep(0)
                        await asyncio.sleep(min(REST * (time.perf_counter() - begun), TICK))

    def _hand_out(self, events: Sequence[RecordedEvent], at: Cursor) -> None:
        """To all feeds, without a pause: nobody takes a seat in the middle of it."""
        epoch = at.epoch or 1
        made: dict[int, Frame] = {}

        def frame(event: RecordedEvent) -> Frame:
            found = made.get(event.position)
            if found is None:
                found = made[event.position] = frame_of(event, epoch)
            return found

        self.at = at
        for feed in tuple(self._general):
            feed.take(events, at, frame)
        if self._by_job:
            theirs: dict[Feed, list[RecordedEvent]] = {}
            for event in events:
                for feed in self._by_job.get(event.job_id, ()):
                    theirs.setdefault(feed, []).append(event)
            for feed, some in theirs.items():
                feed.take(some, at, frame)

    def _turn(self) -> None:
        """The history may not be what it was: everybody looks whether his cursor is still on it."""
        self.life += 1
        for seat in self._all_seats():
            seat.turn(self.at)

    def _all_seats(self) -> list[Seat]:
        return [seat for feed in self._feeds.values() for seat in feed.seats]


def _slices(batch: Batch) -> Iterator[tuple[Sequence[RecordedEvent], Cursor]]:
    """The events in parts that readers can take at once, each with the place after it."""
    events, start, size = batch.events, 0, 0
    for index, event in enumerate(events):
        size += len(event.data_json) + 400
        if size >= SLICE and index + 1 < len(events):
            yield events[start : index + 1], Cursor(event.position, batch.at.epoch, event.hash[:4].hex())
            start, size = index + 1, 0
    yield events[start:], batch.at
