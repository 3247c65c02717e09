"""What `job.*` events do to a job. Each rule returns None when it applied, else the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from eventstore.inline import FoldEvent
from projections.numbers import later, moment, ppm
from projections.plan import has_room, is_current, read_plan, replace_plan
from projections.state import (
    ABANDONED,
    CANCELLED,
    CAP,
    COMPLETED,
    FAILED,
    JOB_ENDED,
    ONE,
    OPEN,
    PENDING,
    RUNNING,
    WAITING,
    JobState,
    StepState,
    in_plan_order,
    json_text,
)
from projections.tree import end_attempt, move

ALREADY: Final = "already"
IS_OVER: Final = "job_ended"
REGRESSION: Final = "regression"
NOT_ABSOLUTE: Final = "not_absolute"
PLAN_FULL: Final = "plan_full"

Rule = Callable[[JobState, FoldEvent, int], str | None]


def _planned(job: JobState, event: FoldEvent, us: int) -> str | None:
    if job.status in JOB_ENDED:
        return IS_OVER
    data = event.data
    plan = read_plan(data["steps"])
    title, kind = data.get("title") or job.title, data.get("kind") or job.kind
    continues = data.get("continues") or job.continues
    auto = bool(plan.entries) and data.get("auto_complete") is not False
    told = (title, kind, continues, auto, job.planned or bool(plan.entries))
    known = (job.title, job.kind, job.continues, job.auto_complete, job.planned)
    if job.plan_version and told == known and is_current(job, plan):
        return ALREADY
    if not has_room(job, (entry.step for entry in plan.entries)):
        return PLAN_FULL
    replace_plan(job, plan, us)
    job.title, job.kind, job.continues, job.auto_complete = title, kind, continues, auto
    job.plan_version += 1
    return None


def _run(job: JobState, event: FoldEvent, us: int) -> str | None:
    """job.started, job.resumed"""
    del event
    if job.status == RUNNING:
        return ALREADY
    if job.status in JOB_ENDED:
        return IS_OVER
    run(job, us)
    return None


def _progressed(job: JobState, event: FoldEvent, us: int) -> str | None:
    if job.status in JOB_ENDED:
        return IS_OVER
    if job.steps_total:
        return NOT_ABSOLUTE
    data = event.data
    reached = ppm(data["percent"])
    if reached < max(job.absolute or 0, job.percent):
        return REGRESSION
    job.absolute = reached
    job.percent = min(reached, CAP)
    if job.status != RUNNING:
        run(job, us)
    _say(job, data)
    return None


def _waiting(job: JobState, event: FoldEvent, us: int) -> str | None:
    del us
    if job.status == WAITING:
        return ALREADY
    if job.status in JOB_ENDED:
        return IS_OVER
    data = event.data
    job.status = WAITING
    job.reason = data.get("reason")
    until = data.get("until")
    job.until_us = None if until is None else moment(until)
    return None


def _noted(job: JobState, event: FoldEvent, us: int) -> str | None:
    del us
    if job.status in JOB_ENDED:
        return IS_OVER
    _say(job, event.data)
    return None


def _completed(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _end(job, event, COMPLETED, us)


def _failed(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _end(job, event, FAILED, us)


def _cancelled(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _end(job, event, CANCELLED, us)


def _reopened(job: JobState, event: FoldEvent, us: int) -> str | None:
    if job.status == COMPLETED:
        return IS_OVER
    if job.status not in JOB_ENDED:
        return ALREADY
    for step in in_plan_order(job.steps.values()):
        if step.status == ABANDONED and step.group is None:
            renew(job, step, us)
    job.status = RUNNING
    job.reason = event.data.get("reason")
    job.error = job.error_stack = job.ended_us = job.seq = None
    return None


JOB_RULES: Final[dict[str, Rule]] = {
    "job.planned": _planned,
    "job.started": _run,
    "job.progressed": _progressed,
    "job.waiting": _waiting,
    "job.resumed": _run,
    "job.noted": _noted,
    "job.completed": _completed,
    "job.failed": _failed,
    "job.cancelled": _cancelled,
    "job.reopened": _reopened,
}


def run(job: JobState, us: int) -> None:
    """The job runs: for the first time, or again after it waited."""
    job.status = RUNNING
    job.reason = job.until_us = None
    if job.started_us is None:
        job.started_us = us


def end(job: JobState, status: str, us: int) -> None:
    """The job has ended. What is open is abandoned: no spinner outlives its job."""
    for step in in_plan_order(job.steps.values()):
        if step.group is None and step.status in OPEN:
            at = later(us, step.updated_us)
            if step.open:
                end_attempt(job, step, ABANDONED, at)
            step.updated_us = step.ended_us = at
            step.until_us = None
            move(job, step, ABANDONED, step.frac, step.begun, at)
    job.status = status
    job.ended_us = us
    job.until_us = None
    if status == COMPLETED:
        job.percent = ONE


def renew(job: JobState, step: StepState, us: int) -> None:
    """A leaf is pending again. Attempts and the mark are kept, what the last attempt reported is not."""
    step.updated_us = us = later(us, step.updated_us)
    if step.open:
        end_attempt(job, step, ABANDONED, us)
    step.mode = step.done = step.total = step.unit = None
    step.reason = step.error = step.error_stack = step.ended_us = step.until_us = None
    move(job, step, PENDING, 0, False, us)


def error_texts(error: dict[str, Any]) -> tuple[str, str | None]:
    """An error as it is kept: JSON of message, type and code, and the stack apart."""
    kept = {name: error[name] for name in ("message", "type", "code") if error.get(name) is not None}
    return json_text(kept), error.get("stack")


def _end(job: JobState, event: FoldEvent, status: str, us: int) -> str | None:
    if job.status == status:
        return ALREADY
    if job.status in JOB_ENDED:
        return IS_OVER
    data = event.data
    end(job, status, us)
    job.reason = data.get("reason")
    if status == FAILED:
        job.error, job.error_stack = error_texts(data["error"])
        job.text_size += len(job.error) + len(job.error_stack or "")
    _say(job, data)
    return None


def _say(job: JobState, data: dict[str, Any]) -> None:
    message = data.get("message")
    if message is not None:
        job.text_size += len(message) - len(job.message or "")
        job.message = message
    metadata = data.get("metadata")
    if metadata is not None:
        text = json_text(metadata)
        job.text_size += len(text) - len(job.metadata or "")
        job.metadata = text
