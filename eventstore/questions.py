"""Blocking questions to PostgreSQL, asked from an event loop, by somebody who outlives its absence."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import psycopg

from eventstore.errors import EventStoreError, StoreUnavailable

logger = logging.getLogger("headway.live")

PATIENCE: Final = 5.0  # seconds for one question that is not asked again
GRACE: Final = 1.0  # seconds that a cancelled question gets to end in good order
RETRY: Final = 0.1, 2.0  # seconds between questions to a PostgreSQL that is away: at first, at most

R = TypeVar("R")


class Questions:
    """Asks in threads, `limit` at once, first come first served.

    An outage is told in two lines that name `log`, at its beginning and at its end; `away` is called when it begins.
    """

    def __init__(self, log: str, limit: int, away: Callable[[], None]) -> None:
        self._log = log
        self._limiter = anyio.CapacityLimiter(limit)
        self._away = away
        self._away_since: float | None = None
        self._delay = RETRY[0]
        self._next, self._asking = _Shared(), anyio.Lock()

    async def ask(self, call: Callable[[], R], *, until: float = math.inf, give_up_after: float = math.inf) -> R | None:
        """The answer, asked for again and again while PostgreSQL is away.

        None when the monotonic clock reaches `until`. Raises `StoreUnavailable` after `give_up_after` seconds.
        """
        while True:
            with anyio.move_on_after(min(until - time.monotonic(), give_up_after)) as scope:
                try:
                    answer = await self._run(call)
                except (EventStoreError, psycopg.OperationalError, psycopg.InterfaceError) as error:
                    self._lost(error)
                else:
                    self._back()
                    return answer
            if scope.cancelled_caught and time.monotonic() < until:
                self._lost(StoreUnavailable(f"no answer for {give_up_after:g} s"))
            pause = min(self.backoff(), self.patience(give_up_after), until - time.monotonic())
            if pause <= 0:
                return None
            await anyio.sleep(pause)

    async def once(self, call: Callable[[], R], *, patience: float = PATIENCE) -> R | None:
        """The answer, or None if there is none within `patience` seconds."""
        began: list[bool] = []
        try:
            with anyio.fail_after(patience):
                answer = await self._run(call, began)
        except TimeoutError as error:
            if began:  # else it waited for the others here, which says nothing of PostgreSQL
                self._lost(error)
            return None
        except (EventStoreError, psycopg.OperationalError, psycopg.InterfaceError) as error:
            self._lost(error)
            return None
        self._back()
        return answer

    async def shared(self, call: Callable[[], R]) -> R | None:
        """`once`, for all who ask before it begins: no answer is older than the asking. Always with the same `call`."""
        mine = self._next
        async with self._asking:
            if not mine.asked:
                self._next = _Shared()
                mine.answer = await self.once(call)
                mine.asked = True
        answer: R | None = mine.answer
        return answer

    def backoff(self) -> float:
        """Seconds to wait before the next question to a PostgreSQL that is away."""
        self._delay = min(2 * self._delay, RETRY[1])
        return self._delay * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret

    def patience(self, give_up_after: float) -> float:
        """Seconds that are left to wait for PostgreSQL; infinite while it answers. Raises `StoreUnavailable`."""
        if self._away_since is None or give_up_after == math.inf:
            return math.inf
        left = self._away_since + give_up_after - time.monotonic()
        if left <= 0:
            raise StoreUnavailable(f"PostgreSQL was away for {give_up_after:g} s")
        return left

    async def _run(self, call: Callable[[], R], began: list[bool] | None = None) -> R:
        """Run it in a thread. Cancelled, it waits a moment for the answer, so that the connection goes back whole.

        `began` holds something as soon as a thread was free for it.
        """
        loop, over, began = asyncio.get_running_loop(), asyncio.Event(), [] if began is None else began

        def run() -> R:
            began.append(True)
            try:
                return call()
            finally:
                try:
                    loop.call_soon_threadsafe(over.set)
                except RuntimeError:
                    pass  # the loop was closed under us

        try:
            return await anyio.to_thread.run_sync(run, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            if began and not over.is_set():
                with anyio.move_on_after(GRACE, shield=True):
                    await over.wait()

    def _lost(self, error: Exception) -> None:
        if isinstance(error, EventStoreError) and not error.retryable:
            raise error
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._away()
            why = str(error).strip() or type(error).__name__
            logger.warning("log %s: PostgreSQL is away, consumers wait for it: %s", self._log, why)

    def _back(self) -> None:
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            self._away_since, self._delay = None, RETRY[0]
            logger.warning("log %s: PostgreSQL is back after %.1f s", self._log, away)


class _Shared:
    asked = False
    answer: Any = None
