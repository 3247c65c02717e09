"""The one writer of a log in this process: group commit, gapless positions, idempotence, inline projection.

Callers put whole calls on its queue; while one transaction is in flight the next batch gathers. The fast path is one
statement that compares and sets the log's row; if the compare is lost, or an event id is known, nothing happened, and
the slow path takes the row's lock first. Correctness needs neither the cache nor the queue: only that compare.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg import errors as pg

from eventstore import statements
from eventstore.append_call import AppendCall, settle_all
from eventstore.append_statement import AppendStatement
from eventstore.batch import MAX_JOB_EVENTS, Batch, Head, Known, by_job, fold_batch, to_recorded
from eventstore.codec import Prepared
from eventstore.database_errors import unavailable
from eventstore.errors import (
    AppendRefused,
    EventStoreError,
    FoldVersionMismatch,
    OutcomeUnknown,
    StoreBusy,
    StoreClosed,
    StoreUnavailable,
)
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.inline import InlineProjection, NoProjection
from eventstore.state_cache import StateCache
from eventstore.statements import Conn

logger = logging.getLogger("headway.committer")

MAX_BATCH: Final = 1_000  # events in one transaction
MAX_QUEUED: Final = 10_000  # events waiting
IDLE: Final = 60.0  # seconds until the thread ends
CALM: Final = 8  # batches in a row whose head nobody else moved, before the fast path is tried again
RETRIES: Final = 3
NOTIFY_EVERY: Final = 0.003  # seconds: a NOTIFY in every transaction costs each some 60 µs

Listener = Callable[[Head, Sequence[RecordedEvent]], None]
_bare: Final = NoProjection()


class _Lost(Exception):
    """The compare was lost, or the fast path can't decide: nothing was written."""


