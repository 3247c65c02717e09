"""`EventStore`: a log in PostgreSQL. The blocking core; `eventstore.aio` is its asynchronous shell."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

from eventstore import connections, epochs, statements
from eventstore.append_call import AppendCall
from eventstore.batch import MAX_JOB_EVENTS, Head
from eventstore.codec import Prepared, check_job_id, check_log, prepare
from eventstore.committer import Committer, Listener
from eventstore.connections import Database, Walled
from eventstore.cursor import Cursor, Where
from eventstore.errors import InvalidEvent, StoreBusy, StoreClosed
from eventstore.events import ANY, LOG_JOB, NO_JOB, Appended, Expected, NewEvent, RecordedEvent
from eventstore.history import resolve
from eventstore.inline import InlineProjection, NoProjection
from eventstore.statements import Conn

if TYPE_CHECKING:
    from eventstore.consumer import Consumer
    from eventstore.filters import Following
    from eventstore.subscription import Subscription

logger = logging.getLogger("headway.store")

MAX_CALL: Final = 1_000  # events in one call
MAX_COMMITTERS: Final = 16
TIMEOUT: Final = 10.0  # seconds
IN_FLIGHT: Final = 4  # pages on the way during a replay
FAR: Final = 2**62

Redact = Callable[[dict[str, Any]], dict[str, Any]]


class EventStore:
    """One log of a database: append, read, replay. Safe to share between threads, and after a fork.

    `projection` is folded inside each append's transaction. `log` must exist (`create_log`, or `headway logs create`).
    All methods raise `NoSuchLog`, and `StoreUnavailable` (retryable) when PostgreSQL can't be reached or is not well;
    `StorageFull` is one of these.
    """

    def __init__(
        self,
        url: str,
        *,
        log: str = "default",
        projection: InlineProjection | None = None,
        redact: Redact | None = None,
        max_job_events: int = MAX_JOB_EVENTS,
        pool_size: int = 10,
        pgbouncer: bool = False,
        allow_unsafe: bool = False,
    ) -> None:
        self.log = check_log(log)
        self.projection: InlineProjection = projection or NoProjection()
        self.database = Database(url, pool_size=pool_size, pgbouncer=pgbouncer)
        self._redact = redact
        self._max_job_events = max_job_events
        self._allow_unsafe = allow_unsafe
        self._owner = self
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self._listeners: list[Listener] = []
        self._before_close: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._committers: dict[int, Committer] = {}
        self._log_ids: dict[str, int] = {}
        self._pid = os.getpid()

    def _here(self) -> EventStore:
        """The store that owns pool and committers, made anew after a fork: nothing of the parent's is used there."""
        owner = self._owner
        if owner._pid != os.getpid():
            owner.database.dispose(forked=True)
            connections.INHERITED.append(owner._committers)
            owner._reset()
        if owner._closed:
            raise StoreClosed
        return owner

    def _reading(self) -> Database:
        self._here()
        return self.database

    def for_log(self, log: str) -> EventStore:
        """The same store, looking at another log: pool, committers and listeners are shared, and the wall stays."""
        other = object.__new__(EventStore)
        other.__dict__.update(self._here().__dict__)
        other.log, other._owner, other.database = check_log(log), self._owner, self.database
        return other

    def walled(self, log_id: int) -> EventStore:
        """The same store, whose reads see the log with this number only: PostgreSQL itself keeps the others away.

        The number comes from whoever asks, not from the log's name: two filters that don't know of each other. Needs
        the roles of the migration, and membership in `headway_reader`. Appends are made as before.
        """
        other = self.for_log(self.log)
        other.database = Walled(self._here().database, log_id)
        return other

    # -- append -----------------------------------------------------------------------------------------------------

    def append(
        self,
        job_id: str,
        events: Sequence[NewEvent],
        *,
        expected: Expected | int = ANY,
        timeout: float = TIMEOUT,
    ) -> list[Appended]:
        """Append 1 to 1,000 events to a job, all or none; returns when they are on disk, one answer per event.

        A retry with the same event ids changes nothing and answers with the first positions. `expected` is `ANY`,
        `NO_JOB` or the job's version. A report that must not count is appended with `applied=False` and a reason.
        Raises `InvalidEvent`, `WrongExpectedVersion`, `EventIdConflict`, `JobFull`, `AppendRefused` (nothing was
        written), `StoreBusy`, `StoreUnavailable` (nothing was written, try again), `OutcomeUnknown` (retry with the
        same ids, that decides).
        """
        return self.submit(self.prepare(job_id, events), expected, timeout=timeout).wait()

    def append_many(self, events: Sequence[tuple[str, NewEvent]], *, timeout: float = TIMEOUT) -> list[Appended]:
        """`append` over many jobs: pairs of job id and event, all or none."""
        return self.submit(self.prepare_many(events), timeout=timeout).wait()

    def prepare(self, job_id: str, events: Sequence[NewEvent]) -> list[Prepared]:
        """Check the events and make them ready; the database is not asked. Raises `InvalidEvent`."""
        check_job_id(job_id)
        return self.prepare_many([(job_id, event) for event in events], checked=True)

    def prepare_many(self, events: Sequence[tuple[str, NewEvent]], *, checked: bool = False) -> list[Prepared]:
        """`prepare` over many jobs. Errors name the index: `events[3].data.percent`."""
        return prepare_all(events, self.projection, self._redact, checked=checked)

    def submit(
        self, events: Sequence[Prepared], expected: Expected | int = ANY, *, timeout: float = TIMEOUT
    ) -> AppendCall:
        """Queue prepared events; `.wait()` on the answer. Raises `StoreBusy` when too much is queued."""
        call = make_call(events, expected, timeout)
        self.committer().submit(call)
        return call

    def committer(self) -> Committer:
        """The committer of this log, made on first use."""
        owner = self._here()
        log_id = self.log_id()
        with owner._lock:
            committer = owner._committers.get(log_id)
            if committer is None or not committer.running:
                owner._make_room()
            if committer is None:
                committer = owner._committers[log_id] = Committer(
                    log_id,
                    connect=lambda: self._writer(log_id),
                    projection=owner.projection,
                    listeners=owner._listeners,
                    max_job_events=owner._max_job_events,
                )
            return committer

    def queued(self) -> dict[str, int]:
        """Events that wait to be appended, by log; of the logs that this process appends to."""
        owner = self._here()
        names = {log_id: name for name, log_id in list(owner._log_ids.items())}
        return {
            names[log_id]: committer.queued for log_id, committer in list(owner._committers.items()) if log_id in names
        }

    def _make_room(self) -> None:
        """At most 16 threads and connections: the committer that has been idle for longest gives way."""
        running = [committer for committer in self._committers.values() if committer.running]
        idle = sorted((c for c in running if c.idle_since is not None), key=lambda c: c.idle_since or 0.0)
        if len(running) >= MAX_COMMITTERS and not any(committer.retire() for committer in idle):
            raise StoreBusy(f"{MAX_COMMITTERS} logs are being written by this process: try again in a moment")

    def _writer(self, log_id: int) -> Conn:
        conn = self.database.connect(hot=True)
        try:
            if not self._allow_unsafe:
                connections.check_durability(conn)
            epochs.ensure_epoch(conn, log_id, *connections.identity(conn), self.projection)
        except BaseException:
            conn.close()
            raise
        return conn

    def on_append(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(head, events)` after each commit of this process, in the committer's thread; be quick.

        Returns a function that ends it.
        """
        listeners = self._here()._listeners
        listeners.append(listener)
        return lambda: listeners.remove(listener)

    # -- logs -------------------------------------------------------------------------------------------------------

    def create_log(self, name: str | None = None) -> bool:
        """Create a log; False if it was there already."""
        log = check_log(self.log if name is None else name)
        with self._here().database.session() as conn:
            system, timeline = connections.identity(conn)
            made = conn.execute(
                statements.CREATE_LOG,
                {"name": log, "fold": self.projection.fold_version, "system": system, "timeline": timeline},
            ).fetchone()
        return made is not None

    def logs(self) -> list[Head]:
        """All logs of the database, oldest first."""
        with self._reading().session() as conn:
            return statements.list_logs(conn)

    def log_id(self) -> int:
        owner = self._here()
        log_id = owner._log_ids.get(self.log)
        if log_id is None:
            with self._reading().session() as conn:
                log_id = owner._log_ids[self.log] = statements.find_log(conn, self.log).log_id
        return log_id

    def log_is_known(self) -> bool:
        """Whether `log_id` answers without asking the database."""
        return self.log in self._here()._log_ids

    def head(self) -> Head:
        """Where the log stands now."""
        log_id = self.log_id()
        with self._reading().session() as conn:
            return statements.read_head(conn, log_id)

    def resolve(self, cursor: str | int | Cursor | Where | None) -> tuple[Head, int]:
        """The head, and the position that a cursor means in this log's history.

        Raises `InvalidCursor`, or `LogDiverged` with the last common cursor: ahead of the log, or of another history.
        """
        log_id = self.log_id()
        with self._reading().session() as conn:
            return resolve(conn, log_id, cursor)

    # -- read -------------------------------------------------------------------------------------------------------

    def read_log(self, after: int = 0, *, upto: int = FAR, limit: int = 1_000) -> list[RecordedEvent]:
        """Events of the log after a position (exclusive) up to one (inclusive), in order, at most `limit`."""
        log_id = self.log_id()
        with self._reading().session() as conn:
            return statements.recorded(conn.execute(statements.READ_LOG, (log_id, after, upto, limit), binary=True))

    def read_job(self, job_id: str, after: int = 0, *, upto: int = FAR, limit: int = 1_000) -> list[RecordedEvent]:
        """Events of a job after a version (exclusive), up to a position of the log (inclusive), in order."""
        log_id = self.log_id()
        with self._reading().session() as conn:
            return statements.recorded(
                conn.execute(statements.READ_JOB, (log_id, job_id, after, upto, limit), binary=True)
            )

    def read_job_after_position(self, job_id: str, after: int, *, upto: int, limit: int) -> list[RecordedEvent]:
        """Events of a job after a position of the log (exclusive), up to one (inclusive), in order."""
        log_id = self.log_id()
        with self._reading().session() as conn:
            return statements.recorded(
                conn.execute(statements.READ_JOB_AFTER_POSITION, (log_id, job_id, after, upto, limit), binary=True)
            )

    def replay(self, after: int = 0, *, upto: int | None = None, page: int = 1_000) -> Iterator[list[RecordedEvent]]:
        """All events after a position, in pages, as fast as the database gives them: pages are asked for ahead.

        Dense positions make each page a range, so no cursor is held and no transaction stays open. Ends at the head
        that is read at the start, or at `upto`. A page holds 1 event or more. Behind the wall a page is a transaction,
        so they come one by one.
        """
        if page < 1:
            raise ValueError(f"page: at least 1 event; given {page}")
        head = self.head()
        end = head.position if upto is None else min(upto, head.position)
        if isinstance(self.database, Walled):
            while after < end and (events := self.read_log(after, upto=end, limit=page)):
                yield events
                after = events[-1].position
            return
        with self._reading().session() as conn, conn.pipeline():
            asked = after
            flying: list[Any] = []
            while flying or asked < end:
                while asked < end and len(flying) < IN_FLIGHT:
                    upper = min(asked + page, end)
                    flying.append(
                        conn.execute(statements.READ_LOG, (head.log_id, asked, upper, page), binary=True, prepare=True)
                    )
                    asked = upper
                yield statements.recorded(flying.pop(0))

    def subscribe(self, **following: Unpack[Following]) -> Subscription:
        """Follow the log: `async for event in store.subscribe(after=cursor)`; see `subscription.subscribe`."""
        from eventstore.subscription import subscribe

        return subscribe(self, **following)

    def consume(self, name: str, *, save_every: float = 1.0, **following: Unpack[Following]) -> Consumer:
        """Follow the log under a name, from where that name came to; see `eventstore.consumer.Consumer`."""
        from eventstore.consumer import consume

        return consume(self, name, save_every=save_every, **following)

    def before_close(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when `close` begins, while the store still works: for who has something left to append."""
        self._here()._before_close.append(callback)

    def close(self, timeout: float = TIMEOUT) -> None:
        """Append what is queued, then end the committers and close the pool. Closing twice is no error.

        A database that hangs is waited for at most `timeout` seconds; who still waits for an append then hears of it at
        its deadline. Using the store afterwards raises `StoreClosed`.
        """
        try:
            owner = self._here()
        except StoreClosed:
            return
        while owner._before_close:
            owner._before_close.pop()()
        with owner._lock:
            owner._closed = True
            committers = list(owner._committers.values())
        for committer in committers:
            committer.stop()
        end = time.monotonic() + timeout
        late = [committer for committer in committers if not committer.join(end - time.monotonic())]
        if late:
            logger.warning(
                "%d logs: the last append is still on its way after %g s, it is not waited for", len(late), timeout
            )
        owner.database.dispose()

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare_all(
    events: Sequence[tuple[str, NewEvent]], projection: InlineProjection, redact: Redact | None, *, checked: bool
) -> list[Prepared]:
    """Check the events of one call and make them ready. `checked`: the job ids are known to be good."""
    if not 1 <= len(events) <= MAX_CALL:
        raise InvalidEvent("events", f"{len(events)} events", f"1 to {MAX_CALL:,} events in a call", "out_of_range")
    ready: list[Prepared] = []
    check = projection.check
    for index, (job_id, event) in enumerate(events):
        try:
            if not checked:
                check_job_id(job_id)
            ready.append(prepare(job_id, event, check=check, redact=redact))
        except InvalidEvent as error:
            raise error.at(f"events[{index}]") from None
    return ready


def make_call(
    events: Sequence[Prepared], expected: Expected | int, timeout: float, *, summarize: bool = False
) -> AppendCall:
    """A call for a committer. Raises `InvalidEvent` for an expectation that means nothing."""
    if expected is not ANY:
        if expected is not NO_JOB and (type(expected) is not int or expected < 0):
            raise InvalidEvent("expected", expected, "ANY, NO_JOB or a version from 0", "wrong_type")
        if len({event.job_id for event in events}) > 1:
            raise InvalidEvent("expected", expected, "ANY for a call over many jobs", "out_of_range")
    return AppendCall(events, expected, timeout=timeout, summarize=summarize)


__all__ = ["ANY", "LOG_JOB", "NO_JOB", "EventStore", "make_call"]
