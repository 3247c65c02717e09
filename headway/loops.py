"""Loops that report: over items, and over attempts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from headway.jobs import Job
    from headway.steps import Step

T = TypeVar("T")


class Tracked(Generic[T]):
    """Items that count themselves: for `for` and `async for`. Made by `Step.track`."""

    def __init__(
        self,
        step: Step,
        items: Iterable[T] | AsyncIterable[T],
        *,
        total: int | None,
        unit: str | None,
        message: str | None,
    ) -> None:
        self._step, self._items = step, items
        self._unit, self._message = unit, message
        if total is None:
            try:
                total = length_hint(items) or None
            except Exception:
                total = None
        self._total = total

    def __len__(self) -> int:
        return length_hint(self._items)

    def __iter__(self) -> Iterator[T]:
        assert isinstance(self._items, Iterable)
        done = 0
        self._count(done)
        for item in self._items:
            yield item
            done += 1
            self._count(done)

    async def __aiter__(self) -> AsyncIterator[T]:
        done = 0
        self._count(done)
        if isinstance(self._items, AsyncIterable):
            async for item in self._items:
                yield item
                done += 1
                self._count(done)
        else:
            for item in self._items:
                yield item
                done += 1
                self._count(done)

    def _count(self, done: int) -> None:
        if done or self._total:
            self._step.progress(done=done, total=self._total, unit=self._unit, message=self._message)


class Attempts:
    """The attempts at a step, one after the other until one succeeds. Made by `Job.attempts`.

    An attempt that fails with an exception is reported and swallowed, as long as another one follows; the last one's
    goes on to the job.
    """

    def __init__(self, job: Job, name: str, tries: int, wait: float) -> None:
        self._job, self._name = job, name
        self._tries = max(1, tries)
        self._wait = wait  # seconds

    def __iter__(self) -> Iterator[Attempt]:
        for left in range(self._tries - 1, -1, -1):
            attempt = Attempt(self._job.step(self._name, retry_in=self._wait if left else None), last=not left)
            yield attempt
            if not attempt.failed:
                return
            time.sleep(self._wait)

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        import anyio

        for left in range(self._tries - 1, -1, -1):
            attempt = Attempt(self._job.step(self._name, retry_in=self._wait if left else None), last=not left)
            yield attempt
            if not attempt.failed:
                return
            await anyio.sleep(self._wait)


class Attempt:
    """One attempt: `with attempt as step:`."""

    def __init__(self, step: Step, *, last: bool) -> None:
        self._step, self._last = step, last
        self.failed = False

    def __enter__(self) -> Step:
        return self._step.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._step.__exit__(kind, error, at)
        self.failed = isinstance(error, Exception)
        return self.failed and not self._last

    async def __aenter__(self) -> Step:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool:
        return self.__exit__(kind, error, at)
