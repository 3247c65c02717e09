"""Make the tables of an asynchronous projection anew from all logs, while its runner and its readers go on.

    rebuild_projection(store, StepsDone(), progress=print)

 1  fill: the handler takes every log from the start into tables in a schema of their own; checkpoint and effect commit
    together, so a rebuild that was killed goes on where it was
 2  catch up with what the live tables have by now, until little is left
 3  gate: hold the live checkpoints (so no runner is at work) and the live tables, waiting 200 ms at most; take the
    rest; move the tables into each other's place

The tables that were live stay in the schema headway_old_NAME for `roll_back_projection`. A new version of a projection
takes the place of the live one in the same way.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import random
import sys
import time
from typing import Final

import anyio.from_thread
import sqlalchemy as sa
from psycopg import errors as pg
from psycopg import sql

from eventstore import lease, statements
from eventstore.batch import Head
from eventstore.statements import Conn
from eventstore.store import EventStore
from projections.applying import At, Batches, HandlerFailed, LeaseLost, driver_of, make_engine
from projections.places import LIVE, NEW, OLD, Place, create, discard, ensure, find, lock_tables, swap
from projections.projection import Projection, ProjectionError, check_projection
from projections.rebuild import (
    GATE,
    GATE_TRIES,
    NEAR,
    RebuildDiffers,
    RebuildError,
    RebuildRunning,
    Rebuilt,
    Told,
    _Meter,
)
from projections.shadow import Difference

logger = logging.getLogger("headway.rebuild")

TRIES: Final = 3
SECONDS: Final = 10.0
"""How long the right to rebuild holds without a batch: who was killed holds up the next one for so long."""
PATIENCE: Final = SECONDS + 1.0  # seconds to wait for a right that runs out
_SHOWN: Final = 20  # differing rows

_CLAIM: Final = """
UPDATE projection_tables
   SET lease_owner = %(owner)s, lease_deadline = clock_timestamp() + make_interval(secs => %(seconds)s)
 WHERE name = %(name)s AND role = 'live'
   AND (lease_owner IS NULL OR lease_deadline < clock_timestamp() OR lease_owner = %(owner)s)
"""
_RENEW: Final = """
UPDATE projection_tables SET lease_deadline = clock_timestamp() + make_interval(secs => %(seconds)s)
 WHERE name = %(name)s AND role = 'live' AND lease_owner = %(owner)s
"""
_RELEASE: Final = """
UPDATE projection_tables SET lease_owner = NULL, lease_deadline = NULL
 WHERE name = %(name)s AND role = 'live' AND lease_owner = %(owner)s
