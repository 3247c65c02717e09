"""One publisher's way through the log: lease, place, publish, repeat. Each has its own, and none waits for another.

The sink is the judge of where it stands; the log is the judge of whether that place is on its history.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import msgspec
import psycopg
import sqlalchemy as sa
from anyio.streams.memory import MemoryObjectSendStream

from eventstore import lease
from eventstore.batch import Head
from eventstore.cursor import Cursor, parse_cursor
from eventstore.errors import EventStoreError, InvalidCursor, LogDiverged
from eventstore.handoff import Handoff
from eventstore.publishers import Entry, Publisher, Tail
from eventstore.relay_pages import PAGE, Pages, read_on, read_page
from eventstore.store import EventStore
from eventstore.wakeup import Bell

logger = logging.getLogger("headway.relay")
R = TypeVar("R")

CALM: Final = 10.0  # seconds
BEAT: Final = 1.0  # seconds between looks at an idle sink
BACKOFF: Final = 0.05, 1.0  # seconds: at first, at most
INLINE: Final = 100
"""Handed-over events up to this many are encoded on the spot, more of them in a thread."""


def _go_on(point: str) -> None:
    del point


crash_point: Callable[[str], None] = _go_on
"""Called at `after read`, `before publish`, `after publish`, `before checkpoint`: a test puts a kill in its place."""


class Progress(msgspec.Struct):
    """How far a publisher is. `lag` in events; `error` is why it can't go on at this moment."""

    name: str
    leading: bool = False
    position: int = 0
    head: int = 0
    published: int = 0
    reseeds: int = 0
    error: str | None = None

    @property
    def lag(self) -> int:
        return max(self.head - self.position, 0)


