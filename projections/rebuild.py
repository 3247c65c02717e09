"""Make the step table anew from the log, while appends go on: shadow tables, a short gate, a rename.

    rebuild(store, processes=2, verify=True, progress=print)

 1  plan: the jobs of every log in ranges of some 20,000 events, kept in `rebuild_ranges`, so a killed rebuild goes on
 2  fold: each range in one transaction (read by the job index, fold, write, mark done), ranges shared by the processes
 3  catch up with what was appended meanwhile, until little is left
 4  gate: wait at most 200 ms for the locks of the three tables, fold the rest, rename. Never the log's row: an append
    that holds it and waits for a table would wait for us, as we for it

A log that was folded with older rules than this code's goes over to these first (`log.fold_changed`): what stands
before keeps its verdicts. The tables that were live stay as jobs_old, steps_old, attempts_old for `roll_back`, which
catches them up first.
Each stored verdict is compared with the one folded again (`FoldMismatch`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import msgspec
from psycopg import errors as pg

from eventstore import statements
from eventstore.connections import Database
from eventstore.epochs import change_fold
from eventstore.errors import EventStoreError
from eventstore.statements import Conn
from eventstore.store import EventStore
from projections.fold import FOLD_VERSION
from projections.past import fold_past, read_rules
from projections.shadow import NEW, OLD, VERIFIED, Difference, Tables, differences, swap
from projections.state import JobState

logger = logging.getLogger("headway.rebuild")

RANGE: Final = 20_000  # events that one range should have
NEAR: Final = 500  # events left at which the gate is tried
GATE: Final = "200ms"  # how long the gate waits for its locks before it lets the appends through again
GATE_TRIES: Final = 100
_LOCK: Final = 7_016_996_765_293_437_282  # any constant: one rebuild of a database at a time
_WRITE_EVERY: Final = 200  # jobs in one write

_RANGES: Final = """
CREATE TABLE IF NOT EXISTS rebuild_ranges (
    log_id  smallint NOT NULL,
    number  int NOT NULL,
    low     text NOT NULL,
    high    text NOT NULL,
    upto    bigint NOT NULL,
    fold    int NOT NULL,
    events  bigint NOT NULL,
    done    bool NOT NULL DEFAULT false,
    PRIMARY KEY (log_id, number)
)
"""
_NEXT_JOBS: Final = """
WITH RECURSIVE w (job_id, n) AS (
    (SELECT job_id, 1 FROM events WHERE log_id = %(log_id)s AND job_id > %(after)s ORDER BY job_id LIMIT 1)
     UNION ALL
    SELECT (SELECT e.job_id FROM events e WHERE e.log_id = %(log_id)s AND e.job_id > w.job_id ORDER BY job_id LIMIT 1),
           n + 1
      FROM w WHERE w.job_id IS NOT NULL AND n < 1000
)
SELECT w.job_id, (SELECT e.version FROM events e WHERE e.log_id = %(log_id)s AND e.job_id = w.job_id
                   ORDER BY e.version DESC LIMIT 1)
  FROM w WHERE w.job_id IS NOT NULL
"""
"""The next 1,000 jobs and their versions, hopping along events_log_id_job_id_version_key."""
_READ_RANGE: Final = (
    f"SELECT {statements.COLUMNS} FROM events"  # noqa: S608
    " WHERE log_id = %s AND job_id > %s AND job_id <= %s AND position <= %s ORDER BY job_id, version"
)
"""Served by events_log_id_job_id_version_key."""


class RebuildError(EventStoreError):
    """A rebuild did not change the live tables. The text says why and what to do."""

    code: ClassVar[str] = "rebuild_failed"


class RebuildRunning(RebuildError):
    code = "rebuild_running"
    retryable: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__("another rebuild of this database is running: wait for it, or end it first")


class RebuildDiffers(RebuildError):
    """`--verify` found rows that the log does not fold to. Nothing was changed; the shadow tables are kept."""

    code = "rebuild_differs"

    def __init__(self, found: Sequence[Difference]) -> None:
        shown = "\n".join(f"  {d.table} {d.key}\n    live    {d.live}\n    rebuilt {d.rebuilt}" for d in found)
        super().__init__(f"{len(found)} or more rows differ from what the log folds to:\n{shown}")
        self.differences = list(found)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rebuild is. `phase`: plan, fold, catch up, verify, gate, done; `rate` in events per second."""

    phase: str
    done: int
    total: int
    rate: float

    @property
    def percent(self) -> float:
        return 100.0 if self.total == 0 else min(100.0, self.done * 100 / self.total)

    @property
    def eta(self) -> float | None:
        """Seconds left; None before anything is known."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild did. `events` were folded, `resumed` of them by earlier runs; `blocked`: seconds for which appends
    had to wait at the gate."""

    events: int
    resumed: int
    seconds: float
    blocked: float
    verified: bool


