"""Events that a projection could not take: look at them, try them again, or skip one.

A parked event holds up the later events of its job, and nothing else. All functions work on a store's log.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec
import sqlalchemy as sa

from eventstore import statements
from eventstore.errors import EventStoreError
from eventstore.events import RecordedEvent, to_datetime
from eventstore.statements import Conn
from eventstore.store import EventStore
from projections.applying import CAREFUL_PAGE, Batches, HandlerFailed, driver_of, make_engine, told
from projections.places import LOOK_IN, Place
from projections.projection import Projection, ProjectionError, check_projection, checkpoint_of

_LIST: Final = """
SELECT split_part(checkpoint, ':', 2), substr(split_part(checkpoint, ':', 3), 2)::int, position, job_id, error,
       error_stack, tries, parked_at, skipped_at
  FROM parked
 WHERE log_id = %(log_id)s AND split_part(checkpoint, ':', 4) = ''
   AND (%(name)s::text IS NULL OR split_part(checkpoint, ':', 2) = %(name)s)
   AND (%(job)s::text IS NULL OR job_id = %(job)s)
   AND (%(all)s OR skipped_at IS NULL) AND (%(all)s OR error IS NOT NULL)
 ORDER BY 1, position LIMIT %(limit)s
"""
_WAITING: Final = """
SELECT checkpoint, job_id, count(*) FROM parked
 WHERE log_id = %s AND skipped_at IS NULL AND error IS NULL AND split_part(checkpoint, ':', 4) = '' GROUP BY 1, 2
"""
_JOBS: Final = """
SELECT DISTINCT job_id FROM parked
 WHERE log_id = %s AND checkpoint = %s AND skipped_at IS NULL AND (%s::text IS NULL OR job_id = %s) ORDER BY 1
"""
_NEXT: Final = """
SELECT position FROM parked WHERE log_id = %s AND checkpoint = %s AND job_id = %s AND skipped_at IS NULL
 ORDER BY position LIMIT %s
"""
_READ: Final = f"SELECT {statements.COLUMNS} FROM events WHERE log_id = %s AND position = ANY(%s) ORDER BY position"  # noqa: S608
"""Served by events_pkey."""
_UNPARK: Final = (
    "DELETE FROM parked WHERE log_id = %s AND checkpoint = %s AND job_id = %s AND position <= %s AND skipped_at IS NULL"
)
_FAILED: Final = """
UPDATE parked SET error = %s, error_stack = %s, tries = tries + 1
 WHERE log_id = %s AND checkpoint = %s AND job_id = %s AND position = %s
"""
_SKIP: Final = """
UPDATE parked SET skipped_at = clock_timestamp()
 WHERE log_id = %s AND checkpoint = %s AND position = %s AND skipped_at IS NULL RETURNING job_id
"""


class NotParked(EventStoreError, LookupError):
    """There is no such parked event."""

    code: ClassVar[str] = "not_parked"


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was put aside. `tries`: how often the handler was given it; 0 and no `error`: it waits behind
    another one of its job. `waiting`: how many of its job do. `skipped_at`: it was given up."""

    projection: str
    version: int
    position: int
    job_id: str
    error: str | None
    error_stack: str | None
    tries: int
    parked_at: datetime
    skipped_at: datetime | None
    waiting: int = 0


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """What trying again did: events taken, jobs without parked events by now, and what still fails."""

    taken: int
    freed: list[str]
    failed: list[Parked]


def list_parked(
    store: EventStore, name: str | None = None, *, job: str | None = None, everything: bool = False, limit: int = 1_000
) -> list[Parked]:
    """The events that failed, in order, and how many wait behind each; with `everything` those and skipped ones too."""
    wanted = {"log_id": store.log_id(), "name": name, "job": job, "all": everything, "limit": limit}
    with store.database.session() as conn:
        rows = conn.execute(_LIST, wanted, binary=True).fetchall()
        waiting = {
            (checkpoint, job_id): count
            for checkpoint, job_id, count in conn.execute(_WAITING, (wanted["log_id"],)).fetchall()
        }
    return [_parked(row, waiting) for row in rows]


