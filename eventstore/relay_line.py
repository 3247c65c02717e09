"""One publisher of a relay: it leads while it holds the lease, else it waits for it. None waits for another one."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

import anyio

from eventstore import lease, relay_leader
from eventstore.handoff import Handoff
from eventstore.lease import Published
from eventstore.publishers import Publisher
from eventstore.relay_leader import TRANSIENT, Leader, Progress, in_thread
from eventstore.store import EventStore
from eventstore.wakeup import Bell

logger = logging.getLogger("headway.relay")

CALM: Final = 10.0  # seconds
BACKOFF: Final = 0.05, 1.0  # seconds: at first, at most


class Line:
    """Publishes one log to one publisher, as long as it holds the lease. `run` ends only when it is cancelled."""

    def __init__(self, store: EventStore, log_id: int, publisher: Publisher) -> None:
        self._store, self._log_id, self._publisher = store, log_id, publisher
        self._name = f"relay:{publisher.name}"
        self._owner = lease.new_owner()
        self.progress = Progress(publisher.name)
        self._down_since: float | None = None
        self._following_since: float | None = None

    async def run(self, bell: Bell, handoff: Handoff) -> None:
        """Lead whenever the lease is free; whatever fails is tried again, a little later each time."""
        failures = 0
        while True:
            try:
                published = await in_thread(self._acquire)
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

    async def _lead_for_a_term(self, published: Published, bell: Bell, handoff: Handoff) -> Exception | None:
        """Lead until the lease is another one's (None) or something fails (that)."""
        failure: Exception | None = None
        self.progress.leading, self.progress.published = True, 0
        self._following_since = None
        handoff.open()
        leader = Leader(self._store, self._publisher, published, self.progress, self._up)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._hold, leader, tasks.cancel_scope)
                try:
                    await leader.lead(bell, handoff)
                except Exception as error:
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self.progress.leading = False
            handoff.close()
            with anyio.move_on_after(1, shield=True):
                await self._resign(leader)
        return failure

    async def _hold(self, leader: Leader, scope: anyio.CancelScope) -> None:
        """Renew the lease and write the checkpoint; end the term when another one leads."""
        while True:
            await anyio.sleep(lease.RENEW)
            try:
                relay_leader.crash_point("before checkpoint")
                if not await in_thread(self._renew, leader.published):
                    logger.info("log %s: another relay leads %s now", self._store.log, self._publisher.name)
                    scope.cancel()
                    return
            except TRANSIENT as error:
                logger.info("log %s: the lease of %s is not renewed: %s", self._store.log, self._name, error)

    # -- blocking parts, each in a thread ---------------------------------------------------------------------------

    def _acquire(self) -> Published | None:
        with self._store.database.session() as conn:
            return lease.acquire(conn, self._log_id, self._name, self._owner)

    def _renew(self, at: Published) -> bool:
        with self._store.database.session() as conn:
            return lease.renew(conn, self._log_id, self._name, self._owner, at)

    def _release(self) -> None:
        with self._store.database.session() as conn:
            lease.release(conn, self._log_id, self._name, self._owner)

    async def _resign(self, leader: Leader) -> None:
        try:
            await in_thread(self._renew, leader.published)
            await in_thread(self._release)
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
                self._store.log, self._publisher.name, time.monotonic() - since, self.progress.position,
            )  # fmt: skip
