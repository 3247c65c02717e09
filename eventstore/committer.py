"""The one writer of a log in this process: group commit, gapless positions, idempotence, inline projection.

Callers put whole calls on its queue; while one transaction is in flight the next batch gathers. How a batch is written:
log_writer.py.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import psycopg
from psycopg import errors as pg

from eventstore.append_call import AppendCall, settle_all
from eventstore.batch import MAX_JOB_EVENTS, Batch, Head, to_recorded
from eventstore.database_errors import unavailable
from eventstore.errors import (
    AppendRefused,
    EventStoreError,
    OutcomeUnknown,
    StoreBusy,
    StoreClosed,
    StoreUnavailable,
)
from eventstore.events import RecordedEvent
from eventstore.inline import InlineProjection
from eventstore.log_writer import NOTIFY_EVERY, LogWriter, Lost
from eventstore.statements import Conn

logger = logging.getLogger("headway.committer")

MAX_BATCH: Final = 1_000  # events in one transaction
MAX_QUEUED: Final = 10_000  # events waiting
IDLE: Final = 60.0  # seconds until the thread ends
RETRIES: Final = 3

Listener = Callable[[Head, Sequence[RecordedEvent]], None]


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
        self._listeners = listeners
        self._idle = idle
        self._writer = LogWriter(log_id, projection, max_job_events)
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[AppendCall | None] = queue.SimpleQueue()
        self._queued = 0
        self._thread: threading.Thread | None = None
        self._held: AppendCall | None = None
        self._conn: Conn | None = None
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
                    self._writer.forget()
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
        calls = [first]
        self._join(calls)
        return calls

    def _join(self, calls: list[AppendCall]) -> None:
        """Add what waits by now to a batch."""
        if self._held is not None:
            return
        size = sum(len(call.events) for call in calls)
        ids = {e.event_id for call in calls for e in call.events}
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

    def _wait(self) -> AppendCall | None:
        self._idle_since = time.monotonic()
        while True:
            try:
                call = self._queue.get(timeout=NOTIFY_EVERY if self._writer.untold else self._idle)
            except queue.Empty:
                call = None
                if self._writer.untold:
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
        self._writer.forget()
        self._thread = None

    def _tell(self) -> None:
        try:
            self._writer.tell(self._conn)
        except psycopg.Error:
            self._writer.forget()
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
                join = partial(self._join, calls) if attempt == 1 else None
                self._done(calls, self._writer.write(conn, calls, join=join))
                return
            except pg.LockNotAvailable:
                error: EventStoreError = StoreBusy("another transaction holds this log for more than 2 s: try again")
                retry = False
            except (
                pg.DeadlockDetected,
                pg.SerializationFailure,
                pg.UniqueViolation,
                pg.InvalidSqlStatementName,
                Lost,
            ) as refused:
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
                    self._writer.forget()
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
            self._writer.forget()
            pause = random.uniform(0.5, 1) * min(0.02 * 2**attempt, 0.5)  # noqa: S311 - jitter, not a secret
            late = [call for call in calls if not retry or call.deadline < time.monotonic() + pause]
            settle_all([(call, error) for call in late])
            calls = [call for call in calls if call not in late]
            if not calls:
                return
            time.sleep(pause)

    def _done(self, calls: list[AppendCall], batch: Batch) -> None:
        settle_all(list(zip(calls, batch.outcomes, strict=True)))
        if self._listeners and batch.fresh:
            events = [to_recorded(event) for event in batch.fresh]
            for listener in tuple(self._listeners):
                listener(batch.head, events)

    # -- the connection ---------------------------------------------------------------------------------------------

    def _connected(self) -> Conn:
        if self._conn is None or self._conn.closed:
            self._writer.forget()
            self._conn = self._connect()
        return self._conn

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()