class Line:
    """Publishes one log to one publisher, as long as it holds the lease. `run` ends only when it is cancelled."""

    def __init__(self, store: EventStore, log_id: int, publisher: Publisher) -> None:
        self._store, self._log_id, self._publisher = store, log_id, publisher
        self._name = f"relay:{publisher.name}"
        self._owner = lease.new_owner()
        self._limiter = anyio.CapacityLimiter(4)
        self.progress = Progress(publisher.name)
        self._tail = Tail(log=store.log, epoch=0, state="")
        self._after = 0
        self._hash8 = "00000000"
        self._replace = False
        self._page = PAGE
        self._beat_at = 0.0
        self._known_hole = 0
        self._down_since: float | None = None
        self._following_since: float | None = None
        self._seeded_at = -1e9

    async def run(self, bell: Bell, handoff: Handoff) -> None:
        """Lead whenever the lease is free; whatever fails is tried again, a little later each time."""
        failures = 0
        while True:
            try:
                published = await self._thread(self._acquire)
                if published is None:
                    await self._follow()
                    continue
                failure = await self._lead_for_a_term(published, bell, handoff)
                if failure is None:
                    continue  # another one holds the lease
                failures = 0 if self.progress.published else failures
                raise failure
            except TRANSIENT as error:
                self._down(error)
            except Exception as error:
                self._down(error)  # a fault of ours: it must not stop the other publishers, nor end silently
                failures = max(failures, 5)
            failures += 1
            await anyio.sleep(random.uniform(0.5, 1) * min(BACKOFF[0] * 2 ** min(failures, 10), BACKOFF[1]))  # noqa: S311

    async def _follow(self) -> None:
        """Another relay leads. Once it has done so for a while, what stopped us is over."""
        if self._following_since is None:
            self._following_since = time.monotonic()
        elif time.monotonic() - self._following_since > CALM:
            self._up()
        await anyio.sleep(lease.RENEW)

    async def _lead_for_a_term(self, published: lease.Published, bell: Bell, handoff: Handoff) -> Exception | None:
        """Lead until the lease is another one's (None) or something fails (that)."""
        failure: Exception | None = None
        self.progress.leading, self.progress.published = True, 0
        self._following_since = None
        handoff.open()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hold, tasks.cancel_scope)
                try:
                    await self._lead(published, bell, handoff)
                except Exception as error:
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self.progress.leading = False
            handoff.close()
            with anyio.move_on_after(1, shield=True):
                await self._resign()
        return failure

    async def _hold(self, scope: anyio.CancelScope) -> None:
        """Renew the lease and write the checkpoint; end the term when another one leads."""
        while True:
            await anyio.sleep(lease.RENEW)
            try:
                crash_point("before checkpoint")
                if not await self._thread(self._renew):
                    logger.info("log %s: another relay leads %s now", self._store.log, self._publisher.name)
                    scope.cancel()
                    return
            except TRANSIENT as error:
                logger.info("log %s: the lease of %s is not renewed: %s", self._store.log, self._name, error)

    # -- the place --------------------------------------------------------------------------------------------------

    async def _begin(self, head: Head) -> None:
        """Find out where the sink stands in this epoch."""
        await self._settle(await self._publisher.look(self._store.log, head.epoch))

    async def _settle(self, tail: Tail) -> None:
        """Go on from where the sink stands if that is on the log's history; else fill it again with what is recent."""
        before = self._after if tail.epoch == self._tail.epoch else 0
        self._tail, self._replace = tail, False
        if tail.unsure and before:
            return
        if tail.cursor is not None:
            cursor = parse_cursor(tail.cursor)
            assert isinstance(cursor, Cursor)
            try:
                _, self._after = await self._thread(self._store.resolve, cursor)
                self._hash8 = cursor.hash8 or ""
                self.progress.position = self._after
                return
            except (LogDiverged, InvalidCursor) as error:
                why = str(error)
        elif tail.empty or tail.unsure:
            why = "it lost everything" if before else ""
        else:
            why = f"it holds something else ({tail.state[:80]!a})"
        head = await self._thread(self._store.head)
        if head.epoch != tail.epoch:
            return  # the next read sees it too, and begins anew
        self._after, self._hash8, self._replace = max(0, head.position - self._publisher.keep), "", True
        if why:
            self.progress.reseeds += 1
            logger.warning(
                "log %s: %s is filled again from position %d: %s",
                self._store.log, self._publisher.name, self._after + 1, why,
            )  # fmt: skip
            if time.monotonic() - self._seeded_at < 1:
                await anyio.sleep(random.uniform(0.5, 1))  # noqa: S311 - two who fill it in turns must come apart
            self._seeded_at = time.monotonic()
        if self._after == head.position:
            self._tail, self._replace = await self._publisher.publish(tail, [], replace=True), False

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def _lead(self, published: lease.Published, bell: Bell, handoff: Handoff) -> None:
        head = await self._thread(self._store.head)
        self._tail = Tail(log=head.name, epoch=published.epoch, state="")
        self._after, self._hash8 = published.position, published.hash8
        await self._begin(head)
        look, waited = True, False
        while True:
            before = self._after
            handed = handoff.take(self._after, self._tail.epoch)
            if handed:
                self.progress.head = max(self.progress.head, handed[-1].position)
                encode, epoch = self._publisher.encode, self._tail.epoch
                few = len(handed) <= INLINE
                entries = encode(handed, epoch) if few else await self._thread(encode, handed, epoch)
                look = not await self._publish(entries)
            elif look:
                look = await self._publish_next(bell if waited else None)
            if self._after >= self.progress.head:
                await self._caught_up()
            if self._publisher.pace and self._after != before:
                await anyio.sleep(self._publisher.pace)
            waited = not look and not handed
            if waited:
                await bell.wait(after=self._after)
                look = True

    async def _publish_next(self, bell: Bell | None) -> bool:
        """Publish what PostgreSQL has. True: there may be more, or the sink stood elsewhere."""
        read = await self._thread(read_page, self._store, self._publisher, self._after, self._page)
        self._noted(read)
        if read.head.epoch != self._tail.epoch:
            await self._begin(read.head)
            return True
        if not read.entries:
            return False
        if bell is not None:
            bell.found()
        if not await self._publish(read.entries):
            return True
        if read.more:
            await self._catch_up()
        return read.more

    async def _catch_up(self) -> None:
        """Publish what PostgreSQL has; while the sink works on some pages, the next ones are read."""
        failure: Exception | None = None
        send, receive = anyio.create_memory_object_stream[Pages | Exception](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_ahead, send)
            async with receive:
                try:
                    async for read in receive:
                        if isinstance(read, Exception):
                            raise read
                        if read.head.epoch != self._tail.epoch or not read.entries:
                            break
                        if not await self._publish(read.entries) or not read.more:
                            break
                except Exception as error:
                    failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read_ahead(self, send: MemoryObjectSendStream[Pages | Exception]) -> None:
        pages = read_on(self._store, self._publisher, self._after, self._page)
        async with send:
            try:
                while (read := await self._thread(next, pages, None)) is not None:
                    self._noted(read)
                    await send.send(read)
            except Exception as error:
                await send.send(error)
            finally:
                with anyio.move_on_after(1, shield=True):
                    await self._thread(_close, pages)

    def _noted(self, read: Pages) -> None:
        self._page = read.page
        self.progress.head = read.head.position
        if read.hole is not None and read.hole > self._known_hole:
            self._known_hole = read.hole
            logger.error("log %s: position %d is missing in the log, see `headway verify`", read.head.name, read.hole)
        crash_point("after read")

    async def _publish(self, entries: Sequence[Entry]) -> bool:
        """Publish what follows `_after`. False: the sink stood elsewhere, and `_after` says where to go on."""
        crash_point("before publish")
        tail = await self._publisher.publish(self._tail, entries, replace=self._replace)
        crash_point("after publish")
        last = entries[-1]
        if tail.cursor != last.cursor:
            await self._settle(tail)
            return False
        self._tail, self._replace = tail, False
        self._after, self._hash8 = last.position, last.cursor[-8:]
        self.progress.position = last.position
        self.progress.published += len(entries)
        self._up()
        return True

    async def _caught_up(self) -> None:
        """About once a second: look whether the sink still is where we left it, then tell it that it is fresh."""
        now = time.monotonic()
        if now < self._beat_at:
            return
        self._beat_at = now + BEAT
        tail = await self._publisher.look(self._tail.log, self._tail.epoch)
        if tail.state != self._tail.state:
            await self._settle(tail)
        else:
            await self._publisher.caught_up(self._tail.log)
            self._up()

    # -- blocking parts, each in a thread ---------------------------------------------------------------------------

    async def _thread(self, function: Callable[..., R], *args: object) -> R:
        def call() -> R:
            return function(*args)

        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)

    def _acquire(self) -> lease.Published | None:
        with self._store.database.session() as conn:
            return lease.acquire(conn, self._log_id, self._name, self._owner)

    def _renew(self) -> bool:
        at = lease.Published(self._after, self._hash8, self._tail.epoch)
        with self._store.database.session() as conn:
            return lease.renew(conn, self._log_id, self._name, self._owner, at)

    def _release(self) -> None:
        with self._store.database.session() as conn:
            lease.release(conn, self._log_id, self._name, self._owner)

    async def _resign(self) -> None:
        try:
            await self._thread(self._renew)
            await self._thread(self._release)
        except TRANSIENT:
            pass  # the lease runs out by itself

    # -- loss and return --------------------------------------------------------------------------------------------

    def _down(self, error: Exception) -> None:
        self.progress.error = str(error)
        if self._down_since is None:
            self._down_since = time.monotonic()
            logger.warning(
                "log %s: publisher %s can't go on, it is tried again: %s",
                self._store.log, self._publisher.name, error, exc_info=not isinstance(error, TRANSIENT),
            )  # fmt: skip

    def _up(self) -> None:
        self.progress.error = None
        since, self._down_since = self._down_since, None
        if since is not None:
            logger.warning(
                "log %s: publisher %s goes on after %.1f s, at position %d",
                self._store.log, self._publisher.name, time.monotonic() - since, self._after,
            )  # fmt: skip


TRANSIENT: Final = (EventStoreError, psycopg.Error, sa.exc.SQLAlchemyError, OSError)


def _close(pages: Generator[Pages]) -> None:
    try:
        pages.close()
    except (ValueError, *TRANSIENT):
        pass  # ValueError: a thread that was abandoned is still in it, and closes it when it is done
