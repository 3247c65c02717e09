"""`Consumer`: a subscription that remembers how far it came, under a name, in PostgreSQL.

async for event in store.consume("billing"):              # at least once: saved after the event was handled
    await send(event)

consumer = store.consume("billing")
async for event in consumer:                              # exactly once: saved with the effect
    with engine.begin() as conn:
        conn.execute(…)
        consumer.save_in(conn)
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final, Unpack

import anyio
import anyio.to_thread
import psycopg
import sqlalchemy as sa

from eventstore.aio import AsyncEventStore
from eventstore.checkpoints import Checkpoints, check_own_name
from eventstore.cursor import format_cursor
from eventstore.errors import CheckpointMoved, EventStoreError, StoreUnavailable
from eventstore.events import RecordedEvent
from eventstore.filters import Following
from eventstore.store import EventStore
from eventstore.subscription import subscribe

logger = logging.getLogger("headway.consumer")

SAVE_EVERY: Final = 1.0  # seconds
_LAST_SAVE: Final = 2.0  # seconds that the save at the end may take


def consume(
    store: EventStore | AsyncEventStore, name: str, *, save_every: float = SAVE_EVERY, **following: Unpack[Following]
) -> Consumer:
    """Follow a log under a name, from its checkpoint on; `after` says where a name that is new begins.

    The other parameters are those of `subscribe`. Raises `InvalidFilter` for a bad name or filter.
    """
    return Consumer(store.blocking if isinstance(store, AsyncEventStore) else store, name, save_every, following)


class Consumer:
    """The events of a log for one named consumer; made by `consume` or `EventStore.consume`.

    An event counts as handled when the next one is asked for. What was handled is saved `save_every` seconds later at
    the latest, and at the end of the iteration: after a crash up to that much comes again, and nothing is missed. Who
    calls `save_in` for each event has its effect exactly once. One process per name: a second one, a reset or a
    deletion raise `CheckpointMoved`. Also raises what a `Subscription` raises: `LogDiverged` is answered by a reset.
    """

    def __init__(self, store: EventStore, name: str, save_every: float, following: Following) -> None:
        self.name = name
        self.checkpoints = Checkpoints(store)
        check_own_name(name)
        self._store = store
        self._save_every = save_every
        self._start = following.get("after")
        self._following = following
        subscribe(store, **following)  # refuse a bad filter now
        self._saved = ""  # the cursor that the row holds
        self._handled = ""
        self._handed = ""
        self._due = math.inf
        self._trying: str | None = None  # a save whose answer got lost: it may be done or not
        self._iteration: object = None

    @property
    def cursor(self) -> str:
        """The cursor after the last event that was handled; empty before the checkpoint was read."""
        return self._handled

    def save_in(self, conn: psycopg.Connection[Any] | sa.Connection) -> None:
        """Save the event that was handed over last as handled, in the caller's transaction. See `Checkpoints.save_in`.

        Call it once per event, best as the last statement before the commit: it holds the consumer's row until then.
        If the transaction is rolled back after all, leave the loop: the next save would raise `CheckpointMoved`.
        """
        self.checkpoints.save_in(conn, self.name, self._handed, expected=self._saved)
        self._saved = self._handled = self._handed

    async def save_in_async(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """`save_in` on an asynchronous connection of psycopg."""
        await self.checkpoints.save_in_async(conn, self.name, self._handed, expected=self._saved)
        self._saved = self._handled = self._handed

    async def __aiter__(self) -> AsyncGenerator[RecordedEvent, None]:
        mine = self._iteration = object()
        found = await self._first()
        self._saved = self._handled = self._handed = found
        self._due, self._trying = math.inf, None
        following = self._following.copy()
        following["after"] = found
        async with subscribe(self._store, **following) as events:
            try:
                while True:
                    batch = await events.batch(self._due - time.monotonic())
                    if batch is not None:
                        for event in batch.events:
                            self._handed = format_cursor(batch.epoch, event.position, event.hash[:4].hex())
                            yield event
                            await self._done(self._handed)
                        await self._done(batch.cursor)
                    else:
                        await self._done(events.cursor)
            finally:
                if self._iteration is mine:
                    with anyio.move_on_after(_LAST_SAVE, shield=True):
                        await self._save(last=True)

    async def _first(self) -> str:
        """The cursor of the checkpoint, made where it is missing; waits for a PostgreSQL that is away."""
        async with subscribe(self._store, **self._following) as waiting:
            found = await waiting.ask(partial(self.checkpoints.create, self.name, self._start))
        return found.cursor

    async def _done(self, cursor: str) -> None:
        self._handled = cursor
        now = time.monotonic()
        if self._handled == self._saved:
            self._due = math.inf
        elif now >= self._due or self._save_every <= 0:
            await self._save()
        elif self._due == math.inf:
            self._due = now + self._save_every

    async def _save(self, *, last: bool = False) -> None:
        if self._handled == self._saved:
            return
        again = self._trying is not None
        cursor = self._trying = self._trying or self._handled
        try:
            await anyio.to_thread.run_sync(self._move, cursor, again, abandon_on_cancel=True)
        except (StoreUnavailable, psycopg.OperationalError, psycopg.InterfaceError) as error:
            # At least once is the promise: what is not saved comes again.
            logger.info("consumer %r: not saved, tried again: %s", self.name, error)
            self._due = time.monotonic() + self._save_every
        except EventStoreError:
            self._trying = None
            if not last:
                raise
            logger.warning("consumer %r: its checkpoint was moved by somebody else, nothing was saved", self.name)
        else:
            self._saved, self._trying, self._due = cursor, None, math.inf
            if again:
                await self._save(last=last)  # what was handled since

    def _move(self, cursor: str, again: bool) -> None:
        """`again`: a checkpoint that stands at the cursor is the work of the attempt before."""
        try:
            self.checkpoints.move(self.name, cursor, expected=self._saved)
        except CheckpointMoved:
            found = self.checkpoints.read(self.name) if again else None
            if found is None or found.cursor != cursor:
                raise
