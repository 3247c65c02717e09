"""`InMemoryEventStore`: the log without a server, for unit tests and as the model of the real one.

It uses the same preparation and the same `fold_batch`; what it leaves out is what needs a database: durability,
committers, the network. Nothing of it outlives the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from eventstore.append_call import AppendCall, settle_all
from eventstore.batch import MAX_JOB_EVENTS, Head, Known, by_job, fold_batch, to_recorded
from eventstore.chain import GENESIS
from eventstore.codec import Prepared, check_job_id, check_log
from eventstore.committer import Listener
from eventstore.cursor import Cursor, Where, parse_cursor
from eventstore.epochs import log_event
from eventstore.errors import EventStoreError, FoldVersionMismatch, NoSuchLog
from eventstore.events import ANY, LOG_JOB, Appended, Expected, NewEvent, RecordedEvent
from eventstore.history import locate
from eventstore.inline import InlineProjection, NoProjection
from eventstore.store import FAR, TIMEOUT, Redact, make_call, prepare_all

if TYPE_CHECKING:
    from eventstore.filters import Following
    from eventstore.subscription import Subscription

SYSTEM: Final = "memory"


def _now_us() -> int:
    return time.time_ns() // 1_000


class _Log:
    """One sequence of events with everything that is looked up in it."""

    def __init__(self, log_id: int, name: str, fold_version: int) -> None:
        self.head = Head(log_id, name, 1, 0, GENESIS, fold_version, SYSTEM, "1", 0)
        self.epochs: list[tuple[int, int]] = []
        self.prepared: list[Prepared] = []
        self.index()

    def index(self) -> None:
        self.events: list[RecordedEvent] = []
        self.jobs: dict[str, list[RecordedEvent]] = {}
        self.known: dict[bytes, Known] = {}
        self.states: dict[str, Any] = {}

    def keep(self, event: Prepared) -> RecordedEvent:
        recorded = to_recorded(event)
        self.events.append(recorded)
        self.jobs.setdefault(event.job_id, []).append(recorded)
        self.known[event.event_id] = Known(
            event.event_id, event.position, event.version, event.job_id, event.type, event.step, event.attempt,
            event.seq, event.text, event.salt, event.applied, event.reason, event.ppm, event.hash, event.occurred_us,
        )  # fmt: skip
        return recorded

    def hash_at(self, position: int) -> bytes:
        return self.events[position - 1].hash


class _Shared:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.logs: dict[str, _Log] = {}
        self.listeners: list[Listener] = []


class InMemoryEventStore:
    """The interface and the promises of `EventStore`, except that nothing is on disk. Safe to share between threads.

    The log that it is made for exists from the start; others by `create_log`. `clock` gives microseconds since 1970.
    """

    def __init__(
        self,
        *,
        log: str = "default",
        projection: InlineProjection | None = None,
        redact: Redact | None = None,
        max_job_events: int = MAX_JOB_EVENTS,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.log = check_log(log)
        self.projection: InlineProjection = projection or NoProjection()
        self._redact = redact
        self._max_job_events = max_job_events
        self._clock = clock
        self._shared = _Shared()
        self.create_log()

    def for_log(self, log: str) -> InMemoryEventStore:
        """The same store, looking at another log."""
        other = object.__new__(InMemoryEventStore)
        other.__dict__.update(self.__dict__)
        other.log = check_log(log)
        return other

    # -- append -----------------------------------------------------------------------------------------------------

    def append(
        self, job_id: str, events: Sequence[NewEvent], *, expected: Expected | int = ANY, timeout: float = TIMEOUT
    ) -> list[Appended]:
        """See `EventStore.append`."""
        return self.submit(self.prepare(job_id, events), expected, timeout=timeout).wait()

    def append_many(self, events: Sequence[tuple[str, NewEvent]], *, timeout: float = TIMEOUT) -> list[Appended]:
        """See `EventStore.append_many`."""
        return self.submit(self.prepare_many(events), timeout=timeout).wait()

    def prepare(self, job_id: str, events: Sequence[NewEvent]) -> list[Prepared]:
        """See `EventStore.prepare`."""
        check_job_id(job_id)
        return self.prepare_many([(job_id, event) for event in events], checked=True)

    def prepare_many(self, events: Sequence[tuple[str, NewEvent]], *, checked: bool = False) -> list[Prepared]:
        """See `EventStore.prepare_many`."""
        return prepare_all(events, self.projection, self._redact, checked=checked)

    def submit(
        self, events: Sequence[Prepared], expected: Expected | int = ANY, *, timeout: float = TIMEOUT
    ) -> AppendCall:
        """Append prepared events at once; `.wait()` on the answer gives it without waiting."""
        call = make_call(events, expected, timeout)
        call.take()
        with self._shared.lock:
            settle_all([(call, self._append(self._here(), call))])
        return call

    def _append(self, log: _Log, call: AppendCall) -> list[Appended] | EventStoreError:
        projection = self.projection
        if log.head.fold_version != projection.fold_version:
            return FoldVersionMismatch(projection.fold_version, log.head.fold_version)
        jobs = by_job([call])
        states = {job_id: log.states.get(job_id) or projection.initial(job_id) for job_id in jobs}
        batch = fold_batch(
            log.head, [call], log.known, states, projection,
            recorded_us=(self._clock or _now_us)(), max_job_events=self._max_job_events,
        )  # fmt: skip
        self._keep(log, batch.head, batch.fresh, states)
        return batch.outcomes[0]

    def _keep(self, log: _Log, head: Head, fresh: Sequence[Prepared], states: Mapping[str, Any]) -> None:
        if not fresh:
            return
        log.head = head
        log.prepared += fresh
        log.states.update(states)
        self.projection.rows(head.log_id, [state for job_id, state in states.items() if job_id != LOG_JOB])
        events = [log.keep(event) for event in fresh]
        for listener in tuple(self._shared.listeners):
            listener(head, events)

    def on_append(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(head, events)` after each append, in the thread of its caller, in the order of the log.

        Returns a function that ends it.
        """
        self._shared.listeners.append(listener)
        return lambda: self._shared.listeners.remove(listener)

    # -- logs -------------------------------------------------------------------------------------------------------

    def create_log(self, name: str | None = None) -> bool:
        """Create a log; False if it was there already."""
        log = check_log(self.log if name is None else name)
        with self._shared.lock:
            logs = self._shared.logs
            if log in logs:
                return False
            logs[log] = _Log(len(logs) + 1, log, self.projection.fold_version)
            return True

    def begin_epoch(self, common_position: int | None = None) -> Head:
        """Lose what lies after `common_position` (default: nothing) and begin the next epoch, as after a failover.

        The log records it by an event of its own, so the head moves to `common_position` + 1.
        """
        with self._shared.lock:
            log = self._here()
            common = log.head.position if common_position is None else common_position
            kept = log.prepared[:common]
            log.epochs.append((log.head.epoch, common))
            log.prepared = kept
            log.index()
            for event in kept:
                log.keep(event)
                if event.job_id != LOG_JOB:
                    state = log.states.get(event.job_id) or self.projection.initial(event.job_id)
                    log.states[event.job_id], _ = self.projection.evolve(state, event)
            log.head = msgspec.structs.replace(
                log.head,
                epoch=log.head.epoch + 1,
                position=common,
                hash=log.hash_at(common) if common else GENESIS,
                timeline=str(int(log.head.timeline) + 1),
            )
            states: dict[str, Any] = {LOG_JOB: NoProjection().initial(LOG_JOB)}
            states[LOG_JOB].version = len(log.jobs.get(LOG_JOB, ()))
            told = AppendCall([_started(log.head, common)], timeout=TIMEOUT)
            batch = fold_batch(log.head, [told], {}, states, self.projection, recorded_us=(self._clock or _now_us)())
            self._keep(log, batch.head, batch.fresh, {})
            return log.head

    def logs(self) -> list[Head]:
        """All logs, oldest first."""
        with self._shared.lock:
            return [self._timed(log.head) for log in self._shared.logs.values()]

    def log_id(self) -> int:
        return self.head().log_id

    def log_is_known(self) -> bool:
        """Whether `log_id` answers at once."""
        return True

    def head(self) -> Head:
        """Where the log stands now."""
        with self._shared.lock:
            return self._timed(self._here().head)

    def resolve(self, cursor: str | int | Cursor | Where | None) -> tuple[Head, int]:
        """See `EventStore.resolve`."""
        parsed = parse_cursor(cursor)
        with self._shared.lock:
            log = self._here()
            return self._timed(log.head), locate(parsed, log.head, lambda: log.epochs, log.hash_at)

    def _here(self) -> _Log:
        log = self._shared.logs.get(self.log)
        if log is None:
            raise NoSuchLog(self.log)
        return log

    def _timed(self, head: Head) -> Head:
        return msgspec.structs.replace(head, now_us=(self._clock or _now_us)())

    # -- read -------------------------------------------------------------------------------------------------------

    def read_log(self, after: int = 0, *, upto: int = FAR, limit: int = 1_000) -> list[RecordedEvent]:
        """See `EventStore.read_log`."""
        after = max(after, 0)
        with self._shared.lock:
            return self._here().events[after : max(0, min(upto, after + limit))]

    def read_job(self, job_id: str, after: int = 0, *, upto: int = FAR, limit: int = 1_000) -> list[RecordedEvent]:
        """See `EventStore.read_job`."""
        with self._shared.lock:
            events = self._here().jobs.get(job_id, [])[max(after, 0) :]
        return [event for event in events if event.position <= upto][:limit]

    def read_job_after_position(self, job_id: str, after: int, *, upto: int, limit: int) -> list[RecordedEvent]:
        """See `EventStore.read_job_after_position`."""
        with self._shared.lock:
            events = list(self._here().jobs.get(job_id, ()))
        return [event for event in events if after < event.position <= upto][:limit]

    def replay(self, after: int = 0, *, upto: int | None = None, page: int = 1_000) -> Iterator[list[RecordedEvent]]:
        """See `EventStore.replay`."""
        if page < 1:
            raise ValueError(f"page: at least 1 event; given {page}")
        end = self.head().position
        end = end if upto is None else min(upto, end)
        while after < end:
            events = self.read_log(after, upto=end, limit=page)
            yield events
            after = events[-1].position

    def subscribe(self, **following: Unpack[Following]) -> Subscription:
        """See `EventStore.subscribe`; there is no Redis and no NOTIFY here, an append wakes those who wait."""
        from eventstore.subscription import subscribe

        return subscribe(self, **following)

    def close(self) -> None:
        """Nothing to end; the log goes with the last reference to the store."""

    def __enter__(self) -> InMemoryEventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _started(head: Head, common: int) -> Prepared:
    return log_event(
        "log.epoch_started",
        {"epoch": head.epoch, "common_position": common, "system_id": SYSTEM, "timeline": head.timeline},
    )
