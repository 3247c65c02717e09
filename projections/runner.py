"""`Runner`: keeps a projection up to date with a log.

    await Runner(store, StepsDone()).run()                    # in an asyncio program, until cancelled
    with start_runner(Runner(store, StepsDone())) as runner:  # beside blocking code, in a thread with its own loop
        runner.wait_for(answer.position)                      # read your writes

The effect of a batch and its checkpoint commit in one transaction that holds the checkpoint's row and has checked that
its lease is ours. So any number of runners of one name may be started: one works, the others wait, and one that slept
through its lease can't commit. A handler that fails is tried again, then event by event; what fails alone is parked
with the later events of its job, and the other jobs go on (`headway parked`). While PostgreSQL is away it waits.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
import psycopg
import sqlalchemy as sa

from eventstore import lease
from eventstore.errors import EventStoreError
from eventstore.store import FAR, EventStore
from eventstore.wakeup import Bell, bell
from projections.applying import Batches, Done, HandlerFailed, LeaseLost, driver_of, is_outage, make_engine
from projections.places import ensure
from projections.projection import Projection, ProjectionOutdated, check_projection, checkpoint_of

logger = logging.getLogger("headway.projections")

TRIES: Final = 3
"""How often a batch is tried before its events are tried one by one."""
BACKOFF: Final = 0.05, 1.0  # seconds: after the first failure, at most
LOOK: Final = 0.02  # seconds between looks of who waits for a position
SHOWN: Final = 3  # parked events of one batch that are told one by one


class NotCaughtUp(EventStoreError):
    """The projection has not reached the position in time; it is at `reached`."""

    code = "not_caught_up"
    retryable = True

    def __init__(self, name: str, position: int, reached: int) -> None:
        super().__init__(
            f"projection {name} is at position {reached}, not at {position} yet: is a runner at work"
            f" (`headway project {name}`)? `headway parked list` tells of events it could not take"
        )
        self.position, self.reached = position, reached


class Lag(msgspec.Struct, frozen=True):
    """How far behind a projection is: events of the log, the age in seconds of the oldest of them, events parked."""

    events: int
    seconds: float
    parked: int


class Turn(enum.Enum):
    """What one turn came to."""

    MORE = "there is more to do"
    IDLE = "everything is done"
    FAILED = "the handler failed, it is tried again"
    FOLLOWING = "another runner has the lease"


_LAG: Final = """
SELECT l.head - coalesce(c.position, 0),
       greatest(0, coalesce(extract(epoch FROM clock_timestamp() - e.recorded_at), 0))::float8,
       (SELECT count(*) FROM parked p WHERE p.log_id = l.log_id AND p.checkpoint = %(name)s AND p.skipped_at IS NULL)
  FROM logs l LEFT JOIN checkpoints c ON c.log_id = l.log_id AND c.name = %(name)s
  LEFT JOIN events e ON e.log_id = l.log_id AND e.position = coalesce(c.position, 0) + 1
 WHERE l.log_id = %(log_id)s
