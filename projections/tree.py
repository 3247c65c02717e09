"""The tree of groups: sums that are kept, statuses that are derived. O(depth) per change, nothing is copied.

A group's fraction is `F = 1 - (1 - base)·rem/rem0` (rem0 = 0 → 1), floor in ppm, then its high-water mark. The job is
the root group: it shows `max(shown, min(F, 99 %))` until it is completed.
"""

from __future__ import annotations

from projections.numbers import later
from projections.state import (
    ABANDONED,
    CANCELLED,
    CAP,
    COMPLETED,
    FAILED,
    ONE,
    OPEN,
    PENDING,
    RETRYING,
    RUNNING,
    SKIPPED,
    SLOT,
    WAITING,
    AttemptState,
    GroupState,
    JobState,
    StepState,
)

AT_WORK = (RUNNING, WAITING)
"""What a group says of itself once it began."""
_SEVERITY = (FAILED, ABANDONED, CANCELLED, COMPLETED, SKIPPED)


def missing(step: StepState) -> int:
    """What the step's group misses because of it, in micro × ppm."""
    due = step.weight * (ONE - step.frac)
    return due if step.begun else due + step.gap * ONE


def is_complete(counts: list[int]) -> bool:
    """Whether a group has children and all of them are completed or skipped."""
    done = counts[SLOT[COMPLETED]] + counts[SLOT[SKIPPED]]
    return done > 0 and done == sum(counts)


def has_open(counts: list[int]) -> bool:
    """Whether a child is pending, running, waiting or retrying."""
    return any(counts[:4])


def derive(counts: list[int], own: str | None) -> str:
    """The status of a group from its children's. `own` is what reports said of the group itself: one more child,
    except that it neither keeps a group open whose children have settled nor settles one with open children.
    """
    if has_open(counts):
        pending, running, waiting, retrying = counts[:4]
        if running:
            return RUNNING
        if waiting or own == WAITING:
            return WAITING
        if retrying:
            return RETRYING
        return RUNNING if own is not None or pending < sum(counts) else PENDING
    for status in _SEVERITY:
        if counts[SLOT[status]] or own == status:
            return status
    return SKIPPED


def refresh(group: GroupState) -> None:
    """Raise the mark to the fraction that the sums give now."""
    rem0 = group.rem0
    fraction = ONE + ((group.base - ONE) * group.rem) // rem0 if rem0 else ONE
    group.mark = max(group.mark, fraction)


def show(job: JobState) -> None:
    """Let the job show what its root group has reached; a job without a plan shows what it did."""
    root = job.root
    if job.planned and job.steps_total:
        refresh(root)
        shown = min(root.mark, CAP)
        job.percent = max(job.percent, shown)


def rebase(group: GroupState) -> None:
    """The plan of the group changed: what it has reached stays, what is missing now is the way to 100 %."""
    group.base = group.mark
    group.rem0 = group.rem


def rebase_root(job: JobState) -> None:
    """As `rebase`, for the job. A first plan counts from what is shown, or as a plain mean if that is nothing."""
    root = job.root
    if job.planned:
        root.base = root.mark = max(root.mark, job.percent)
        root.rem0 = root.rem


def count(group: GroupState, delta: int, old: str | None, new: str | None) -> None:
    """A child contributes `delta` more and went from one status to another (None: not in the plan)."""
    group.rem -= delta
    if old == new:
        return
    counts = group.counts
    was = group.tail > 0 and is_complete(counts)
    if old is not None:
        counts[SLOT[old]] -= 1
    if new is not None:
        counts[SLOT[new]] += 1
    if group.tail and is_complete(counts) is not was:
        group.rem += group.tail * (ONE if was else -ONE)


def lift(job: JobState, parent: str | None, delta: int, old: str, new: str, begun: bool, us: int) -> None:
    """Carry a child's change up to the job, as far as it changes anything."""
    while parent is not None:
        holder = job.steps[parent]
        assert holder.group is not None
        count(holder.group, delta, old, new)
        refresh(holder.group)
        had_begun = holder.begun
        delta, old, new = _take(job, holder, begun, us)
        begun = holder.begun
        parent = holder.parent
        if not delta and old == new and begun == had_begun:
            return
    count(job.root, delta, old, new)
    show(job)


