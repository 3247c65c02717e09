"""A step while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from headway.loops import Tracked
from headway.payload import text
from headway.work import Moment, Work, harmless

if TYPE_CHECKING:
    from headway.jobs import Job

T = TypeVar("T")

running: ContextVar[Step | None] = ContextVar("headway_step", default=None)


class Step(Work):
    """One attempt at a step; made by `Job.step`.

        with job.step("fetch") as step:
            for item in step.track(items):
                …

    The end of the block completes the step; an exception fails it with message, type and stack, and goes on.
    """

    _prefix = "step"
    _variable = running

    def __init__(
        self,
        job: Job | None,
        name: str,
        *,
        message: str | None = None,
        retry_in: Moment | None = None,
    ) -> None:
        super().__init__(None if job is None else job._reporter)
        self.name = name
        self._job = job
        self._message = message
        self._retry_in = retry_in

    @property
    def attempt(self) -> int:
        """Which attempt of this run this is, from 1; 0 before it began."""
        return 0 if self._scope is None else self._scope.attempt or 0

    def track(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        total: int | None = None,
        unit: str | None = None,
        message: str | None = None,
    ) -> Tracked[T]:
        """The same items; each one that is done counts. `total` defaults to `len(items)`, where it has one.

        For `for` and, over an asynchronous source, for `async for`.
        """
        return Tracked(self, items, total=total, unit=unit, message=message)

    @harmless
    def skip(self, reason: str | None = None) -> None:
        """There is nothing to do: it counts as done, and is shown as skipped."""
        self._end("skipped", {} if reason is None else {"reason": text(str(reason))})

    @harmless
    def _begin(self) -> None:
        if self._job is None or self._scope is not None:
            return
        self._scope = self._job._attempt(self.name)
        data = {"worker": self._job.worker}
        if self._message is not None:
            data["message"] = text(str(self._message))
        self._tell("started", data)

    def _left_with(self, error: BaseException) -> None:
        self.fail(error, retry_at=self._retry_in)

    def _again(self, arguments: dict[str, Any]) -> Step:
        from headway.jobs import current_job

        job = self._job or current_job()
        name = self.name.format_map(arguments) if "{" in self.name else self.name
        return Step(job or None, name, message=self._message, retry_in=self._retry_in)


NO_STEP = Step(None, "")
"""What `current_step()` gives where no step runs: it takes every report and sends none."""


def current_step() -> Step:
    """The step that runs here: in this thread, or this task. Where none runs, one that is false and reports nothing."""
    return running.get() or NO_STEP