"""
_POSITION: Final = "SELECT position FROM checkpoints WHERE log_id = %s AND name = %s"


class Runner:
    """Applies the log of `store` to a projection. One `run` at a time; `wait_for` and `lag` may be called anywhere.

    `gather`: seconds that `run` lets pass between two batches while it keeps up with the log, so that each has more
    events: a transaction per batch costs about as much for 1 event as for 50. Raises `ProjectionError` if the
    projection breaks the rules.
    """

    def __init__(self, store: EventStore, projection: Projection, *, gather: float = 0.0) -> None:
        self.projection = check_projection(projection)
        self.store = store
        self._gather = gather
        self.checkpoint = checkpoint_of(projection.name, projection.version)
        self.position = 0
        self.head = 0
        self.applied = 0
        self.leading = False
        self._owner = lease.new_owner()
        self._engine: sa.Engine | None = None
        self._batches: Batches | None = None
        self._tries = 0
        self._careful_upto = 0
        self._down_since: float | None = None
        self._moved = threading.Condition()

    # -- for readers ------------------------------------------------------------------------------------------------

    def wait_for(self, position: int, timeout: float = 10.0) -> None:
        """Return when the projection has taken everything up to `position`, whichever process does it.

        An event that is parked, or whose job is, counts as taken. Blocking; raises `NotCaughtUp` after `timeout`
        seconds.
        """
        wait_for(self.store, self.projection, position, timeout, moved=self._moved)

    def lag(self) -> Lag:
        """How far behind the projection is, by the database's clock."""
        return lag(self.store, self.projection)

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Apply what comes until cancelled, then give the lease back.

        Raises `NoSuchLog`, `ProjectionOutdated`, `ProjectionError`; all else is waited out and tried again.
        """
        database = self.store.database
        limiter = anyio.CapacityLimiter(1)
        log_id = await self._reach(limiter)
        loop = asyncio.get_running_loop()
        async with bell(database.url, log_id, listen=not database.pgbouncer) as told:
            forget = self.store.on_append(lambda head, _: _ring(loop, told, head.log_id, head.position))
            failures = 0
            try:
                while True:
                    try:
                        turn = await anyio.to_thread.run_sync(self.turn, limiter=limiter)
                        failures = 0
                    except Exception as error:
                        self._fail(error)
                        failures += 1
                        await anyio.sleep(backoff(failures))
                        continue
                    match turn:
                        case Turn.MORE:
                            told.found()
                            if self._gather and self.position >= self.head:
                                await anyio.sleep(self._gather)
                        case Turn.IDLE:
                            await told.wait(after=self.position, limit=lease.RENEW)
                        case Turn.FAILED:
                            await anyio.sleep(backoff(self._tries))
                        case Turn.FOLLOWING:
                            await anyio.sleep(lease.RENEW)
            finally:
                forget()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self.close, limiter=limiter)

    def catch_up(self, stop: threading.Event | None = None) -> int:
        """Apply everything up to the head that is found on the way; how many events. Blocking, without an event loop.

        Waits for the lease and through outages. Ends early when `stop` is set. Raises as `run`.
        """
        stop = threading.Event() if stop is None else stop
        before, failures = self.applied, 0
        try:
            while not stop.is_set():
                try:
                    turn = self.turn()
                    failures = 0
                except Exception as error:
                    self._fail(error)
                    failures += 1
                    stop.wait(backoff(failures))
                    continue
                match turn:
                    case Turn.IDLE:
                        return self.applied - before
                    case Turn.FAILED:
                        stop.wait(backoff(self._tries))
                    case Turn.FOLLOWING:
                        stop.wait(lease.RENEW)
            return self.applied - before
        finally:
            self.close()

    async def _reach(self, limiter: anyio.CapacityLimiter) -> int:
        """The log's number; waits for a database that is not there yet."""
        failures = 0
        while True:
            try:
                return await anyio.to_thread.run_sync(self.store.log_id, limiter=limiter)
            except EventStoreError as error:
                self._fail(error)
                failures += 1
                await anyio.sleep(backoff(failures))

    # -- one turn, in whatever thread -------------------------------------------------------------------------------

    def turn(self) -> Turn:
        """Take the lease if need be, and apply one batch. Blocking."""
        if self._batches is None or not self.leading:
            position = self._begin()
            if position is None:
                return Turn.FOLLOWING
            self.leading, self.position = True, position
        try:
            done = self._batch()
        except LeaseLost:
            self.leading = False
            logger.info("projection %s: another runner works on log %s now", self.projection.name, self.store.log)
            return Turn.FOLLOWING
        except HandlerFailed as failure:
            self._tries += 1
            if self._tries == 1:
                logger.warning(
                    "projection %s, log %s: the handler failed at positions %d to %d, it is tried again: %s: %s",
                    self.projection.name, self.store.log, failure.events[0].position, failure.upto,
                    type(failure.error).__name__, failure.error,
                )  # fmt: skip
            if self._tries >= TRIES:
                self._careful_upto = failure.upto
            return Turn.FAILED
        self._up()
        self._report(done)
        self.head = done.head
        self.applied += done.looked
        if done.looked:
            self._tries = self._tries if done.position < self._careful_upto else 0
            with self._moved:
                self.position = done.position
                self._moved.notify_all()
        return Turn.MORE if done.looked else Turn.IDLE

    def _begin(self) -> int | None:
        """See that the tables are there and of our version; take the lease. The position, None while another leads."""
        log_id = self.store.log_id()
        projection = self.projection
        with self.store.database.session() as conn:
            with conn.transaction():
                live = ensure(conn, projection)
            if live.version > projection.version:
                raise ProjectionOutdated(projection.name, projection.version, live.version)
        if live.version < projection.version:
            from projections.rebuild import RebuildRunning
            from projections.rebuild_projection import upgrade_projection

            logger.warning(
                "projection %s: version %d is filled from the start and then takes the place of version %d",
                projection.name, projection.version, live.version,
            )  # fmt: skip
            try:
                upgrade_projection(self.store, projection)
            except RebuildRunning:
                return None
        self._batches = Batches(projection, log=self.store.log, log_id=log_id)
        with self.store.database.session() as conn:
            found = lease.acquire(conn, log_id, self.checkpoint, self._owner)
        return None if found is None else found.position

    def _batch(self) -> Done:
        assert self._batches is not None
        if self._engine is None:
            self._engine = make_engine(self.store.database)
        with self._engine.connect() as conn, conn.begin():
            driver = driver_of(conn)
            at = self._batches.hold(driver, self.checkpoint)
            if at is None or at.owner != self._owner:
                raise LeaseLost(f"another runner works on {self.checkpoint}")
            # Read only now: whoever swaps the tables holds the checkpoints that we hold
            # (tests/races/test_projection_swap.py).
            place = self._batches.place(driver)
            if place is None:
                raise LeaseLost(f"another version took the place of {self.checkpoint}")
            careful = self._tries if at.position < self._careful_upto else 0
            upto = self._careful_upto if careful else FAR
            return self._batches.step(conn, place, at, upto=upto, seconds=lease.SECONDS, tries=careful)

    def close(self) -> None:
        """Give the lease back, so that another runner need not wait for its end."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
        if self.leading and self._batches is not None:
            self.leading = False
            with suppress(EventStoreError, psycopg.Error), self.store.database.session() as conn:
                lease.release(conn, self._batches.log_id, self.checkpoint, self._owner)

    # -- what is told -----------------------------------------------------------------------------------------------

    def _report(self, done: Done) -> None:
        for event, error in list(zip(done.parked, done.errors, strict=True))[:SHOWN]:
            logger.warning(
                "projection %s, log %s: event %d of job %s is parked, later events of the job wait behind it: %s: %s",
                self.projection.name, self.store.log, event.position, event.job_id, type(error).__name__, error,
            )  # fmt: skip
        if len(done.parked) > SHOWN:
            logger.warning(
                "projection %s, log %s: %d more jobs are parked, see `headway parked list`",
                self.projection.name, self.store.log, len(done.parked) - SHOWN,
            )  # fmt: skip

    def _fail(self, error: Exception) -> None:
        """Tell that we can't go on, once; raise what will not get better by waiting."""
        if isinstance(error, EventStoreError) and not error.retryable:
            raise error
        if self._down_since is not None:
            return
        self._down_since = time.monotonic()
        known = isinstance(error, EventStoreError | OSError) or is_outage(error) or _is_connection(error)
        text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        logger.warning(
            "projection %s, log %s: can't go on, it is tried again: %s",
            self.projection.name, self.store.log, text, exc_info=None if known else error,
        )  # fmt: skip

    def _up(self) -> None:
        since, self._down_since = self._down_since, None
        if since is not None:
            logger.warning(
                "projection %s, log %s: goes on after %.1f s",
                self.projection.name, self.store.log, time.monotonic() - since,
            )  # fmt: skip


