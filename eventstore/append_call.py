"""One call on a committer's queue: taken or withdrawn, answered or failed, exactly once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID
from weakref import WeakKeyDictionary

from eventstore.batch import Request
from eventstore.codec import Prepared
from eventstore.errors import Forked, OutcomeUnknown, StoreBusy
from eventstore.events import ANY, Appended, Expected

GRACE: Final = 0.2  # seconds after its deadline until a call no longer waits for the committer's own word
TICK: Final = 0.1  # seconds between looks at the calls that wait in an event loop


class AppendCall(Request):
    """A request with someone who waits for it. `deadline`: seconds on the monotonic clock."""

    __slots__ = ("_done", "_future", "_loop", "_outcome", "_pid", "_token", "deadline")

    def __init__(
        self, events: Sequence[Prepared], expected: Expected | int = ANY, *, timeout: float, summarize: bool = False
    ) -> None:
        super().__init__(events, expected, summarize=summarize)
        self.deadline = time.monotonic() + timeout
        self._pid = os.getpid()
        self._token = [True]
        self._outcome: list[Appended] | BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None

    def take(self) -> bool:
        """The committer takes it, or finds that its caller withdrew it. `list.pop` lets one of the two win."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop

    def settle(self, outcome: list[Appended] | BaseException) -> None:
        """Store the first outcome and wake a blocking waiter; an asynchronous one is woken by `wake` in its loop."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        if self._loop is None:
            self._done.release()

    def wake(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    def wait(self) -> list[Appended]:
        """Block until answered. Raises what the call failed with, `StoreBusy` if nobody took it before its deadline,
        `OutcomeUnknown` if it was taken and not answered, `Forked` in a child of the process that queued it."""
        if self._pid != os.getpid():
            raise Forked
        # The committer answers at the deadline by itself; the grace lets its answer win over ours.
        if not self._done.acquire(timeout=max(0.0, self.deadline - time.monotonic()) + GRACE):
            self._give_up()
        return self._answer()

    async def wait_async(self) -> list[Appended]:
        """`wait` without a thread. Cancelling it withdraws the call if nobody took it yet."""
        future, loop = self._future, self._loop
        assert future is not None
        assert loop is not None
        waiting = _waiting.get(loop)
        if waiting is None:
            waiting = _waiting[loop] = _Waiting()
        waiting.add(self, loop)
        try:
            await future
        except asyncio.CancelledError:
            self.take()
            raise
        finally:
            waiting.discard(self)
        if self._outcome is None:
            self._give_up()
        return self._answer()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let `settle` be followed by a `wake` in this loop. Before the call is queued."""
        self._loop, self._future = loop, loop.create_future()

    def _give_up(self) -> None:
        if self.take():
            raise StoreBusy("the append waited for its turn until its deadline; nothing was written: try again")
        if self._outcome is None:
            raise OutcomeUnknown("the database did not answer before the deadline", self._ids())

    def _ids(self) -> tuple[UUID, ...]:
        return tuple(UUID(bytes=event.event_id) for event in self.events)

    def _answer(self) -> list[Appended]:
        outcome = self._outcome
        if isinstance(outcome, OutcomeUnknown):
            raise OutcomeUnknown(outcome.detail, self._ids())
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome


class _Waiting:
    """The calls that wait in one event loop: who gets no answer is woken within `GRACE` + `TICK` of its deadline.

    One timer for all of them: one for each would cost as much as checking and encoding its event (8 µs with uvloop).
    """

    __slots__ = ("_calls", "_ticking")

    def __init__(self) -> None:
        self._calls: dict[AppendCall, None] = {}
        self._ticking = False

    def add(self, call: AppendCall, loop: asyncio.AbstractEventLoop) -> None:
        self._calls[call] = None
        if not self._ticking:
            self._ticking = True
            loop.call_later(TICK, self._tick)

    def discard(self, call: AppendCall) -> None:
        self._calls.pop(call, None)

    def _tick(self) -> None:
        late = time.monotonic() - GRACE
        for call in self._calls:
            if call.deadline < late:
                call.wake()
        self._ticking = bool(self._calls)
        if self._ticking:
            asyncio.get_running_loop().call_later(TICK, self._tick)


_waiting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting]] = WeakKeyDictionary()


def settle_all(settled: Sequence[tuple[AppendCall, list[Appended] | BaseException]]) -> None:
    """Answer many calls: one `call_soon_threadsafe` per event loop, not one per call."""
    loops: dict[asyncio.AbstractEventLoop, list[AppendCall]] = {}
    for call, outcome in settled:
        call.settle(outcome)
        if call.loop is not None:
            loops.setdefault(call.loop, []).append(call)
    for loop, calls in loops.items():
        try:
            loop.call_soon_threadsafe(_wake, calls)
        except RuntimeError:
            continue  # the loop was closed: nobody waits there any more


def _wake(calls: Sequence[AppendCall]) -> None:
    for call in calls:
        call.wake()
