"""A job while it runs."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final

from headway.errors import Misuse
from headway.loops import Attempts
from headway.payload import text
from headway.plan import StepDef, plan_data
from headway.report import Run, Scope
from headway.reporter import Reporter
from headway.steps import Step
from headway.work import Moment, Work, harmless

MAX_STEP: Final = 200  # characters
_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]+")

running: ContextVar[Job | None] = ContextVar("headway_job", default=None)


class Job(Work):
    """One run of some work; made by `headway.job`.

    The end of the `with` block completes the job; an exception fails it and goes on; KeyboardInterrupt, a cancelled
    task and exit with status 0 cancel it. A job that had failed or was cancelled is opened again when it is started
    again under its id; one that completed stays so: start a new id with `continues`.
    """

    _prefix = "job"
    _variable = running

    def __init__(
        self,
        reporter: Reporter | None,
        job_id: str,
        *,
        title: str | None = None,
        kind: str | None = None,
        plan: Iterable[StepDef | str] | None = None,
        continues: str | None = None,
        worker: str | None = None,
    ) -> None:
        super().__init__(reporter)
        self.job_id = job_id
        self.worker = text(worker) if worker else f"{socket.gethostname()}:{os.getpid()}"
        self._title, self._kind, self._continues = title, kind, continues
        self._plan = None if plan is None else list(plan)
        self._attempts: dict[str, int] = {}

    def step(self, name: str, *, message: str | None = None, retry_in: Moment | None = None) -> Step:
        """A step of this job, for `with`; the next one of the same name is a new attempt.

        A step that the plan does not name is added to it. `retry_in` (seconds, a timedelta or a datetime): if it fails
        it will be tried again then.
        """
        return Step(self, name, message=message, retry_in=retry_in)

    def attempts(self, name: str, tries: int = 3, *, wait: float = 1.0) -> Attempts:
        """Try a step up to so many times, with a pause of `wait` seconds:

            for attempt in job.attempts("deploy", 3):
                with attempt as step:
                    deploy()

        `async for` pauses without blocking.
        """
        return Attempts(self, name, tries, wait)

    @harmless
    def plan(self, steps: Iterable[StepDef | str]) -> None:
        """Give the job its plan, or another one: what a step has reached stays, the bar doesn't jump back."""
        self._tell("planned", self._planned(list(steps)))

    @harmless
    def add_step(
        self,
        name: str,
        *,
        label: str | None = None,
        weight: float | None = None,
        parent: str | None = None,
        after: str | None = None,
    ) -> None:
        """Add a step to the plan, behind the step `after` or at the end."""
        data = {"label": label, "weight": weight, "parent": parent, "after": after}
        self._about(name, "step.added", {key: value for key, value in data.items() if value is not None})

    @harmless
    def skip(self, name: str, reason: str | None = None) -> None:
        """A step that needs no doing: it counts as done, and is shown as skipped."""
        self._about(name, "step.skipped", {} if reason is None else {"reason": text(str(reason))})

    # -- inside -----------------------------------------------------------------------------------------------------

    @harmless
    def _begin(self) -> None:
        if self._scope is not None:
            return
        if not isinstance(self.job_id, str) or _JOB_ID.fullmatch(self.job_id) is None:
            rule = "1 to 200 of A-Z a-z 0-9 . _ : @ -, beginning with a letter or digit"
            raise Misuse(f"job_id: {rule}; given {str(self.job_id)[:80]!r}; nothing of this job is reported")
        self._scope = Scope(Run(self.job_id, self.worker))
        if self._plan is not None or self._title or self._kind or self._continues:
            self._tell("planned", self._planned(self._plan or []))
        self._tell("started", {"worker": self.worker})

    def _planned(self, steps: list[StepDef | str]) -> dict[str, Any]:
        data: dict[str, Any] = {"steps": plan_data(steps), "auto_complete": False}
        for name, value in (("title", self._title), ("kind", self._kind), ("continues", self._continues)):
            if value:
                data[name] = text(str(value))
        return data

    def _about(self, name: str, kind: str, data: dict[str, Any]) -> None:
        if self._reporter is not None and self._scope is not None and not self._ended:
            self._reporter.report(Scope(self._scope.run, self._name(name)), kind, data)

    def _attempt(self, name: str) -> Scope | None:
        if self._scope is None or self._ended:
            return None
        known = self._name(name)
        number = self._attempts[known] = self._attempts.get(known, 0) + 1
        return Scope(self._scope.run, known, number)

    def _name(self, name: str) -> str:
        """The step's name as the log accepts it."""
        known = _CONTROL.sub(" ", text(str(name))).strip()[:MAX_STEP].strip() or "step"
        if known != name and self._reporter is not None:
            rule = f"1 to {MAX_STEP} characters without control characters, no blank at either end"
            if self._reporter.strict:
                raise Misuse(f"name of a step: {rule}; given {str(name)[:80]!r}")
            self._reporter.warn_once("step name", "name of a step: %s; %r is reported as %r", rule, name, known)
        return known

    def _again(self, arguments: dict[str, Any]) -> Job:
        import headway

        return headway.job(
            self.job_id.format_map(arguments),
            title=self._title and self._title.format_map(arguments),
            kind=self._kind,
            plan=self._plan,
            continues=self._continues,
        )


NO_JOB = Job(None, "none")
"""What `current_job()` gives where no job runs."""


def current_job() -> Job:
    """The job that runs here: in this thread, or this task. Where none runs, one that is false and reports nothing."""
    return running.get() or NO_JOB
