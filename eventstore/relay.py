"""The relay: publishes every event of a log, in order, to each of its publishers (DESIGN section 7).

    await Relay(store, [RedisStreams(redis_url)]).run()          # in an asyncio program
    with start_relay(Relay(store, [RedisStreams(redis_url)])):   # beside blocking code, in a thread with its own loop

Any number of relays may run: per publisher one leads, the others wait for its lease to end. What keeps the stream free
of duplicates, gaps and disorder is not the lease, but the comparison that the sink makes before it appends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

import anyio
import anyio.from_thread
import anyio.to_thread

from eventstore.handoff import Handoff
from eventstore.publishers import LoadSnapshots, Publisher
from eventstore.relay_leader import TRANSIENT, Progress
from eventstore.relay_line import BACKOFF, Line
from eventstore.store import EventStore
from eventstore.wakeup import bell

logger = logging.getLogger("headway.relay")

__all__ = ["Progress", "Relay", "start_relay"]


class Relay:
    """Publishes the log of `store` to `publishers`, each at its own pace and with its own checkpoint, `relay:NAME`.

    `snapshots` fills the snapshot cache of those publishers that have one: a blocking function that gets job ids and
    gives JSON snapshots with version and cursor. What the store appends in this process is handed over without a read.
    """

    def __init__(
        self, store: EventStore, publishers: Sequence[Publisher], *, snapshots: LoadSnapshots | None = None
    ) -> None:
        self._store = store
        self._publishers = list(publishers)
        if snapshots is not None:
            caches = [publisher.snapshot_cache(snapshots) for publisher in publishers]
            self._publishers += [cache for cache in caches if cache is not None]
        names = [publisher.name for publisher in self._publishers]
        if len(set(names)) != len(names):
            raise ValueError(f"publishers: each name may be there once, because it names a checkpoint; given {names}")
        self._lines: list[Line] = []

    @property
    def progress(self) -> list[Progress]:
        """How far each publisher is, as far as this relay knows."""
        return [line.progress for line in self._lines]

    async def run(self) -> None:
        """Publish until cancelled; then give back the leases. Raises `NoSuchLog`; all else is tried again."""
        log_id = await self._find_log()
        self._lines = [Line(self._store, log_id, publisher) for publisher in self._publishers]
        try:
            async with anyio.create_task_group() as tasks:
                for line in self._lines:
                    tasks.start_soon(self._run_line, line, log_id)
        finally:
            with anyio.move_on_after(1, shield=True):
                for publisher in self._publishers:
                    await publisher.aclose()

    async def _run_line(self, line: Line, log_id: int) -> None:
        database = self._store.database
        async with bell(database.url, log_id, listen=not database.pgbouncer) as told:
            handoff = Handoff(log_id, lambda head: told.ring(log_id, head))
            forget = self._store.on_append(handoff.put)
            try:
                await line.run(told, handoff)
            finally:
                forget()

    async def _find_log(self) -> int:
        """The log's number; waits for a database that is not there yet."""
        warned = False
        while True:
            try:
                return await anyio.to_thread.run_sync(self._store.log_id, abandon_on_cancel=True)
            except TRANSIENT as error:
                if not getattr(error, "retryable", True):
                    raise
                if not warned:
                    logger.warning("log %s: the relay waits for PostgreSQL: %s", self._store.log, error)
                    warned = True
            await anyio.sleep(BACKOFF[1])


@contextmanager
def start_relay(relay: Relay) -> Iterator[Relay]:
    """Run the relay in a thread with its own event loop, for programs that have none; stop it at the end.

    Raises at the end what ended the relay early.
    """
    with anyio.from_thread.start_blocking_portal(name="headway-relay") as portal:
        running = portal.start_task_soon(relay.run)
        try:
            yield relay
        finally:
            running.cancel()
            try:
                running.result()
            except CancelledError:
                pass
