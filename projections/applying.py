"""One batch of a projection: events after its checkpoint, the handler's effect and the new checkpoint, in one
transaction that holds the checkpoint's row.

Runner, rebuild and retry all go through here, each with a claim of its own on the row.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import pq

from eventstore import statements
from eventstore.connections import Database
from eventstore.errors import EventStoreError, NoSuchLog
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.statements import Conn
from projections.places import LIVE, LOOK_IN, Place, find
from projections.projection import Events, Projection, ProjectionError

PAGE: Final = 1_000
CAREFUL_PAGE: Final = 100
"""Events in one transaction while they are tried one by one."""
IDLE: Final = "60s"  # how long a handler may leave its transaction without a statement
_LONGEST: Final = 32_768  # characters of an error or a stack

LOCK: Final = (
    "SELECT position, lease_owner, hash8, epoch FROM checkpoints WHERE log_id = %s AND name = %s FOR NO KEY UPDATE"
)
SETTINGS: Final = "SELECT set_config('idle_in_transaction_session_timeout', %s, true)"
ANY_PARKED: Final = "SELECT EXISTS (SELECT FROM parked WHERE log_id = %s AND checkpoint = %s AND skipped_at IS NULL)"
PARKED_JOBS: Final = (
    "SELECT DISTINCT job_id FROM parked"
    " WHERE log_id = %s AND checkpoint = %s AND skipped_at IS NULL AND job_id = ANY(%s)"
)
"""Both served by parked_pkey."""
SAVE: Final = """
UPDATE checkpoints
   SET position = %(position)s, hash8 = %(hash8)s, epoch = %(epoch)s,
       updated_at = CASE WHEN position = %(position)s THEN updated_at ELSE clock_timestamp() END,
       lease_deadline = CASE WHEN lease_owner IS NULL THEN NULL
                             ELSE clock_timestamp() + make_interval(secs => %(seconds)s) END
 WHERE log_id = %(log_id)s AND name = %(name)s
"""
PARK: Final = """
INSERT INTO parked (log_id, checkpoint, job_id, position, error, error_stack, tries)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


def _go_on(point: str) -> None:
    del point


crash_point: Callable[[str], None] = _go_on
"""Called at `before effect`, `after effect`, `after checkpoint`, `after commit`: a test puts a kill in its place."""


class LeaseLost(EventStoreError):
    """Another process works on this checkpoint by now; nothing was written."""

    code = "lease_lost"
    retryable = True


class HandlerFailed(Exception):
    """The handler raised; the transaction is undone. `events` is what it was given."""

    def __init__(self, error: Exception, events: Sequence[RecordedEvent], upto: int) -> None:
        super().__init__(str(error))
        self.error, self.events, self.upto = error, events, upto


class Done(msgspec.Struct, frozen=True):
    """What a batch did: `looked` events were passed, up to `position`; the log's head then; who was parked."""

    looked: int
    position: int
    head: int
    parked: list[RecordedEvent] = []
    errors: list[Exception] = []


class At(msgspec.Struct, frozen=True):
    """A checkpoint's row, held until the transaction ends."""

    position: int
    owner: str | None
    hash8: str
    epoch: int


def make_engine(database: Database) -> sa.Engine:
    """One connection for one thread, in READ COMMITTED; the caller disposes of it."""
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=database.connect,
        isolation_level="READ COMMITTED",
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
    )


def driver_of(conn: sa.Connection) -> Conn:
    """The psycopg connection below; what is executed on it is in the same transaction."""
    driver = conn.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