def retry(store: EventStore, projection: Projection, *, job: str | None = None) -> Retried:
    """Give the parked events to the handler again, job by job, each in order, until one fails.

    What is taken is no longer parked; the runner may be at work meanwhile. Raises `NotParked` if nothing was parked.
    """
    check_projection(projection)
    log_id, checkpoint = store.log_id(), checkpoint_of(projection.name, projection.version)
    with store.database.session() as conn:
        jobs = [row[0] for row in conn.execute(_JOBS, (log_id, checkpoint, job, job)).fetchall()]
    if not jobs:
        of = "" if job is None else f" of job {job}"
        raise NotParked(f"projection {projection.name} has no parked events{of} in log {store.log}")
    batches = Batches(projection, log=store.log, log_id=log_id)
    engine = make_engine(store.database)
    taken = 0
    freed: list[str] = []
    failing: list[str] = []
    try:
        for name in jobs:
            while True:
                with engine.begin() as transaction:
                    done, failure, left = _retry_page(transaction, batches, name)
                taken += done
                if failure is not None or not left:
                    break
            (freed if failure is None else failing).append(name)
    finally:
        engine.dispose()
    failed = [found for name in failing for found in list_parked(store, projection.name, job=name)]
    return Retried(taken=taken, freed=freed, failed=failed)


def skip(store: EventStore, projection: Projection, position: int) -> Retried:
    """Give up one parked event, for ever, and try the rest of its job again. Raises `NotParked`."""
    check_projection(projection)
    log_id, checkpoint = store.log_id(), checkpoint_of(projection.name, projection.version)
    with store.database.session() as conn:
        row = conn.execute(_SKIP, (log_id, checkpoint, position)).fetchone()
    if row is None:
        raise NotParked(f"projection {projection.name} has no parked event at position {position} of log {store.log}")
    try:
        return retry(store, projection, job=row[0])
    except NotParked:
        return Retried(taken=0, freed=[row[0]], failed=[])


def _retry_page(conn: sa.Connection, batches: Batches, job: str) -> tuple[int, RecordedEvent | None, bool]:
    """The next parked events of a job: how many were taken, which one failed, whether more are parked.

    Holds the checkpoint, so the runner parks no further event of the job meanwhile.
    """
    driver = driver_of(conn)
    place = batches.place(driver)
    at = None if place is None else batches.hold(driver, place.checkpoint)
    place = batches.place(driver)
    if place is None or at is None:
        projection = batches.projection
        raise ProjectionError(
            f"projection {projection.name}: version {projection.version} is not live in this database, so nothing of"
            " it can be tried again"
        )
    events = _next(driver, place, batches.log_id, job)
    driver.execute(LOOK_IN, (place.schema,))
    taken = 0
    for event in events:
        try:
            batches.handle_one(conn, event)
        except HandlerFailed as failure:
            text, stack = told(failure.error)
            driver.execute(_FAILED, (text, stack, batches.log_id, place.checkpoint, job, event.position))
            return taken, event, True
        driver.execute(_UNPARK, (batches.log_id, place.checkpoint, job, event.position))
        taken += 1
    return taken, None, len(events) == CAREFUL_PAGE


def _next(driver: Conn, place: Place, log_id: int, job: str) -> list[RecordedEvent]:
    rows = driver.execute(_NEXT, (log_id, place.checkpoint, job, CAREFUL_PAGE)).fetchall()
    positions = [row[0] for row in rows]
    return statements.recorded(driver.execute(_READ, (log_id, positions), binary=True)) if positions else []


def _parked(row: Any, waiting: dict[tuple[str, str], int]) -> Parked:
    name, version, position, job_id, error, stack, tries, parked, skipped = row
    behind = waiting.get((checkpoint_of(name, version), job_id), 0) if error is not None and skipped is None else 0
    return Parked(
        projection=name,
        version=version,
        position=position,
        job_id=job_id,
        error=error,
        error_stack=stack,
        tries=tries,
        parked_at=to_datetime(parked),
        skipped_at=None if skipped is None else to_datetime(skipped),
        waiting=behind,
    )