class Committer:
    """Appends to one log. `submit` starts the thread when it is needed; it ends by itself after a minute of idleness.

    `connect` gives an autocommit connection on which the epoch was checked. `listeners` are called after each commit,
    in the committer's thread, with the new head and the events: they must be quick and must not raise.
    """

    def __init__(
        self,
        log_id: int,
        *,
        connect: Callable[[], Conn],
        projection: InlineProjection,
        listeners: Sequence[Listener] = (),
        max_job_events: int = MAX_JOB_EVENTS,
        idle: float = IDLE,
    ) -> None:
        self._log_id = log_id
        self._connect = connect
        self._projection = projection
        self._listeners = listeners
        self._max_job_events = max_job_events
        self._idle = idle
        self._statement = AppendStatement(projection.write_ctes)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[AppendCall | None] = queue.SimpleQueue()
        self._queued = 0
        self._thread: threading.Thread | None = None
        self._held: AppendCall | None = None
        self._conn: Conn | None = None
        self._head: Head | None = None
        self._head_read = 0.0  # monotonic seconds at which `_head.now_us` was the database's time
        self._states = StateCache(projection.size)
        self._calm = CALM
        self._told, self._untold = 0.0, False  # when the last NOTIFY went out; whether something was appended since
        self._idle_since: float | None = None
        self._closing = False

    def submit(self, call: AppendCall) -> None:
        """Queue a whole call. Raises `StoreBusy` when 10,000 events wait already, `StoreClosed` after `stop`."""
        size = len(call.events)
        with self._lock:
            if self._queued and self._queued + size > MAX_QUEUED:
                raise StoreBusy(f"{self._queued} events wait to be appended: try again in a moment")
            if self._closing:
                raise StoreClosed
            self._queued += size
            self._queue.put(call)
            if self._thread is None:
                name = f"headway-committer-{self._log_id}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    @property
    def running(self) -> bool:
        """Whether its thread and connection exist."""
        return self._thread is not None

    @property
    def idle_since(self) -> float | None:
        """Since when it has had nothing to do (monotonic seconds); None while it works or does not run."""
        return self._idle_since if self.running else None

    def retire(self) -> bool:
        """End the thread and the connection if there is nothing to do; the next call starts them again."""
        with self._lock:
            if self._queued or self.idle_since is None:
                return False
            self._idle_since = None
            self._queue.put(None)
            return True

    @property
    def queued(self) -> int:
        """Events that wait to be taken."""
        return self._queued

    def stop(self) -> None:
        """Take no more calls; append what is queued, then end the thread and its connection. Does not wait for that."""
        with self._lock:
            self._closing = True
        self._queue.put(None)

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; False if `timeout` seconds were not enough."""
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        thread.join(max(timeout, 0))
        return not thread.is_alive()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (calls := self._gather()) is not None:
                try:
                    self._append(calls)
                except BaseException as error:
                    # A fault of ours, not of the database's: nobody must wait for ever for it.
                    logger.exception("an append of %d calls failed", len(calls))
                    self._forget()
                    settle_all([(call, OutcomeUnknown(f"the append failed ({error})")) for call in calls])
                    if not isinstance(error, Exception):
                        raise
        except BaseException:
            with self._lock:
                self._end()
            raise

    def _gather(self) -> list[AppendCall] | None:
        """The next calls: what waits by now, up to 1,000 events, ids distinct; None when it is time to end."""
        first = self._held or self._wait()
        self._held = None
        if first is None:
            return None
        calls, size = [first], len(first.events)
        ids = {e.event_id for e in first.events}
        while size < MAX_BATCH:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                break
            if call is None:
                self._queue.put(None)
                break
            if not self._take(call):
                continue
            if size + len(call.events) > MAX_BATCH or not ids.isdisjoint(e.event_id for e in call.events):
                self._held = call
                break
            ids.update(e.event_id for e in call.events)
            size += len(call.events)
            calls.append(call)
        return calls

    def _wait(self) -> AppendCall | None:
        self._idle_since = time.monotonic()
        while True:
            try:
                call = self._queue.get(timeout=NOTIFY_EVERY if self._untold else self._idle)
            except queue.Empty:
                call = None
                if self._untold:
                    self._tell()
                    continue
            if call is None:
                with self._lock:
                    if self._queue.empty():
                        self._end()
                        return None
            elif self._take(call):
                return call
            else:
                self._idle_since = time.monotonic()

    def _end(self) -> None:
        """Under the lock: the next thread must find no connection that this one is about to close."""
        self._disconnect()
        self._forget()
        self._thread = None

    def _tell(self) -> None:
        """The NOTIFY that was held back while appends followed each other closely. A hint: losing it costs latency."""
        self._untold = False
        if self._conn is not None and self._head is not None:
            try:
                self._conn.execute(statements.NOTIFY, (f"{self._log_id} {self._head.position}",))
            except psycopg.Error:
                self._forget()
                self._disconnect()

    def _take(self, call: AppendCall) -> bool:
        with self._lock:
            self._queued -= len(call.events)
            self._idle_since = None
        return call.take()

    # -- one batch --------------------------------------------------------------------------------------------------

    def _append(self, calls: list[AppendCall]) -> None:
        """Append the calls or fail each with a reason. What may be retried is, before the deadline."""
        unknown, attempt = False, 0
        while True:
            attempt += 1
            sent = False
            try:
                conn = self._connected()
                sent = True
                if attempt == 1 and self._calm >= CALM and self._fast(conn, calls):
                    return
                self._slow(conn, calls)
                return
            except pg.LockNotAvailable:
                error: EventStoreError = StoreBusy("another transaction holds this log for more than 2 s: try again")
                retry = False
            except (pg.DeadlockDetected, pg.SerializationFailure, pg.UniqueViolation, _Lost) as refused:
                error = StoreUnavailable(f"the database refused the append {attempt} times: {refused}")
                retry = attempt <= RETRIES
            except (psycopg.OperationalError, psycopg.InterfaceError) as broken:
                # An error that the server reported on a living connection says: not written. Silence says nothing.
                lost = self._conn is None or self._conn.closed
                unknown |= sent and lost
                self._disconnect()
                error = OutcomeUnknown() if unknown else unavailable(broken)
                retry = lost or attempt <= RETRIES
            except (psycopg.DataError, psycopg.IntegrityError) as refused:
                if len(calls) > 1 and not unknown:
                    # One of them is at fault: alone, it fails for itself only.
                    self._forget()
                    for call in calls:
                        self._append([call])
                    return
                error, retry = AppendRefused(f"the database refused the append: {refused}"), False
            except psycopg.Error as refused:
                error, retry = unavailable(refused), False
            except EventStoreError as refused:
                error, retry = refused, False
            if unknown and not isinstance(error, OutcomeUnknown):
                # An earlier attempt may have been written; what stopped this one says nothing about that.
                error = OutcomeUnknown(f"the answer of the database got lost ({error})")
            self._forget()
            pause = random.uniform(0.5, 1) * min(0.02 * 2**attempt, 0.5)  # noqa: S311 - jitter, not a secret
            late = [call for call in calls if not retry or call.deadline < time.monotonic() + pause]
            settle_all([(call, error) for call in late])
            calls = [call for call in calls if call not in late]
            if not calls:
                return
            time.sleep(pause)

    def _fast(self, conn: Conn, calls: list[AppendCall]) -> bool:
        """One statement, if the head is where we left it. False: nothing was written, the slow path must decide."""
        head = self._head or self._remember(statements.read_head(conn, self._log_id))
        self._check_fold(head)
        # The states are read after `head` was: they hold every event up to it. If they hold more, the compare is lost.
        states = self._load(conn, by_job(calls))
        now = head.now_us + int((time.monotonic() - self._head_read) * 1_000_000)
        batch = self._fold(head, calls, {}, states, now)
        try:
            if any(isinstance(outcome, EventStoreError) for outcome in batch.outcomes):
                raise _Lost  # judged by a state that may be old
            self._write(conn, head, batch, states)
        except (_Lost, pg.UniqueViolation, pg.SerializationFailure):
            for job_id in states:
                self._states.drop(job_id)
            self._states.suspect()
            return False
        self._done(calls, batch, states)
        return True

    def _slow(self, conn: Conn, calls: list[AppendCall]) -> None:
        """Under the lock: the head, the known ids, then the same statement, which can't lose any more."""
        wanted = by_job(calls)
        expected_head = self._head
        with conn.transaction():
            head, known, versions = statements.lock_log(
                conn,
                self._log_id,
                [e.event_id for call in calls for e in call.events],
                self._states.held(wanted),
            )
            self._remember(head)
            self._check_fold(head)
            calm = expected_head is not None and expected_head.hash == head.hash
            if not calm:
                self._states.suspect()
            self._states.confirm(versions)
            states = self._load(conn, wanted)
            batch = self._fold(head, calls, known, states, head.now_us)
            if batch.fresh:
                self._write(conn, head, batch, states)
        self._calm = self._calm + 1 if calm else 0
        self._done(calls, batch, states)

    def _fold(
        self, head: Head, calls: list[AppendCall], known: dict[bytes, Known], states: dict[str, Any], now: int
    ) -> Batch:
        return fold_batch(
            head, calls, known, states, self._projection, recorded_us=now, max_job_events=self._max_job_events
        )

    def _load(self, conn: Conn, wanted: dict[str, list[Prepared]]) -> dict[str, Any]:
        states: dict[str, Any] = {}
        missing: dict[str, list[Prepared]] = {}
        for job_id, events in wanted.items():
            state = self._states.get(job_id)
            if state is not None and self._projection.holds(state, events):
                states[job_id] = state
            else:
                missing[job_id] = events
        if LOG_JOB in missing:
            del missing[LOG_JOB]
            states |= _bare.load(conn, self._log_id, {LOG_JOB: ()})
        if missing:
            states |= self._projection.load(conn, self._log_id, missing)
        return states

    def _write(self, conn: Conn, head: Head, batch: Batch, states: dict[str, Any]) -> None:
        rows = self._projection.rows(self._log_id, [state for job_id, state in states.items() if job_id != LOG_JOB])
        notify = time.monotonic() - self._told > NOTIFY_EVERY
        new = self._statement.run(conn, head, batch.head, batch.fresh, rows, notify=notify)
        if new is None:
            raise _Lost("the log moved on")
        self._remember(new)
        self._untold = not notify
        if notify:
            self._told = self._head_read

    def _done(self, calls: list[AppendCall], batch: Batch, states: dict[str, Any]) -> None:
        settle_all(list(zip(calls, batch.outcomes, strict=True)))
        for job_id, state in states.items():
            if job_id != LOG_JOB:
                self._states.put(job_id, state)
        if self._listeners and batch.fresh:
            events = [to_recorded(event) for event in batch.fresh]
            for listener in tuple(self._listeners):
                listener(batch.head, events)

    # -- the connection and what we know of the log -----------------------------------------------------------------

    def _connected(self) -> Conn:
        if self._conn is None or self._conn.closed:
            self._forget()
            self._conn = self._connect()
        return self._conn

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def _remember(self, head: Head) -> Head:
        self._head, self._head_read = head, time.monotonic()
        return head

    def _check_fold(self, head: Head) -> None:
        if head.fold_version != self._projection.fold_version:
            self._forget()
            raise FoldVersionMismatch(self._projection.fold_version, head.fold_version)

    def _forget(self) -> None:
        self._head = None
        self._states.clear()