class Batches:
    """The batches of one projection on one log. Each function runs in a transaction that the caller opened."""

    def __init__(self, projection: Projection, *, log: str, log_id: int, role: str = LIVE) -> None:
        self.projection, self.log, self.log_id, self.role = projection, log, log_id, role

    def place(self, driver: Conn) -> Place | None:
        """The set of tables that is meant, if its version is ours."""
        place = find(driver, self.projection.name, self.role)
        return place if place is not None and place.version == self.projection.version else None

    def hold(self, driver: Conn, checkpoint: str) -> At | None:
        """Take the checkpoint's row until the transaction ends. A swap of tables waits for it, and we for a swap."""
        row = driver.execute(LOCK, (self.log_id, checkpoint)).fetchone()
        return None if row is None else At(*row)

    def step(self, conn: sa.Connection, place: Place, at: At, *, upto: int, seconds: float, tries: int = 0) -> Done:
        """Apply one batch after `at`, and save the checkpoint. With `tries` event by event, parking what fails.

        Raises `HandlerFailed`, and what the database raises.
        """
        driver = driver_of(conn)
        with driver.pipeline():
            driver.execute(SETTINGS, (IDLE,))
            head_row = driver.execute(statements.HEAD_BY_ID, (self.log_id,))
            any_parked = driver.execute(ANY_PARKED, (self.log_id, place.checkpoint))
            limit = CAREFUL_PAGE if tries else PAGE
            rows = driver.execute(statements.READ_LOG, (self.log_id, at.position, upto, limit), binary=True)
            driver.execute(LOOK_IN, (place.schema,))
        events = statements.recorded(rows)
        head = head_row.fetchone()
        if head is None:
            raise NoSuchLog(self.log)
        position, hash8 = (events[-1].position, events[-1].hash[:4].hex()) if events else (at.position, at.hash8)
        parked, errors = self._apply(conn, place, events, tries=tries, some_parked=any_parked.fetchone() == (True,))
        self.save(driver, place, At(position, None, hash8, head[2]), seconds)
        return Done(len(events), position, max(head[3], position), parked, errors)

    def save(self, driver: Conn, place: Place, at: At, seconds: float) -> None:
        """Write the checkpoint and hold its lease for longer."""
        driver.execute(
            SAVE,
            {"log_id": self.log_id, "name": place.checkpoint, "seconds": seconds}
            | {"position": at.position, "hash8": at.hash8, "epoch": at.epoch},
        )
        crash_point("after checkpoint")

    def wanted(self, events: Iterable[RecordedEvent]) -> list[RecordedEvent]:
        """What the projection wants to see of these."""
        only = self.projection.applied_only
        return [event for event in events if event.job_id != LOG_JOB and (event.applied or not only)]

    def _apply(
        self, conn: sa.Connection, place: Place, events: Sequence[RecordedEvent], *, tries: int, some_parked: bool
    ) -> tuple[list[RecordedEvent], list[Exception]]:
        driver = driver_of(conn)
        wanted = self.wanted(events)
        behind: list[RecordedEvent] = []
        jobs: set[str] = set()
        if some_parked and wanted:
            names = list({event.job_id for event in wanted})
            found = driver.execute(PARKED_JOBS, (self.log_id, place.checkpoint, names)).fetchall()
            jobs = {row[0] for row in found}
        if not tries:
            behind = [event for event in wanted if event.job_id in jobs] if jobs else []
            todo = [event for event in wanted if event.job_id not in jobs] if jobs else wanted
            if todo:
                self.handle(conn, todo, events[-1].position)
            self.park(driver, place, behind)
            return [], []
        failed, errors = [], []
        for event in wanted:
            if event.job_id in jobs:
                behind.append(event)
                continue
            try:
                self.handle_one(conn, event)
            except HandlerFailed as failure:
                jobs.add(event.job_id)
                failed.append(event)
                errors.append(failure.error)
                self.park(driver, place, [event], error=failure.error, tries=tries + 1)
        self.park(driver, place, behind)
        return failed, errors

    def handle_one(self, conn: sa.Connection, event: RecordedEvent) -> None:
        """Let the handler take one event, or undo what it did with it and raise `HandlerFailed`."""
        savepoint = conn.begin_nested()
        try:
            self.handle(conn, [event], event.position)
            savepoint.commit()
        except HandlerFailed:
            savepoint.rollback()
            raise

    def handle(self, conn: sa.Connection, events: Sequence[RecordedEvent], upto: int) -> None:
        """Let the handler take these events. What it raises comes as `HandlerFailed`, outages as they are."""
        driver = driver_of(conn)
        crash_point("before effect")
        try:
            self.projection.handle(conn, Events(events, log=self.log, log_id=self.log_id))
            if not conn.closed and driver.info.transaction_status == pq.TransactionStatus.INTRANS:
                driver.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a deferred check is the handler's, not the commit's
        except Exception as error:
            if is_outage(error, driver):
                raise
            raise HandlerFailed(error, events, upto) from error
        if conn.closed or driver.info.transaction_status != pq.TransactionStatus.INTRANS:
            raise ProjectionError(
                f"projection {self.projection.name}: its handler ended the transaction, so effect and checkpoint came"
                " apart: leave commit and rollback to the runner (conn.begin_nested() is fine), then rebuild it"
            )
        crash_point("after effect")

    def park(
        self,
        driver: Conn,
        place: Place,
        events: Sequence[RecordedEvent],
        *,
        error: Exception | None = None,
        tries: int = 0,
    ) -> None:
        """Put events aside; without `error` they wait behind one of their job."""
        if events:
            text, stack = (None, None) if error is None else told(error)
            rows = [(self.log_id, place.checkpoint, e.job_id, e.position, text, stack, tries) for e in events]
            driver.cursor().executemany(PARK, rows)


def told(error: BaseException) -> tuple[str, str]:
    """An error and its stack as texts that PostgreSQL can keep."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = f"{name}: {error}"
    except Exception:
        text = name
    return _storable(text), _storable("".join(traceback.format_exception(error)))


def _storable(text: str) -> str:
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}\n…\n{text[-_LONGEST // 2 :]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def is_outage(error: BaseException, driver: Conn | None = None) -> bool:
    """Whether this is the database's state (away, full, read-only) and no fault of an event: wait, and try again."""
    state: Any = getattr(getattr(error, "orig", None) or error, "sqlstate", None) or ""
    if state in ("25P03", "25P04"):  # the handler let its transaction lie, or ran for too long
        return False
    if state[:2] in ("08", "53", "58") or state in ("57P01", "57P02", "57P03", "57P05", "25006"):
        return True
    return driver is not None and driver.closed
