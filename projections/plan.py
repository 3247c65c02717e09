"""Plans: reading one, putting it in place of the last one, and adding or removing a single step.

What has been reached stays: each group whose children or weights changed starts a new way from where it is
(`tree.rebase`), and no other group is touched.
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from projections.numbers import later, micro
from projections.state import (
    ABANDONED,
    ONE,
    OPEN,
    PENDING,
    REMOVED,
    RUNNING,
    SKIPPED,
    SLOT,
    STATUSES,
    STEP_LIMIT,
    WAITING,
    GroupState,
    JobState,
    StepState,
    in_plan_order,
)
from projections.tree import (
    count,
    derive,
    end_attempt,
    is_complete,
    lift,
    missing,
    rebase,
    rebase_root,
    rederive,
    refresh,
    show,
    tally,
)

ROOM: Final = 1_024
"""Distance of neighbours' ordinals, so that a step added between two of them moves no other."""
HUNDRED: Final = 100 * ONE


class Entry(NamedTuple):
    """A step as a plan names it. Weight, gap and start in micro; start is None for steps with a weight."""

    step: str
    label: str | None
    parent: str | None
    weight: int
    gap: int
    start: int | None


class Plan(NamedTuple):
    """Entries in plan order, and per group with ranges (None: the job) the gap after its last range."""

    entries: list[Entry]
    tails: dict[str | None, int]


