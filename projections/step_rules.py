"""What `step.*` events do to a step. Each rule returns None when it applied, else the reason why not.

`us` is the event's time, not before the step's last. Nothing is changed before a rule is sure to apply, except that a
step which the plan does not name is added first: an event that finds a new pending step always applies.
"""

from __future__ import annotations

from typing import Any, Final

from eventstore.inline import FoldEvent
from projections.job_rules import ALREADY, IS_OVER, NOT_ABSOLUTE, PLAN_FULL, REGRESSION, Rule, error_texts, renew
from projections.numbers import later, micro, moment, ppm
from projections.plan import add_step, begin_plan, below, depth, has_room, remove_step, reweigh
from projections.state import (
    ABANDONED,
    CANCELLED,
    COMPLETED,
    DEPTH_LIMIT,
    FAILED,
    JOB_ENDED,
    ONE,
    OPEN,
    PENDING,
    REMOVED,
    RETRYING,
    RUNNING,
    SKIPPED,
    STEP_ENDED,
    WAITING,
    JobState,
    StepState,
    json_text,
)
from projections.tree import begin_attempt, end_attempt, move, rederive

ENDED: Final = "step_ended"
STALE: Final = "stale_attempt"
OUT_OF_ORDER: Final = "out_of_order"
PERCENT: Final = "percent"
COUNT: Final = "count"


def _started(job: JobState, event: FoldEvent, us: int) -> str | None:
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    data = event.data
    status, number = step.status, event.attempt
    if step.group is not None:
        if status in (COMPLETED, SKIPPED):
            return REGRESSION
        return _said(job, step, event, RUNNING, us)
    if number is not None and number <= step.attempt:
        if step.open:
            return ALREADY
        return ENDED if status in STEP_ENDED else STALE
    if number is None:
        if status == RUNNING:
            return ALREADY
        if status in (COMPLETED, SKIPPED):
            return REGRESSION
        if status == FAILED:
            if job.status in JOB_ENDED:
                return IS_OVER
            number = step.attempt + 1
            begin_attempt(job, step, number, data.get("worker"), us)
    if not step.open or (number is not None and number > step.attempt):
        refused = _begin(job, step, event, us)
        if refused is not None:
            return refused
    step.reason = step.until_us = None
    move(job, step, RUNNING, step.mark, True, us)
    _say(job, step, data)
    return None


def _progressed(job: JobState, event: FoldEvent, us: int) -> str | None:
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.group is not None:
        return NOT_ABSOLUTE
    data = event.data
    whole: int | None
    total: int | None = None
    percent = data.get("percent")
    if percent is not None:
        mode, done, whole = PERCENT, ppm(percent), ONE
    else:
        mode, done = COUNT, data["done"]
        whole = total = data.get("total")
        if total is not None:
            done = min(done, total)
    number = event.attempt
    if step.open and (number is None or number == step.attempt):
        if step.done is None:
            pass
        elif step.mode != mode or step.total != total:
            step.base, step.done0 = step.frac, done
        elif done < step.done:
            return REGRESSION
    else:
        refused = _begin(job, step, event, us)
        if refused is not None:
            return refused
    step.mode, step.done, step.total = mode, done, total
    frac = step.mark
    if whole is not None:
        done0 = step.done0
        base = step.base
        value = ONE if whole <= done0 else base + (ONE - base) * (done - done0) // (whole - done0)
        frac = max(frac, value)
    step.reason = step.until_us = None
    move(job, step, RUNNING, frac, True, us)
    unit = data.get("unit")
    if unit is not None:
        step.unit = unit
    _say(job, step, data)
    return None