def rederive(job: JobState, holder: StepState, us: int) -> None:
    """Something was said of the group itself, or its plan changed: bring it and what is above up to date."""
    assert holder.group is not None
    refresh(holder.group)
    had_begun = holder.begun
    delta, old, new = _take(job, holder, holder.own in AT_WORK, us)
    if delta or old != new or holder.begun != had_begun:
        lift(job, holder.parent, delta, old, new, holder.begun, us)


def _take(job: JobState, holder: StepState, begun: bool, us: int) -> tuple[int, str, str]:
    """Give a group the fraction and status of its sums; returns its added contribution, old and new status."""
    group = holder.group
    assert group is not None
    delta = holder.weight * (group.mark - holder.frac)
    holder.frac = holder.mark = group.mark
    if begun and not holder.begun:
        holder.begun = True
        delta += holder.gap * ONE
    old, new = holder.status, derive(group.counts, holder.own)
    holder.updated_us = us = later(us, holder.updated_us)
    job.touched[holder.step] = holder
    if holder.begun and holder.started_us is None:
        holder.started_us = us
    if new != old:
        holder.status = new
        if new in OPEN:
            if old not in OPEN:
                holder.own = RUNNING if holder.open else None
                holder.ended_us = holder.error = holder.error_stack = None
                holder.status = new = derive(group.counts, holder.own)
        else:
            holder.ended_us = us
            if holder.open:
                end_attempt(job, holder, new, us)
    return delta, old, new


def move(job: JobState, step: StepState, status: str, frac: int, begun: bool, us: int) -> None:
    """A leaf takes a status and a fraction; its groups and the job follow."""
    delta = step.weight * (frac - step.frac)
    if begun != step.begun:
        delta += step.gap * ONE if begun else -step.gap * ONE
        step.begun = begun
    old = step.status
    step.frac = frac
    step.mark = max(step.mark, frac)
    job.touched[step.step] = step
    if status != old:
        step.status = status
        tally(job, old, -1)
        tally(job, status, 1)
    lift(job, step.parent, delta, old, status, begun, us)


def tally(job: JobState, status: str, by: int) -> None:
    """Count a leaf of this status in or out of the job's numbers."""
    job.steps_total += by
    if status in OPEN:
        job.steps_open += by
    elif status == FAILED:
        job.steps_failed += by
    elif status in (COMPLETED, SKIPPED):
        job.steps_done += by


def begin_attempt(job: JobState, step: StepState, number: int, worker: str | None, us: int) -> None:
    """A new attempt begins; the one before it is over. The mark is held, everything else counts anew."""
    if step.open:
        end_attempt(job, step, ABANDONED, us)
    step.attempt = number
    step.open = True
    step.seq = step.mode = step.done = step.total = step.ended_us = step.error = step.error_stack = None
    step.base = step.done0 = 0
    if step.started_us is None:
        step.started_us = us
    attempt = AttemptState(step.step, number, worker=worker, started_us=us)
    job.attempts.setdefault(step.step, {})[number] = attempt
    job.touched_attempts[step.step, number] = attempt


def end_attempt(job: JobState, step: StepState, status: str, us: int) -> None:
    """The step's open attempt ends. If its row was written and let go before, only what its end adds is right here:
    the write leaves the worker and the start of a row that is there as they are.
    """
    held = job.attempts.setdefault(step.step, {})
    attempt = held.get(step.attempt)
    if attempt is None:
        attempt = held[step.attempt] = AttemptState(step.step, step.attempt, started_us=us)
    attempt.status = status
    attempt.ended_us = us
    attempt.percent = ONE if status in (COMPLETED, SKIPPED) else reached(step)
    if status == FAILED:
        attempt.error, attempt.error_stack = step.error, step.error_stack
    job.touched_attempts[step.step, step.attempt] = attempt
    step.open = False


def reached(step: StepState) -> int:
    """The fraction that the current attempt reached by its own reports, in ppm."""
    if step.group is not None:
        return step.frac
    total = ONE if step.mode == "percent" else step.total
    if total is None or step.done is None:
        return 0
    if total <= step.done0:
        return ONE
    return step.base + (ONE - step.base) * (step.done - step.done0) // (total - step.done0)