def read_plan(steps: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan that `steps` of a `job.planned` describe; they were checked before."""
    ranges: defaultdict[str | None, list[tuple[int, int, int]]] = defaultdict(list)
    for index, given in enumerate(steps):
        if (pair := given.get("range")) is not None:
            ranges[given.get("parent")].append((micro(pair[0]), micro(pair[1]), index))
    spans: dict[int, tuple[int, int, int]] = {}
    tails: dict[str | None, int] = {}
    for parent, pairs in ranges.items():
        last = 0
        for start, end, index in sorted(pairs):
            spans[index] = (end - start, start - last, start)
            last = end
        tails[parent] = HUNDRED - last
    entries = []
    for index, given in enumerate(steps):
        name, label, parent = given["step"], given.get("label"), given.get("parent")
        if index in spans:
            entries.append(Entry(name, label, parent, *spans[index]))
        else:
            weight = given.get("weight")
            entries.append(Entry(name, label, parent, ONE if weight is None else micro(weight), 0, None))
    return Plan(entries, tails)


def is_current(job: JobState, plan: Plan) -> bool:
    """Whether the job's plan is this one already."""
    current = sorted((step for step in job.steps.values() if step.status != REMOVED), key=attrgetter("ordinal"))
    if [Entry(s.step, s.label, s.parent, s.weight, s.gap, s.start) for s in current] != plan.entries:
        return False
    return all(group.tail == plan.tails.get(parent, 0) for parent, group in _groups(job))


def replace_plan(job: JobState, plan: Plan, us: int) -> None:
    """Put a plan in place of the job's: a step of the same name keeps its state, a missing one is removed."""
    before = _shapes(job)
    first = not job.planned
    named = {entry.step for entry in plan.entries}
    for step in job.steps.values():
        if step.step not in named and step.status != REMOVED:
            _take_out(job, step, us)
    for place, entry in enumerate(plan.entries, 1):
        step = job.steps.get(entry.step) or _make(job, entry.step)
        if step.status == REMOVED:
            _put_back(step)
        step.label, step.parent, step.ordinal = entry.label, entry.parent, place * ROOM
        step.weight, step.gap, step.start = entry.weight, entry.gap, entry.start
        job.touched[step.step] = step
    job.last_ordinal = len(plan.entries) * ROOM
    job.planned = job.planned or bool(plan.entries)
    children: defaultdict[str | None, list[StepState]] = defaultdict(list)
    for entry in plan.entries:
        children[entry.parent].append(job.steps[entry.step])
    after = {parent: (_shape(kids), plan.tails.get(parent, 0)) for parent, kids in children.items()}
    for entry in _deepest_first(plan.entries):
        step = job.steps[entry.step]
        if entry.step in children:
            _regroup(job, step, children[entry.step], after[entry.step], before.get(entry.step), us)
        elif step.group is not None:
            _ungroup(step)
    root = job.root
    rem0 = _sum(root, children[None], plan.tails.get(None, 0))
    if first:
        root.base = root.mark = job.percent
        root.rem0 = root.rem if job.percent else rem0
    elif after.get(None) != before.get(None):
        rebase_root(job)
    _tally_all(job)
    show(job)


def add_step(
    job: JobState,
    name: str,
    us: int,
    *,
    parent: str | None = None,
    label: str | None = None,
    weight: int | None = None,
    after: str | None = None,
) -> StepState:
    """Add a pending leaf to the plan (or put a removed step back). Weight: by default the lower median of its group."""
    holder = None if parent is None else job.steps[parent]
    if weight is None:
        weight = median_weight(job, parent)
    step = job.steps.get(name)
    if step is None:
        step = _make(job, name)
    else:
        _put_back(step)
        step.gap, step.start = 0, None
    step.parent, step.label, step.weight = parent, label, weight
    step.ordinal = _ordinal(job, after)
    job.touched[name] = step
    job.plan_version += 1
    tally(job, PENDING, 1)
    if holder is None:
        if job.weights is not None:
            insort(job.weights, weight)
        count(job.root, -weight * ONE, None, PENDING)
        rebase_root(job)
        return step
    if holder.group is None:
        tally(job, holder.status, -1)
        holder.group = GroupState(base=holder.frac, mark=holder.frac)
        holder.own = _own_of(holder)
    count(holder.group, -weight * ONE, None, PENDING)
    rebase(holder.group)
    rederive(job, holder, us)
    return step


def remove_step(job: JobState, step: StepState, us: int) -> None:
    """Take a step, and what is below it, out of the plan: its weight leaves its group."""
    inside = below(job, step) if step.group is not None else []
    job.plan_version += 1
    due, old = missing(step), step.status
    for gone in (step, *inside):
        if gone.group is None:
            tally(job, gone.status, -1)
        _take_out(job, gone, us)
    if step.parent is None:
        job.weights = None
        count(job.root, due, old, None)
        rebase_root(job)
        show(job)
        return
    holder = job.steps[step.parent]
    assert holder.group is not None
    count(holder.group, due, old, None)
    if any(holder.group.counts):
        rebase(holder.group)
        rederive(job, holder, us)
        return
    # Nothing is left to do in it: a group without children is a leaf that was skipped (or what it had ended as).
    was, frac = holder.status, holder.frac
    holder.group = holder.own = None
    delta = 0
    if was in OPEN:
        us = later(us, holder.updated_us)
        holder.status, holder.frac, holder.mark = SKIPPED, ONE, ONE
        holder.updated_us = holder.ended_us = us
        if holder.open:
            end_attempt(job, holder, SKIPPED, us)
        delta = holder.weight * (ONE - frac) + (0 if holder.begun else holder.gap * ONE)
        holder.begun = True
    tally(job, holder.status, 1)
    job.touched[holder.step] = holder
    lift(job, holder.parent, delta, was, holder.status, holder.begun, us)


def reweigh(job: JobState, step: StepState, weight: int, us: int) -> None:
    """Give a step of the plan another weight."""
    before = missing(step)
    step.weight = weight
    delta = before - missing(step)
    job.plan_version += 1
    if step.parent is None:
        job.weights = None
        count(job.root, delta, step.status, step.status)
        rebase_root(job)
        show(job)
        return
    holder = job.steps[step.parent]
    assert holder.group is not None
    count(holder.group, delta, step.status, step.status)
    rebase(holder.group)
    rederive(job, holder, us)


def median_weight(job: JobState, parent: str | None) -> int:
    """The lower median of the weights in a group, 1 if it is empty. Needs all steps of the job."""
    if parent is not None:
        weights = sorted(s.weight for s in job.steps.values() if s.parent == parent and s.status != REMOVED)
    else:
        if job.weights is None:
            job.weights = sorted(s.weight for s in job.steps.values() if s.parent is None and s.status != REMOVED)
        weights = job.weights
    return weights[(len(weights) - 1) // 2] if weights else ONE


def has_room(job: JobState, names: Iterable[str]) -> bool:
    """Whether the job may name these steps too."""
    return job.steps_named + sum(name not in job.steps for name in names) <= STEP_LIMIT


def depth(job: JobState, name: str | None) -> int:
    """How many steps there are from the top of the plan down to this one, both counted."""
    steps = 0
    while name is not None:
        name = job.steps[name].parent
        steps += 1
    return steps


def begin_plan(job: JobState) -> None:
    """A step was added by name: from now on the job has a plan."""
    if job.planned:
        return
    job.planned = True
    root = job.root
    root.base = root.mark = job.percent
    due = sum(s.weight for s in job.steps.values() if s.parent is None and s.status != REMOVED) * ONE
    root.rem0 = root.rem if job.percent else due
    show(job)


def below(job: JobState, step: StepState) -> list[StepState]:
    """All steps under a group."""
    children: defaultdict[str | None, list[StepState]] = defaultdict(list)
    for each in in_plan_order(job.steps.values()):
        if each.status != REMOVED:
            children[each.parent].append(each)
    found = list(children[step.step])
    for each in found:
        found.extend(children[each.step])
    return found


def _groups(job: JobState) -> list[tuple[str | None, GroupState]]:
    below = [(s.step, s.group) for s in job.steps.values() if s.group is not None]
    return [(None, job.root), *below]


def _shape(kids: Iterable[StepState]) -> dict[str, tuple[int, int]]:
    return {kid.step: (kid.weight, kid.gap) for kid in kids}


def _shapes(job: JobState) -> dict[str | None, tuple[dict[str, tuple[int, int]], int]]:
    """Per group: its children with weight and gap, and its tail. A group whose shape stays is not rebased."""
    children: defaultdict[str | None, list[StepState]] = defaultdict(list)
    for step in job.steps.values():
        if step.status != REMOVED:
            children[step.parent].append(step)
    return {parent: (_shape(children[parent]), group.tail) for parent, group in _groups(job)}


def _make(job: JobState, name: str) -> StepState:
    step = job.steps[name] = StepState(name)
    job.steps_named += 1
    return step


def _take_out(job: JobState, step: StepState, us: int) -> None:
    if step.open:
        end_attempt(job, step, ABANDONED, us)
    step.status, step.group, step.own = REMOVED, None, None
    step.updated_us = step.ended_us = later(us, step.updated_us)
    step.until_us = None
    job.touched[step.step] = step


def _put_back(step: StepState) -> None:
    """A removed step is in the plan again: pending; its attempts and its mark are kept."""
    step.status, step.frac, step.begun = PENDING, 0, False
    step.mode = step.done = step.total = step.unit = step.reason = step.ended_us = None


def _own_of(leaf: StepState) -> str | None:
    """What a leaf that becomes a group had said of itself."""
    if leaf.status == WAITING:
        return WAITING
    return RUNNING if leaf.begun else None


def _deepest_first(entries: Sequence[Entry]) -> list[Entry]:
    parents = {entry.step: entry.parent for entry in entries}
    depths: dict[str, int] = {}
    for entry in entries:
        path = [entry.step]
        while path[-1] not in depths and (parent := parents[path[-1]]) is not None:
            path.append(parent)
        last = path.pop()
        level = depths.setdefault(last, 1)
        while path:
            level += 1
            depths[path.pop()] = level
    return sorted(entries, key=lambda entry: -depths[entry.step])


def _sum(group: GroupState, kids: Sequence[StepState], tail: int) -> int:
    """Set counts, tail and rem from the children; returns what would be missing if nothing was done yet."""
    group.counts = [0] * len(STATUSES)
    group.tail = tail
    for kid in kids:
        group.counts[SLOT[kid.status]] += 1
    group.rem = sum(map(missing, kids)) + (0 if is_complete(group.counts) else tail * ONE)
    return sum(kid.weight + kid.gap for kid in kids) * ONE + tail * ONE


def _regroup(
    job: JobState,
    step: StepState,
    kids: Sequence[StepState],
    shape: tuple[dict[str, tuple[int, int]], int],
    before: tuple[dict[str, tuple[int, int]], int] | None,
    us: int,
) -> None:
    """Bring a step with children up to date with a new plan; its children are."""
    group = step.group
    if group is None:
        group = step.group = GroupState(base=step.frac, mark=step.frac)
        step.own = _own_of(step)
        rem0 = _sum(group, kids, shape[1])
        group.rem0 = group.rem if step.frac else rem0
    else:
        _sum(group, kids, shape[1])
        if shape != before:
            rebase(group)
    refresh(group)
    step.frac = step.mark = group.mark
    step.begun = step.begun or any(kid.begun for kid in kids)
    if step.started_us is None:
        step.started_us = min((kid.started_us for kid in kids if kid.started_us is not None), default=None)
    old, step.status = step.status, derive(group.counts, step.own)
    if step.status in OPEN:
        if old not in OPEN:
            step.own = step.ended_us = step.error = step.error_stack = None
            step.status = derive(group.counts, None)
    elif old in OPEN:
        step.ended_us = later(us, step.updated_us)
        if step.open:
            end_attempt(job, step, step.status, us)


def _ungroup(step: StepState) -> None:
    """A group that the new plan names without children is a leaf: work that its own reports tell of."""
    step.group = step.own = None
    if step.status == PENDING:
        step.frac, step.begun = 0, False
    elif step.status in OPEN:
        step.status = RUNNING
        step.begun = True


def _tally_all(job: JobState) -> None:
    job.steps_total = job.steps_open = job.steps_done = job.steps_failed = 0
    for step in job.steps.values():
        if step.group is None and step.status != REMOVED:
            tally(job, step.status, 1)
    job.weights = None


def _ordinal(job: JobState, after: str | None) -> int:
    """A place behind `after`, else at the end. Without room there, all steps move."""
    before = None if after is None else job.steps.get(after)
    if before is not None and before.status != REMOVED:
        here = before.ordinal
        behind = [step.ordinal for step in job.steps.values() if step.ordinal > here]
        if behind:
            if min(behind) - here > 1:
                return (here + min(behind)) // 2
            _spread(job)
            return before.ordinal + ROOM // 2
    job.last_ordinal += ROOM
    return job.last_ordinal


def _spread(job: JobState) -> None:
    for place, step in enumerate(sorted(job.steps.values(), key=attrgetter("ordinal", "step")), 1):
        step.ordinal = place * ROOM
        job.touched[step.step] = step
    job.last_ordinal = job.steps_named * ROOM