Told = Callable[[Step], None]


def rebuild(
    store: EventStore, *, processes: int = 2, verify: bool = False, progress: Told | None = None, cut: bool = True
) -> Rebuilt:
    """Rebuild jobs, steps and attempts of all logs and put them in the place of the live ones.

    A rebuild that was killed is gone on with. With `verify` every row is compared first: `RebuildDiffers`, and the live
    tables stay. `cut=False` stops before the gate. Ending it at any moment leaves the live tables as they are.
    Raises `RebuildRunning`, `FoldMismatch`, and what the store raises.
    """
    began = time.monotonic()
    tables = Tables(NEW)
    with _alone(store.database) as conn:
        for head in statements.list_logs(conn):
            change_fold(conn, head.log_id, store.projection)
        meter = _Meter(progress)
        todo, resumed = _plan(conn, tables, meter)
        meter.begin("fold", sum(r[5] for r in todo) + resumed, resumed)
        _fold_all(store.database.url, todo, processes, meter)
        _catch_up(conn, tables, meter)
        if verify:
            meter.begin("verify", 0, 0)
            for head in statements.list_logs(conn):
                tables.set_position(conn, head.log_id, tables.position(conn, head.log_id), ledger=VERIFIED)
            _compare(conn, tables, after=False)
        blocked = _through_the_gate(conn, tables, meter, verify=verify) if cut else 0.0
        if cut:
            conn.execute("DROP TABLE rebuild_ranges")
        meter.begin("done", 0, 0)
        return Rebuilt(
            events=meter.folded + resumed,
            resumed=resumed,
            seconds=time.monotonic() - began,
            blocked=blocked,
            verified=verify,
        )


def roll_back(store: EventStore, *, progress: Told | None = None) -> Rebuilt:
    """Put the tables of before the last rebuild back, caught up with what was appended since. Raises `RebuildError`."""
    began = time.monotonic()
    tables = Tables(OLD)
    with _alone(store.database) as conn:
        if not tables.exist(conn):
            raise RebuildError("there are no tables to roll back to: they are kept after a rebuild, until the next one")
        meter = _Meter(progress)
        meter.begin("catch up", 0, 0)
        _catch_up(conn, tables, meter)
        blocked = _through_the_gate(conn, tables, meter, verify=False)
        return Rebuilt(
            events=meter.folded, resumed=0, seconds=time.monotonic() - began, blocked=blocked, verified=False
        )


def discard(store: EventStore) -> None:
    """Drop what an unfinished rebuild left."""
    with _alone(store.database) as conn:
        Tables(NEW).drop(conn)
        conn.execute("DROP TABLE IF EXISTS rebuild_ranges")


@contextmanager
def _alone(database: Database) -> Iterator[Conn]:
    """A connection of its own that holds the one right to rebuild; the server takes it back when we die."""
    conn = database.connect(hot=True)
    try:
        row = conn.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
        if row is None or not row[0]:
            raise RebuildRunning
        conn.execute("SET idle_in_transaction_session_timeout = 0")
        yield conn
    finally:
        conn.close()


class _Meter:
    """Counts, and tells whoever watches, at most ten times a second."""

    def __init__(self, told: Told | None) -> None:
        self._told = told
        self.folded = 0
        self._phase, self._done, self._total = "plan", 0, 0
        self._began, self._from, self._said = time.monotonic(), 0, 0.0

    def begin(self, phase: str, total: int, done: int) -> None:
        self._phase, self._total, self._done, self._from = phase, total, done, done
        self._began, self._said = time.monotonic(), 0.0
        self.add(0)

    def add(self, events: int) -> None:
        self._done += events
        self.folded += events
        now = time.monotonic()
        if self._told is not None and (now - self._said > 0.1 or self._done == self._total):
            self._said = now
            rate = (self._done - self._from) / max(now - self._began, 1e-3)
            self._told(Step(phase=self._phase, done=self._done, total=max(self._total, self._done), rate=rate))


Range = tuple[int, int, str, str, int, int]
"""log_id, number, low (exclusive), high (inclusive), upto, events."""


def _plan(conn: Conn, tables: Tables, meter: _Meter) -> tuple[list[Range], int]:
    """The ranges that are left to fold, and how many events earlier runs folded already."""
    conn.execute(_RANGES)
    planned = conn.execute("SELECT count(*), min(fold), max(fold) FROM rebuild_ranges").fetchone()
    assert planned is not None
    if not (planned[0] and tables.exist(conn) and planned[1] == planned[2] == FOLD_VERSION):
        with conn.transaction():
            tables.drop(conn)
            conn.execute("DELETE FROM rebuild_ranges")
            tables.create(conn)
            for head in statements.list_logs(conn):
                tables.set_position(conn, head.log_id, head.position)
                rows = [(head.log_id, *r, head.position, FOLD_VERSION) for r in _ranges(conn, head.log_id)]
                conn.cursor().executemany(
                    "INSERT INTO rebuild_ranges (log_id, number, low, high, events, upto, fold)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    rows,
                )
    rows = conn.execute(
        "SELECT log_id, number, low, high, upto, events, done FROM rebuild_ranges ORDER BY log_id, number"
    ).fetchall()
    todo = [row[:6] for row in rows if not row[6]]
    done = sum(row[5] for row in rows if row[6])
    meter.begin("plan", 0, 0)
    return todo, done


