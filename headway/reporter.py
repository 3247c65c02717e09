"""The queue between a job and the log, and the one thread that empties it.

The job's side only puts reports on the queue: microseconds, no I/O, whatever the log is doing. The sender's side sends
them in order, each with the id that it got when it was queued, so that a retry never counts twice.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from headway.coalesce import Coalescer
from headway.delivery import Delivery
from headway.report import Report, Scope
from headway.transport import Transport

logger = logging.getLogger("headway")

RATE: Final = 10.0  # progress reports per second and step
MAX_QUEUED: Final = 10_000
MAX_BATCH: Final = 500
ENDS: Final = frozenset(("job.completed", "job.failed", "job.cancelled"))
EXIT_TIMEOUT: Final = 3.0  # seconds that the end of the process may wait for the log

_living: weakref.WeakSet[Reporter] = weakref.WeakSet()


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of this process's reports. Progress that a newer value replaced is in none of them."""

    queued: int
    sent: int
    dropped: int
    waiting: int


class Reporter:
    """Takes reports and sends them. One per process is enough; made by `headway.connect`.

    No method raises because of the log, none waits for it but `flush` and `close`. The thread starts with the first
    report and is a daemon; at the end of the process at most `exit_timeout` seconds are spent on what is left. After a
    fork the child begins with an empty queue: what the parent queued, the parent sends.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        strict: bool = False,
        rate: float = RATE,
        max_queued: int = MAX_QUEUED,
        exit_timeout: float = EXIT_TIMEOUT,
    ) -> None:
        self.strict = strict
        self._transport = transport
        self._max_queued = max_queued
        self._exit_timeout = exit_timeout
        self._interval = 1.0 / rate
        self._warned: set[str] = set()
        self._reset()
        _living.add(self)

    def _reset(self) -> None:
        # Reentrant: a signal handler or a finalizer may report while this thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._coalescer = Coalescer[Scope](self._interval)
        self._queue: deque[tuple[Report, Scope | None]] = deque()
        self._delivery = Delivery(self._transport, self._warn)
        self._thread: threading.Thread | None = None
        self._queued = self._settled = self._refused = 0
        self._closing = False

    # -- the job's side ---------------------------------------------------------------------------------------------

    def report(self, scope: Scope, kind: str, data: dict[str, Any]) -> None:
        """Queue an event. Held progress goes before it: its scope's, or all of the job's before the end of the job."""
        with self._changed:
            if kind in ENDS:
                self._release(lambda source: source.run is scope.run)
            else:
                self._release(lambda source: source is scope)
            self._put(scope.report(kind, data), None)
            self._wake()

    def progress(self, scope: Scope, data: dict[str, Any]) -> None:
        """Queue a progress report, or hold it until its time has come."""
        with self._changed:
            held_before = self._coalescer.holds(scope)
            value = self._coalescer.offer(scope, data, time.monotonic())
            if value is not None:
                self._put(scope.report(scope.progress_type, value), scope)
            if value is not None or not held_before:
                self._wake()

    def ended(self, scope: Scope) -> None:
        """Nothing more comes from this scope."""
        with self._changed:
            self._coalescer.forget(scope)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was reported before is in the log; False if `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._release(lambda _: True)
            self._wake()
            upto = self._queued
            while self._settled < upto:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout: float | None = None) -> bool:
        """`flush`, then end the thread and the connection. What is left is given up, with one warning line."""
        done = self.flush(self._exit_timeout if timeout is None else timeout)
        with self._changed:
            self._closing = True
            self._delivery.give_up()
            thread = self._thread
            left = len(self._queue) + self._delivery.in_flight
            self._changed.notify_all()
        atexit.unregister(self._at_exit)
        if not done and left:
            logger.warning("headway: %d reports could not be sent before the end and are lost", left)
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0 if done else 0.1)
        return done

    @property
    def counts(self) -> Counts:
        """What was queued, sent, dropped, and what waits."""
        with self._changed:
            dropped = self._refused + self._delivery.dropped
            return Counts(
                queued=self._queued + self._refused,
                sent=self._settled - self._delivery.dropped,
                dropped=dropped,
                waiting=self._queued - self._settled,
            )

    def warn_once(self, what: str, text: str, *args: object) -> None:
        """One warning line per kind of trouble and process."""
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("headway: " + text, *args)

    # -- under the lock ---------------------------------------------------------------------------------------------

    def _put(self, report: Report, source: Scope | None) -> None:
        waiting = len(self._queue)
        # Progress can be done without; how a step or a job ended should get through even then.
        limit = self._max_queued * 2 if source is None else self._max_queued
        if self._closing or waiting >= limit:
            self._refused += 1
            if source is not None:
                self._coalescer.arrived(source)
            self.warn_once("full", "the log is away and %d reports wait: newer ones are dropped", waiting)
            return
        self._queued += 1
        self._queue.append((report, source))

    def _release(self, wanted: Callable[[Scope], bool]) -> None:
        for source in self._coalescer.sources():
            if wanted(source) and (held := self._coalescer.take(source)) is not None:
                self._put(source.report(source.progress_type, held), source)

    def _wake(self) -> None:
        if self._thread is None:
            self._start()
        else:
            self._changed.notify_all()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="headway-sender", daemon=True)
        self._thread = thread
        atexit.register(self._at_exit)
        pools = sys.modules.get("multiprocessing.util")
        if pools is not None:  # a child of multiprocessing ends without atexit
            pools.Finalize(None, self._at_exit, exitpriority=10)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            self._thread = None
            self._refused += len(self._queue)
            self._queue.clear()

    def _at_exit(self) -> None:
        if self._thread is not None and not self._closing:
            self.close()

    # -- the sender's side ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._delivery.send([report for report, _ in batch])
                with self._changed:
                    self._settled += len(batch)
                    for _, source in batch:
                        if source is not None:
                            self._coalescer.arrived(source)
                    self._changed.notify_all()
        except BaseException:
            logger.exception("headway: the sender stopped, nothing more is reported by this process")
        finally:
            self._transport.close()

    def _next(self) -> list[tuple[Report, Scope | None]] | None:
        """The next reports, as many as wait; None when it is time to end."""
        with self._changed:
            while True:
                for source, value in self._coalescer.due(time.monotonic()):
                    self._put(source.report(source.progress_type, value), source)
                if self._queue and not self._delivery.given_up:
                    return [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
                if self._closing:
                    return None
                due = self._coalescer.next_due()
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))

    def _warn(self, text: str, *args: object) -> None:
        logger.warning("headway: " + text, *args)


def _forked() -> None:
    for reporter in list(_living):
        reporter._reset()
        reporter._transport.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