def lag(store: EventStore, projection: Projection) -> Lag:
    """How far behind a projection is on a store's log, by the database's clock."""
    names = {"log_id": store.log_id(), "name": checkpoint_of(projection.name, projection.version)}
    with store.database.session() as conn:
        row = conn.execute(_LAG, names).fetchone()
    assert row is not None
    return Lag(*row)


def wait_for(
    store: EventStore,
    projection: Projection,
    position: int,
    timeout: float = 10.0,
    *,
    moved: threading.Condition | None = None,
) -> None:
    """`Runner.wait_for` without a runner at hand. `moved` may tell of news earlier."""
    moved = threading.Condition() if moved is None else moved
    end = time.monotonic() + timeout
    at = (store.log_id(), checkpoint_of(projection.name, projection.version))
    while True:
        with store.database.session() as conn:
            row = conn.execute(_POSITION, at).fetchone()
        reached = 0 if row is None else int(row[0])
        if reached >= position:
            return
        left = end - time.monotonic()
        if left <= 0:
            raise NotCaughtUp(projection.name, position, reached)
        with moved:
            moved.wait(min(LOOK, left))


@contextmanager
def start_runner(*runners: Runner) -> Iterator[Runner]:
    """Run runners in a thread with its own event loop, for programs that have none; stop them at the end.

    Gives the first one. Raises at the end what ended a runner early.
    """
    with anyio.from_thread.start_blocking_portal(name="headway-projections") as portal:
        running = [portal.start_task_soon(runner.run) for runner in runners]
        try:
            yield runners[0]
        finally:
            for task in running:
                task.cancel()
            for task in running:
                with suppress(CancelledError):
                    task.result()


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row, with jitter."""
    longest: float = min(BACKOFF[0] * 2 ** min(failures, 10), BACKOFF[1])
    return longest * random.uniform(0.5, 1)  # noqa: S311 - jitter


def _is_connection(error: BaseException) -> bool:
    return isinstance(error, psycopg.OperationalError | sa.exc.OperationalError | sa.exc.InterfaceError)


def _ring(loop: asyncio.AbstractEventLoop, told: Bell, log_id: int, head: int) -> None:
    with suppress(RuntimeError):  # the loop was closed under us
        loop.call_soon_threadsafe(partial(told.ring, log_id, head))


__all__ = ["Lag", "NotCaughtUp", "Runner", "Turn", "lag", "start_runner", "wait_for"]
