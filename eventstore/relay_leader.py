"""A publisher's way through the log while it leads: find the place, publish, wait, repeat.

The sink is the judge of where it stands; the log is the judge of whether that place is on its history.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec
import psycopg
import sqlalchemy as sa
from anyio.streams.memory import MemoryObjectSendStream

from eventstore.batch import Head
from eventstore.cursor import Cursor, parse_cursor
from eventstore.errors import EventStoreError, InvalidCursor, LogDiverged
from eventstore.handoff import Handoff
from eventstore.lease import Published
from eventstore.publishers import Entry, Publisher, Tail
from eventstore.relay_pages import PAGE, Pages, read_on, read_page
from eventstore.store import EventStore
from eventstore.wakeup import Bell

logger = logging.getLogger("headway.relay")
P = ParamSpec("P")
R = TypeVar("R")

BEAT: Final = 1.0  # seconds between looks at an idle sink
INLINE: Final = 100
"""Handed-over events up to this many are encoded on the spot, more of them in a thread."""
TRANSIENT: Final = (EventStoreError, psycopg.Error, sa.exc.SQLAlchemyError, OSError)
"""What a relay meets in its life: logged as a line. Anything else is a fault of ours and is logged with its stack."""


def _go_on(point: str) -> None:
    del point


crash_point: Callable[[str], None] = _go_on
"""Called at `after read`, `before publish`, `after publish`, `before checkpoint`: a test puts a kill in its place."""


class Progress(msgspec.Struct):
    """How far a publisher is. `lag` in events; `error` is why it can't go on at this moment.

    `published` counts since this relay leads, `reseeds` how often a sink that lost its place was filled again.
    """

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


class Leader:
    """One term of one publisher, begun at a checkpoint. `works` is called after each success."""

    def __init__(
        self,
        store: EventStore,
        publisher: Publisher,
        published: Published,
        progress: Progress,
        works: Callable[[], None],
    ) -> None:
        self._store, self._publisher, self._progress, self._works = store, publisher, progress, works
        self._tail = Tail(log=store.log, epoch=published.epoch, state="")
        self._after, self._hash8 = published.position, published.hash8
        self._replace = False
        self._page = PAGE
        self._beat_at = 0.0
        self._seeded_at = -1e9
        self._known_hole = 0

    @property
    def published(self) -> Published:
        """The checkpoint as of now."""
        return Published(self._after, self._hash8, self._tail.epoch)

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
                _, self._after = await in_thread(self._store.resolve, cursor)
                self._hash8 = cursor.hash8 or ""
                self._progress.position = self._after
                return
            except (LogDiverged, InvalidCursor) as error:
                why = str(error)
        elif tail.empty or tail.unsure:
            why = "it lost everything" if before else ""
        else:
            why = f"it holds something else ({tail.state[:80]!a})"
        head = await in_thread(self._store.head)
        if head.epoch != tail.epoch:
            return  # the next read sees it too, and begins anew
        self._after, self._hash8, self._replace = max(0, head.position - self._publisher.keep), "", True
        if why:
            self._progress.reseeds += 1
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

    async def lead(self, bell: Bell, handoff: Handoff) -> None:
        """Publish until cancelled. Raises what the sink or the database raise; then it is for a new term to go on."""
        await self._begin(await in_thread(self._store.head))
        look, waited = True, False
        while True:
            before = self._after
            handed = handoff.take(self._after, self._tail.epoch)
            if handed:
                self._progress.head = max(self._progress.head, handed[-1].position)
                encode, epoch = self._publisher.encode, self._tail.epoch
                few = len(handed) <= INLINE
                entries = encode(handed, epoch) if few else await in_thread(encode, handed, epoch)
                look = not await self._publish(entries)
            elif look:
                look = await self._publish_next(bell if waited else None)
            if self._after >= self._progress.head:
                await self._caught_up()
            if self._publisher.pace and self._after != before:
                await anyio.sleep(self._publisher.pace)
            waited = not look and not handed
            if waited:
                await bell.wait(after=self._after)
                look = True

    async def _publish_next(self, bell: Bell | None) -> bool:
        """Publish what PostgreSQL has. True: there may be more, or the sink stood elsewhere."""
        read = await in_thread(read_page, self._store, self._publisher, self._after, self._page)
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
                while (read := await in_thread(next, pages, None)) is not None:
                    self._noted(read)
                    await send.send(read)
            except anyio.BrokenResourceError:
                pass  # nobody wants more pages
            except Exception as error:
                with suppress(anyio.BrokenResourceError):
                    await send.send(error)
            finally:
                with anyio.move_on_after(1, shield=True):
                    await in_thread(_close, pages)

    def _noted(self, read: Pages) -> None:
        self._page = read.page
        self._progress.head = read.head.position
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
        self._progress.position = last.position
        self._progress.published += len(entries)
        self._works()
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
            self._works()


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a blocking function of the store in a thread; if the caller is cancelled, the thread is left to itself."""
    return await anyio.to_thread.run_sync(partial(function, *args, **kwargs), abandon_on_cancel=True)


def _close(pages: Generator[Pages]) -> None:
    try:
        pages.close()
    except (ValueError, *TRANSIENT):
        pass  # ValueError: a thread that was abandoned is still in it, and closes it when it is done