def _ranges(conn: Conn, log_id: int) -> Iterator[tuple[int, str, str, int]]:
    """The jobs of a log in ranges of job ids: number, low, high, events."""
    number, low, events, after = 0, "", 0, ""
    while jobs := conn.execute(_NEXT_JOBS, {"log_id": log_id, "after": after}).fetchall():
        for job_id, version in jobs:
            events += version
            after = job_id
            if events >= RANGE:
                yield number, low, after, events
                number, low, events = number + 1, after, 0
    if events:
        yield number, low, after, events


def _fold_all(url: str, todo: Sequence[Range], processes: int, meter: _Meter) -> None:
    """Fold the ranges, in this many processes; 1 folds here."""
    if processes <= 1 or len(todo) <= 1:
        _start_worker(url)
        try:
            for item in todo:
                meter.add(_fold_range(item))
        finally:
            _worker.pop("database").dispose()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(todo)), context, _start_child, (url,)) as pool:
        try:
            for done in as_completed([pool.submit(_fold_range, item) for item in todo]):
                meter.add(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_worker: dict[str, Any] = {}


def _start_child(url: str) -> None:
    """A process of its own steps back behind those that append."""
    os.nice(10)
    _start_worker(url)


def _start_worker(url: str) -> None:
    _worker["database"] = Database(url, pool_size=1)
    _worker["tables"] = Tables(NEW)


def _fold_range(item: Range) -> int:
    """Read, fold and write one range, and mark it done, in one transaction. Returns its events."""
    log_id, number, low, high, upto, _ = item
    tables: Tables = _worker["tables"]
    with _worker["database"].session() as conn, conn.transaction():
        rows = conn.execute(_READ_RANGE, (log_id, low, high, upto), binary=True)
        states: dict[str, JobState] = {}
        events = statements.recorded(rows)
        fold_past(states, events, read_rules(conn, log_id))
        jobs = list(states.values())
        for start in range(0, len(jobs), _WRITE_EVERY):
            tables.write(conn, log_id, jobs[start : start + _WRITE_EVERY])
        conn.execute("UPDATE rebuild_ranges SET done = true WHERE log_id = %s AND number = %s", (log_id, number))
    return len(events)


def _catch_up(conn: Conn, tables: Tables, meter: _Meter) -> None:
    """Fold what was appended since, until less than NEAR events are left."""
    while True:
        behind = [(head, head.position - tables.position(conn, head.log_id)) for head in statements.list_logs(conn)]
        left = sum(events for _, events in behind)
        if left < NEAR:
            return
        meter.begin("catch up", left, 0)
        for head, _ in behind:
            tables.catch_up(conn, head.log_id, head.position, meter.add)


def _compare(conn: Conn, tables: Tables, *, after: bool) -> None:
    """Raise `RebuildDiffers` if a row differs: first of the jobs that stand still, then of those that went on."""
    if found := differences(conn, tables, VERIFIED, after=after):
        raise RebuildDiffers(found)


def _through_the_gate(conn: Conn, tables: Tables, meter: _Meter, *, verify: bool) -> float:
    """Swap the tables. Returns for how long appends had to wait."""
    previous = Tables(OLD)
    if tables.suffix != OLD:
        with conn.transaction():
            previous.drop(conn)
    for attempt in range(GATE_TRIES):
        meter.begin("gate", 0, 0)
        began = time.monotonic()
        try:
            with conn.transaction():
                conn.execute("SELECT set_config('lock_timeout', %s, true)", (GATE,))
                conn.execute("LOCK TABLE jobs, steps, attempts IN ACCESS EXCLUSIVE MODE")
                heads = statements.list_logs(conn)
                for head in heads:
                    tables.catch_up(conn, head.log_id, head.position, meter.add)
                if verify:
                    _compare(conn, tables, after=True)
                swap(conn, tables)
                conn.execute("DELETE FROM rebuilt WHERE suffix = %s", (tables.suffix,))
                for head in heads:
                    previous.set_position(conn, head.log_id, head.position)
        except (pg.LockNotAvailable, pg.DeadlockDetected):
            logger.info("the gate was busy (%d of %d tries)", attempt + 1, GATE_TRIES)
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - jitter
            _catch_up(conn, tables, meter)
            continue
        return time.monotonic() - began
    raise RebuildError(
        "the tables jobs, steps, attempts were in use for too long: end long transactions, then run it again"
    )