def _waiting(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _turn(job, event, WAITING, us)


def _resumed(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _turn(job, event, RUNNING, us)


def _noted(job: JobState, event: FoldEvent, us: int) -> str | None:
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.status in STEP_ENDED:
        return ENDED
    _say(job, step, event.data)
    job.touched[step.step] = step
    return None


def _completed(job: JobState, event: FoldEvent, us: int) -> str | None:
    step = _settling(job, event, COMPLETED, us)
    if isinstance(step, str):
        return step
    if step.group is not None:
        _settle_group(job, step, event, COMPLETED, us)
        return None
    if not _is_in(step, event):
        refused = _begin(job, step, event, us)
        if refused is not None:
            return refused
    _settle(job, step, COMPLETED, ONE, True, us)
    _say(job, step, event.data)
    return None


def _failed(job: JobState, event: FoldEvent, us: int) -> str | None:
    data = event.data
    retry_at = data.get("retry_at")
    status = FAILED if retry_at is None else RETRYING
    step = _settling(job, event, status, us)
    if isinstance(step, str):
        return step
    if step.group is not None:
        _settle_group(job, step, event, FAILED, us)
        return None
    gives_up = step.status == RETRYING and event.attempt == step.attempt
    if not gives_up and not _is_in(step, event):
        refused = _begin(job, step, event, us)
        if refused is not None:
            return refused
    _blame(job, step, data)
    _settle(job, step, status, step.mark, True, us)
    if retry_at is not None:
        step.ended_us = None
        step.until_us = moment(retry_at)
    _say(job, step, data)
    return None


def _skipped(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _drop(job, event, SKIPPED, us)


def _cancelled(job: JobState, event: FoldEvent, us: int) -> str | None:
    return _drop(job, event, CANCELLED, us)


def _reset(job: JobState, event: FoldEvent, us: int) -> str | None:
    if event.step not in job.steps:
        return IS_OVER if job.status in JOB_ENDED else ALREADY
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.status == PENDING:
        return ALREADY
    if step.status == REMOVED:
        return ENDED
    if job.status in JOB_ENDED:
        return IS_OVER
    if step.group is None:
        renew(job, step, us)
    else:
        if step.open:
            end_attempt(job, step, ABANDONED, us)
        step.own = None
        for leaf in below(job, step):
            if leaf.group is not None:
                leaf.own = None
            elif leaf.status != PENDING:
                renew(job, leaf, us)
        rederive(job, step, us)
    step.reason = event.data.get("reason")
    return None


def _removed(job: JobState, event: FoldEvent, us: int) -> str | None:
    if event.step not in job.steps:
        return IS_OVER if job.status in JOB_ENDED else ALREADY
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.status == REMOVED:
        return ALREADY
    if job.status in JOB_ENDED:
        return IS_OVER
    remove_step(job, step, us)
    step.reason = event.data.get("reason")
    return None


def _added(job: JobState, event: FoldEvent, us: int) -> str | None:
    name, data = event.step, event.data
    assert name is not None
    label, weight = data.get("label"), data.get("weight")
    weight = None if weight is None else micro(weight)
    known = job.steps.get(name)
    if known is not None and known.status != REMOVED:
        step = _meet(job, event, us)
        if isinstance(step, str):
            return step
        if label in (None, step.label) and weight in (None, step.weight):
            return ALREADY
        if step.status in STEP_ENDED:
            return ENDED
        job.touched[name] = step
        step.label = step.label if label is None else label
        if weight in (None, step.weight):
            job.plan_version += 1
        else:
            reweigh(job, step, weight, us)
        return None
    if job.status in JOB_ENDED:
        return IS_OVER
    parent = data.get("parent")
    if parent == name:
        parent = None
    if not has_room(job, (name,) if parent is None else (name, parent)):
        return PLAN_FULL
    if parent is not None:
        holder = job.steps.get(parent)
        if holder is None or holder.status == REMOVED:
            add_step(job, parent, us, weight=None if holder is None else holder.weight)
        elif depth(job, parent) > DEPTH_LIMIT:
            return PLAN_FULL
    add_step(job, name, us, parent=parent, label=label, weight=weight, after=data.get("after"))
    begin_plan(job)
    return None


STEP_RULES: Final[dict[str, Rule]] = {
    "step.added": _added,
    "step.started": _started,
    "step.progressed": _progressed,
    "step.waiting": _waiting,
    "step.resumed": _resumed,
    "step.noted": _noted,
    "step.completed": _completed,
    "step.failed": _failed,
    "step.skipped": _skipped,
    "step.cancelled": _cancelled,
    "step.reset": _reset,
    "step.removed": _removed,
}
WORK: Final = frozenset("step." + verb for verb in "started progressed waiting resumed completed failed".split())
"""Events that make their step the job's current one."""


def _meet(job: JobState, event: FoldEvent, us: int) -> StepState | str:
    """The event's step, unless the event comes from an attempt that is over, or too late within its attempt."""
    name = event.step
    assert name is not None
    step = job.steps.get(name)
    if step is None:
        if job.status in JOB_ENDED:
            return IS_OVER
        if not has_room(job, (name,)):
            return PLAN_FULL
        return add_step(job, name, us)
    number = event.attempt
    if number is not None:
        if number < step.attempt:
            return STALE
        if number > step.attempt:
            return step
    seq = event.seq
    if seq is not None and step.seq is not None and seq <= step.seq:
        begins = number is None and not step.open and event.type == "step.started"
        if not begins:
            return OUT_OF_ORDER
    return step


def _is_in(step: StepState, event: FoldEvent) -> bool:
    """Whether the event speaks from within the step's open attempt."""
    return step.open and (event.attempt is None or event.attempt == step.attempt)


def _begin(job: JobState, step: StepState, event: FoldEvent, us: int) -> str | None:
    """Begin the attempt that the event speaks from; the reason, if there can be none."""
    number = event.attempt
    if number is None:
        if step.status in STEP_ENDED:
            return ENDED
        number = step.attempt + 1
    elif number <= step.attempt:
        return ENDED if step.status in STEP_ENDED else STALE
    if job.status in JOB_ENDED:
        return IS_OVER
    if step.status == REMOVED:
        _restore(job, step, us)
    begin_attempt(job, step, number, event.data.get("worker"), us)
    return None


def _restore(job: JobState, step: StepState, us: int) -> None:
    """A removed step is worked on again: it is in the plan again, with its weight."""
    parent = step.parent if step.parent is not None and job.steps[step.parent].status != REMOVED else None
    add_step(job, step.step, us, parent=parent, label=step.label, weight=step.weight)


def _turn(job: JobState, event: FoldEvent, status: str, us: int) -> str | None:
    """step.waiting, step.resumed"""
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.group is not None:
        return _said(job, step, event, status, us)
    if step.status == status and (event.attempt is None or event.attempt == step.attempt):
        return ALREADY
    if not _is_in(step, event):
        refused = _begin(job, step, event, us)
        if refused is not None:
            return refused
    data = event.data
    move(job, step, status, step.mark, True, us)
    step.reason = data.get("reason")
    until = data.get("until")
    step.until_us = None if until is None else moment(until)
    return None


def _said(job: JobState, step: StepState, event: FoldEvent, status: str, us: int) -> str | None:
    """A group is said to run or to wait."""
    if step.status in STEP_ENDED:
        return ENDED
    number = event.attempt
    new = number is not None and number > step.attempt
    begins = event.type == "step.started" and (new or not step.open)
    if not new:
        if number is not None and not step.open:
            return STALE
        if step.status == status or (number is not None and event.type == "step.started"):
            return ALREADY
    data = event.data
    if begins:
        begin_attempt(job, step, number or step.attempt + 1, data.get("worker"), us)
    step.own = status
    step.reason = data.get("reason")
    until = data.get("until")
    step.until_us = None if until is None else moment(until)
    rederive(job, step, us)
    _say(job, step, data)
    return None


def _settling(job: JobState, event: FoldEvent, status: str, us: int) -> StepState | str:
    """The step that the event ends, unless it has ended."""
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.group is None and event.attempt is not None and event.attempt > step.attempt:
        return step
    if step.status == status:
        return ALREADY
    return ENDED if step.status in STEP_ENDED else step


def _settle(job: JobState, step: StepState, status: str, frac: int, begun: bool, us: int) -> None:
    if step.open:
        end_attempt(job, step, FAILED if status == RETRYING else status, us)
    step.reason = step.until_us = None
    step.ended_us = us
    move(job, step, status, frac, begun, us)


def _drop(job: JobState, event: FoldEvent, status: str, us: int) -> str | None:
    """step.skipped, step.cancelled"""
    step = _meet(job, event, us)
    if isinstance(step, str):
        return step
    if step.status == status:
        return ALREADY
    if step.status in STEP_ENDED:
        return ENDED
    if step.group is not None:
        _settle_group(job, step, event, status, us)
    elif status == SKIPPED:
        _settle(job, step, status, ONE, True, us)
    else:
        _settle(job, step, status, step.frac, step.begun, us)
    step.reason = event.data.get("reason")
    _reach(step, event)
    return None


def _reach(step: StepState, event: FoldEvent) -> None:
    """The event tells the end of an attempt whose begin was never told: what comes late of it is late."""
    if event.attempt is not None and event.attempt > step.attempt:
        step.attempt = event.attempt
        step.seq = None


def _settle_group(job: JobState, group: StepState, event: FoldEvent, status: str, us: int) -> None:
    """What is open below a group settles with it: skipped if it completed, abandoned if it failed."""
    data = event.data
    group.own = status
    if status == FAILED:
        _blame(job, group, data)
    for leaf in below(job, group):
        if leaf.group is None and leaf.status in OPEN:
            leaf.updated_us = at = later(us, leaf.updated_us)
            if status in (COMPLETED, SKIPPED):
                _settle(job, leaf, SKIPPED, ONE, True, at)
            else:
                _settle(job, leaf, ABANDONED if status == FAILED else CANCELLED, leaf.frac, leaf.begun, at)
    group.until_us = None
    _reach(group, event)
    _say(job, group, data)


def _blame(job: JobState, step: StepState, data: dict[str, Any]) -> None:
    error, stack = error_texts(data["error"])
    job.text_size += len(error) + len(stack or "") - len(step.error or "") - len(step.error_stack or "")
    step.error, step.error_stack = error, stack


def _say(job: JobState, step: StepState, data: dict[str, Any]) -> None:
    message = data.get("message")
    if message is not None:
        job.text_size += len(message) - len(step.message or "")
        step.message = message
    metadata = data.get("metadata")
    if metadata is not None:
        text = json_text(metadata)
        job.text_size += len(text) - len(step.metadata or "")
        step.metadata = text
