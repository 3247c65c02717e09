"""Three ways in which a batch gets into the log, and what is remembered of the log between batches.

Fast: one statement that compares and sets the log's row; nothing is read, nobody is waited for. In turn, when other
processes write to the log too: the row's lock first, then the same statement. Careful, when ids may be known already or
a call may have to be refused: all that decides is read under the lock. Fast and in turn either write the batch or find
out that they can't decide; then nothing was written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from psycopg import errors as pg

from eventstore import statements, turn
from eventstore.append_call import AppendCall
from eventstore.append_statement import AppendStatement
from eventstore.batch import Batch, Head, Known, by_job, fold_batch
from eventstore.codec import Prepared
from eventstore.errors import EventStoreError, FoldVersionMismatch
from eventstore.events import LOG_JOB
from eventstore.inline import InlineProjection, NoProjection
from eventstore.state_cache import StateCache
from eventstore.statements import Conn

CALM: Final = 8  # batches in a row whose head nobody else moved, before the fast path is tried again
NOTIFY_EVERY: Final = 0.003  # seconds: a NOTIFY in every transaction costs each some 60 µs

_bare: Final = NoProjection()


class Lost(Exception):
    """The compare was lost, or this way can't decide: nothing was written."""


class LogWriter:
    """Writes the batches of one log, for one committer. Trusted states hold every event up to `head`, and no more."""

    def __init__(self, log_id: int, projection: InlineProjection, max_job_events: int) -> None:
        self._log_id = log_id
        self._projection = projection
        self._max_job_events = max_job_events
        self._statement = AppendStatement(projection.write_ctes)
        self.head: Head | None = None
        self._head_read = 0.0  # monotonic seconds at which `head.now_us` was the database's time
        self._states = StateCache(projection.size)
        self.calm = CALM
        self._told = 0.0  # when the last NOTIFY went out
        self.untold = False  # whether something was appended since

    def forget(self) -> None:
        """After whatever went wrong: trust nothing."""
        self.head = None
        self._states.clear()

    def tell(self, conn: Conn | None) -> None:
        """The NOTIFY that was held back while appends followed each other closely. A hint: losing it costs latency."""
        self.untold = False
        if conn is not None and self.head is not None:
            conn.execute(statements.NOTIFY, (f"{self._log_id} {self.head.position}",))

    def write(self, conn: Conn, calls: list[AppendCall], *, join: Callable[[], None] | None) -> Batch:
        """Write the calls, or refuse some of them: the batch holds an outcome for each, in order.

        `join` adds to `calls` what came while another process had its turn. None: an earlier try may have been written,
        so only the careful way will do. Raises what the database says; then call `forget`.
        """
        batch: Batch | None = None
        if join is not None:
            if self.calm >= CALM:
                batch = self._fast(conn, calls)
            if batch is None and self.calm < CALM:
                batch = self._in_turn(conn, calls, join)
        return self._careful(conn, calls) if batch is None else batch

    def _fast(self, conn: Conn, calls: list[AppendCall]) -> Batch | None:
        """One statement, if the head is where we left it. None: nothing was written."""
        head = self.head or self._remember(statements.read_head(conn, self._log_id))
        self._check_fold(head)
        # The states are read after `head` was: they hold every event up to it. If they hold more, the compare is lost.
        states = self._load(conn, by_job(calls))
        now = head.now_us + int((time.monotonic() - self._head_read) * 1_000_000)
        return self._try(conn, head, calls, states, now)

    def _in_turn(self, conn: Conn, calls: list[AppendCall], join: Callable[[], None]) -> Batch | None:
        """The lock, then one statement with its COMMIT: two round trips. None: nothing was written.

        Known ids and versions are not looked for under the lock: states are current unless others' events since `head`
        touched their jobs, and what is known already breaks a unique index.
        """
        seen = self.head
        if seen is None or self._states.suspects(by_job(calls)):
            return None
        with turn.ended(conn):
            head, touched = turn.begin(conn, self._log_id, seen.position)
            if head.epoch != seen.epoch or head.position != seen.position + len(touched):
                return None
            for job_id in touched:
                self._states.drop(job_id)
            self._remember(head)
            self._check_fold(head)
            join()
            states = self._load(conn, by_job(calls))
            batch = self._try(conn, head, calls, states, head.now_us, commit=True)
        if batch is not None:
            self.calm = self.calm + 1 if head.hash == seen.hash else 0
        return batch

    def _careful(self, conn: Conn, calls: list[AppendCall]) -> Batch:
        """Under the lock: the head, the known ids, then the same statement, which can't lose any more."""
        wanted = by_job(calls)
        seen = self.head
        with conn.transaction():
            head, known, versions = statements.lock_log(
                conn,
                self._log_id,
                [e.event_id for call in calls for e in call.events],
                self._states.held(wanted),
            )
            self._remember(head)
            self._check_fold(head)
            calm = seen is not None and seen.hash == head.hash
            if not calm:
                self._states.suspect()
            self._states.confirm(versions)
            states = self._load(conn, wanted)
            batch = self._fold(head, calls, known, states, head.now_us)
            if batch.fresh:
                self._execute(conn, head, batch, states)
        self.calm = self.calm + 1 if calm else 0
        self._keep(states)
        return batch

    def _try(
        self, conn: Conn, head: Head, calls: list[AppendCall], states: dict[str, Any], now: int, *, commit: bool = False
    ) -> Batch | None:
        """Fold as if no id were known, and write if nobody has to be refused. None: nothing was written."""
        batch = self._fold(head, calls, {}, states, now)
        try:
            if any(isinstance(outcome, EventStoreError) for outcome in batch.outcomes):
                raise Lost  # judged by a state that may be old, or of an id that may be known
            self._execute(conn, head, batch, states, commit=commit)
        except (Lost, pg.UniqueViolation, pg.SerializationFailure):
            for job_id in states:
                self._states.drop(job_id)
            return None
        self._keep(states)
        return batch

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

    def _keep(self, states: dict[str, Any]) -> None:
        for job_id, state in states.items():
            if job_id != LOG_JOB:
                self._states.put(job_id, state)

    def _execute(self, conn: Conn, head: Head, batch: Batch, states: dict[str, Any], *, commit: bool = False) -> None:
        rows = self._projection.rows(self._log_id, [state for job_id, state in states.items() if job_id != LOG_JOB])
        notify = time.monotonic() - self._told > NOTIFY_EVERY
        new = self._statement.run(conn, head, batch.head, batch.fresh, rows, notify=notify, commit=commit)
        if new is None:
            self.calm = 0
            raise Lost("the log moved on")
        self._remember(new)
        self.untold = not notify
        if notify:
            self._told = self._head_read

    def _remember(self, head: Head) -> Head:
        self.head, self._head_read = head, time.monotonic()
        return head

    def _check_fold(self, head: Head) -> None:
        if head.fold_version != self._projection.fold_version:
            raise FoldVersionMismatch(self._projection.fold_version, head.fold_version)