"""
_BEGIN: Final = """
INSERT INTO checkpoints (log_id, name) SELECT log_id, %s FROM logs ON CONFLICT (log_id, name) DO NOTHING
"""
_POSITIONS: Final = "SELECT log_id, position FROM checkpoints WHERE name = %s"
_HOLD_ALL: Final = "SELECT log_id, position FROM checkpoints WHERE name = %s ORDER BY log_id FOR UPDATE"


def rebuild_projection(
    store: EventStore, projection: Projection, *, verify: bool = False, progress: Told | None = None, cut: bool = True
) -> Rebuilt:
    """Rebuild a projection's tables over all logs and put them in the place of the live ones.

    One that was killed is gone on with, if the projection's code is the same. `verify` compares all rows at the gate,
    where the readers wait for it: `RebuildDiffers`, and the live tables stay. `cut=False` stops before the gate.
    Raises `RebuildRunning`, `ProjectionError`, and what the store raises.
    """
    check_projection(projection)
    began = time.monotonic()
    with _Rebuild(store, projection, NEW, progress) as work:
        resumed = work.plan()
        return work.finish(began, resumed, verify=verify, cut=cut)


def upgrade_projection(store: EventStore, projection: Projection) -> None:
    """Rebuild if the live tables are of an older version than the projection, and nobody else did it meanwhile."""
    began = time.monotonic()
    with _Rebuild(store, projection, NEW, None) as work:
        with store.database.session() as conn:
            live = find(conn, projection.name, LIVE)
        if live is None or live.version < projection.version:
            work.finish(began, work.plan(), verify=False, cut=True)


def roll_back_projection(store: EventStore, projection: Projection, *, progress: Told | None = None) -> Rebuilt:
    """Put the tables of before the last rebuild back, caught up with what was appended since.

    Their version must be this projection's. Raises `RebuildError`, and as `rebuild_projection`.
    """
    check_projection(projection)
    began = time.monotonic()
    with _Rebuild(store, projection, OLD, progress) as work:
        with store.database.session() as conn:
            old = find(conn, projection.name, OLD)
        if old is None:
            raise RebuildError(
                f"projection {projection.name} has no tables to roll back to: they are kept after a rebuild"
            )
        if old.version != projection.version:
            raise RebuildError(
                f"projection {projection.name}: the tables to roll back to are of version {old.version}, this program"
                f" has version {projection.version}: roll back with a program of version {old.version}"
            )
        return work.finish(began, 0, verify=False, cut=True)


def discard_rebuild(store: EventStore, projection: Projection) -> None:
    """Drop what an unfinished rebuild of this projection left."""
    with _Rebuild(store, projection, NEW, None), store.database.session() as conn, conn.transaction():
        discard(conn, projection.name, NEW)


class _Rebuild:
    """One rebuild, from the claim on the projection until its end."""

    def __init__(self, store: EventStore, projection: Projection, role: str, told: Told | None) -> None:
        self._store, self._projection, self._role = store, projection, role
        self._meter = _Meter(told)
        self._engine = make_engine(store.database)
        self._owner = {"owner": lease.new_owner(), "name": projection.name, "seconds": SECONDS}
        self._careful: dict[int, int] = {}

    def __enter__(self) -> _Rebuild:
        end = time.monotonic() + PATIENCE
        with self._store.database.session() as conn:
            with conn.transaction():
                ensure(conn, self._projection)
            while not conn.execute(_CLAIM, self._owner).rowcount:
                if time.monotonic() > end:
                    raise RebuildRunning
                _stop_if_cancelled()
                time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()
        try:
            with self._store.database.session() as conn:
                conn.execute(_RELEASE, self._owner)
        except Exception as error:
            logger.info("the right to rebuild %s runs out by itself: %s", self._projection.name, error)

    def plan(self) -> int:
        """Make the new tables, or go on with those of a killed run; how many events they have."""
        name = self._projection.name
        source = _source(self._projection)
        with self._store.database.session() as conn, conn.transaction():
            place = find(conn, name, NEW)
            if place is None or place.version != self._projection.version or place.source != source:
                place = create(conn, self._projection, source)
            conn.execute(_BEGIN, (place.checkpoint,))
            rows = conn.execute(_POSITIONS, (place.checkpoint,)).fetchall()
        return sum(row[1] for row in rows)

    def finish(self, began: float, resumed: int, *, verify: bool, cut: bool) -> Rebuilt:
        """Fill, go through the gate, and say what was done."""
        self._fill("fill", resumed, follow=verify)
        blocked = self._through_the_gate(verify=verify) if cut else 0.0
        self._meter.begin("done", 0, 0)
        return Rebuilt(
            events=self._meter.folded + resumed,
            resumed=resumed,
            seconds=time.monotonic() - began,
            blocked=blocked,
            verified=verify and cut,
        )

    # -- filling ----------------------------------------------------------------------------------------------------

    def _fill(self, phase: str, resumed: int, *, follow: bool) -> None:
        """Take the logs up to where the live tables are, or the logs if `follow` is false; until NEAR is left."""
        while True:
            behind = self._behind(follow=follow)
            left = sum(upto - at for _, at, upto in behind)
            if left < NEAR and phase != "fill":
                return
            self._meter.begin(phase, left + resumed, resumed)
            for head, at, upto in behind:
                self._advance(head, at, upto)
            phase, resumed = "catch up", 0

    def _behind(self, *, follow: bool) -> list[tuple[Head, int, int]]:
        """Each log, where our tables are in it, and where they should be."""
        with self._store.database.session() as conn:
            place, live = self._places(conn)
            heads = statements.list_logs(conn)
            ours = dict(conn.execute(_POSITIONS, (place.checkpoint,)).fetchall())
            theirs = dict(conn.execute(_POSITIONS, (live.checkpoint,)).fetchall())
        return [
            (head, ours.get(head.log_id, 0), theirs.get(head.log_id, 0) if follow else head.position) for head in heads
        ]

    def _advance(self, head: Head, at: int, upto: int) -> None:
        while at < upto:
            at = self._batch(head, upto)

    def _batch(self, head: Head, upto: int) -> int:
        """One batch of a log; a handler that fails is tried again, then event by event. The position then."""
        tries = 0
        while True:
            _stop_if_cancelled()
            try:
                with self._engine.connect() as conn, conn.begin():
                    driver = driver_of(conn)
                    if not driver.execute(_RENEW, self._owner).rowcount:
                        raise LeaseLost(f"another process rebuilds projection {self._projection.name} by now")
                    place, _ = self._places(driver)
                    batches = self._batches(head)
                    at = batches.hold(driver, place.checkpoint)
                    if at is None:
                        driver.execute(_BEGIN, (place.checkpoint,))
                        at = batches.hold(driver, place.checkpoint) or At(0, None, "00000000", 1)
                    careful = TRIES if at.position < self._careful.get(head.log_id, 0) else 0
                    done = batches.step(conn, place, at, upto=upto, seconds=SECONDS, tries=careful)
            except HandlerFailed as failure:
                tries += 1
                if tries >= TRIES:
                    self._careful[head.log_id] = failure.upto
                time.sleep(random.uniform(0.5, 1) * 0.05 * 2**tries)  # noqa: S311 - jitter
                continue
            self._meter.add(done.looked)
            for event, error in zip(done.parked, done.errors, strict=True):
                logger.warning(
                    "projection %s, log %s: event %d of job %s is parked in the new tables: %s: %s",
                    place.name, head.name, event.position, event.job_id, type(error).__name__, error,
                )  # fmt: skip
            return done.position if done.looked else upto

    def _batches(self, head: Head) -> Batches:
        return Batches(self._projection, log=head.name, log_id=head.log_id, role=self._role)

    def _places(self, conn: Conn) -> tuple[Place, Place]:
        """Our set of tables, and the live one."""
        place, live = find(conn, self._projection.name, self._role), find(conn, self._projection.name, LIVE)
        if place is None or live is None:
            raise RebuildError(f"the tables of projection {self._projection.name} were taken away under the rebuild")
        return place, live

    # -- the gate ---------------------------------------------------------------------------------------------------

    def _through_the_gate(self, *, verify: bool) -> float:
        """Put our tables in the place of the live ones. Returns for how long readers and runner had to wait."""
        for attempt in range(GATE_TRIES):
            self._meter.begin("gate", 0, 0)
            began = time.monotonic()
            try:
                with self._engine.connect() as conn, conn.begin():
                    self._pass(conn, verify=verify)
                return time.monotonic() - began
            except (pg.LockNotAvailable, pg.DeadlockDetected, HandlerFailed) as error:
                logger.info("the gate was busy (%d of %d tries): %s", attempt + 1, GATE_TRIES, error)
                time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - jitter
                self._fill("catch up", 0, follow=verify)
                if isinstance(error, HandlerFailed):
                    for head, at, upto in self._behind(follow=verify):
                        self._advance(head, at, upto)
        raise RebuildError(
            f"the tables of projection {self._projection.name} were in use for too long: end long transactions, then"
            " run it again"
        )

    def _pass(self, conn: sa.Connection, *, verify: bool) -> None:
        driver = driver_of(conn)
        driver.execute("SELECT set_config('lock_timeout', %s, true)", (GATE,))
        if not driver.execute(_RENEW, self._owner).rowcount:
            raise LeaseLost(f"another process rebuilds projection {self._projection.name} by now")
        place, live = self._places(driver)
        # A log whose runner begins just now would otherwise make its checkpoint behind our back, at 0.
        driver.execute(_BEGIN, (live.checkpoint,))
        driver.execute(_BEGIN, (place.checkpoint,))
        theirs = dict(driver.execute(_HOLD_ALL, (live.checkpoint,)).fetchall())
        ours = dict(driver.execute(_HOLD_ALL, (place.checkpoint,)).fetchall())
        lock_tables(driver, live)
        for head in statements.list_logs(driver):
            batches, upto = self._batches(head), theirs.get(head.log_id, 0)
            while ours.get(head.log_id, 0) < upto:
                at = batches.hold(driver, place.checkpoint)
                assert at is not None
                done = batches.step(conn, place, at, upto=upto, seconds=SECONDS)
                ours[head.log_id] = done.position
                self._meter.add(done.looked)
        if verify:
            _compare(driver, live, place)
        swap(driver, live, place)


def _compare(conn: Conn, live: Place, place: Place) -> None:
    """Raise `RebuildDiffers` if a row of one set is not in the other."""
    if live.version != place.version:
        raise ProjectionError(
            f"projection {live.name}: version {place.version} has other tables than version {live.version}:"
            " rebuild it without --verify"
        )
    found: list[Difference] = []
    for table in live.tables:
        ours, theirs = sql.Identifier(place.schema, table), sql.Identifier(live.schema, table)
        missing = sql.SQL("SELECT t::text FROM {} t EXCEPT ALL SELECT t::text FROM {} t ORDER BY 1 LIMIT {}")
        left = conn.execute(missing.format(theirs, ours, sql.Literal(_SHOWN))).fetchall()
        right = conn.execute(missing.format(ours, theirs, sql.Literal(_SHOWN))).fetchall()
        found += [Difference(table, "", row[0], None) for row in left]
        found += [Difference(table, "", None, row[0]) for row in right]
    if found:
        raise RebuildDiffers(found[:_SHOWN])


def _source(projection: Projection) -> str:
    """What tells whether two programs have the same code for a projection, as far as its module shows it."""
    module = sys.modules.get(type(projection).__module__)
    try:
        text = inspect.getsource(module) if module is not None else ""
    except (OSError, TypeError):
        text = ""
    return hashlib.sha256("\0".join([text, *projection.tables]).encode()).hexdigest()


def _stop_if_cancelled() -> None:
    """In a thread of an asyncio program: end here when the task that waits for us was cancelled."""
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:
        pass  # called from a program without an event loop


__all__ = ["discard_rebuild", "rebuild_projection", "roll_back_projection", "upgrade_projection"]
