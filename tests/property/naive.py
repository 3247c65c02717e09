"""The percentage, worked out anew from the whole tree after every event: slow, plain, and not the fold's code.

It is told which events applied (the guards have tests of their own) and does nothing but FOLD's section on percentages:
leaf fractions, group sums with exact fractions, re-plans, high-water marks, ranges with their gaps. Knows no status but
what percentages need: whether a leaf began, has an open attempt, or settled with all of it done.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

ONE = 1_000_000
CAP = 990_000
Event = dict[str, Any]


class Step:
    """A step. As a leaf it has `now`, what counts, and `mark`, the highest it was; as a group `base` and `rem0`."""

    def __init__(self, parent: str | None, weight: Fraction, gap: Fraction = Fraction(0), label: Any = None) -> None:
        self.parent, self.weight, self.gap, self.label = parent, weight, gap, label
        self.now = self.mark = self.base0 = 0
        self.begun = self.open = self.all_done = self.settled = self.abandoned = self.there = False
        self.attempt = 0
        self.mode: tuple[str, int | None] | None = None
        self.done0: Fraction | int = 0
        self.group = False
        self.tail = Fraction(0)
        self.base, self.rem0 = 0, Fraction(0)

    def afresh(self) -> None:
        """A new attempt begins: it counts from nothing, the mark stays."""
        self.open, self.settled, self.all_done, self.abandoned = True, False, False, False
        self.mode, self.done0, self.base0 = None, 0, 0


class Naive:
    """One job. `apply` what the fold applied, then read `shown` and `fraction(step)`."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.root = Step(None, Fraction(1))
        self.root.group = True
        self.planned = False
        self.shown = 0

    def fraction(self, name: str) -> int:
        return self.steps[name].now

    # ------------------------------------------------------------------------------------------------ events

    def apply(self, event: Event) -> None:
        kind, data = event["type"], event["data"]
        if kind.startswith("job."):
            self.job(kind.removeprefix("job."), data)
        else:
            self.step(kind.removeprefix("step."), event["step"], event.get("attempt"), data)
        self.recount()

    def job(self, verb: str, data: Event) -> None:
        if verb == "planned":
            self.plan(data["steps"])
        elif verb == "progressed":
            self.shown = max(self.shown, min(floor(Fraction(repr(data["percent"])) * 10_000), CAP))
        elif verb in ("completed", "failed", "cancelled"):
            for leaf in self.leaves(None):
                if not leaf.settled:
                    leaf.open, leaf.settled, leaf.abandoned = False, True, True
            if verb == "completed":
                self.shown = ONE
        elif verb == "reopened":
            for leaf in self.leaves(None):
                if leaf.abandoned:
                    self.pending(leaf)

    def step(self, verb: str, name: str, attempt: int | None, data: Event) -> None:
        if verb == "added":
            self.add(name, data)
            return
        if name not in self.steps or (not self.steps[name].there and verb != "removed"):
            self.discover(name)
        step = self.steps[name]
        if step.group:
            self.on_group(verb, name, step)
            return
        works = verb in ("started", "progressed", "waiting", "resumed", "completed", "failed")
        gives_up = verb == "failed" and attempt == step.attempt and attempt is not None
        if works and not gives_up and (not step.open or (attempt or 0) > step.attempt):
            step.attempt = attempt or step.attempt + 1
            step.afresh()
        match verb:
            case "started" | "waiting" | "resumed":
                step.now, step.begun = step.mark, True
            case "progressed":
                self.reached(step, data)
            case "completed" | "skipped":
                step.open, step.settled, step.all_done, step.begun = False, True, True, True
                step.now = step.mark = ONE
            case "failed":
                step.open, step.begun, step.now = False, True, step.mark
                step.settled = data.get("retry_at") is None
            case "cancelled":
                step.open, step.settled = False, True
            case "reset":
                self.pending(step)
            case "removed":
                self.remove(name)

    def reached(self, step: Step, data: Event) -> None:
        if "percent" in data:
            mode: tuple[str, int | None] = ("percent", ONE)
            done, total = floor(Fraction(repr(data["percent"])) * 10_000), ONE
        else:
            done, total = data["done"], data.get("total")
            mode = ("count", total)
            if total is not None:
                done = min(done, total)
        if step.mode is not None and step.mode != mode:
            step.base0, step.done0 = step.now, done
        step.mode = mode
        value = 0
        if total is not None:
            done0, base = step.done0, step.base0
            value = ONE if total <= done0 else floor(base + Fraction((ONE - base) * (done - done0), total - done0))
        step.now = step.mark = max(step.mark, value)
        step.begun = True

    def on_group(self, verb: str, name: str, group: Step) -> None:
        if verb in ("started", "waiting", "resumed"):
            group.begun = True
        elif verb == "removed":
            self.remove(name)
        else:
            for leaf in self.leaves(name):
                if verb == "reset":
                    self.pending(leaf)
                elif not leaf.settled and verb in ("completed", "skipped"):
                    leaf.open, leaf.settled, leaf.all_done, leaf.begun = False, True, True, True
                    leaf.now = leaf.mark = ONE
                elif not leaf.settled and verb in ("failed", "cancelled"):
                    leaf.open, leaf.settled, leaf.abandoned = False, True, verb == "failed"

    def pending(self, leaf: Step) -> None:
        leaf.now, leaf.mode, leaf.done0, leaf.base0 = 0, None, 0, 0
        leaf.begun = leaf.open = leaf.settled = leaf.all_done = leaf.abandoned = False

    # ------------------------------------------------------------------------------------------------ plans

    def plan(self, entries: list[Event]) -> None:
        before = self.shapes()
        first = not self.planned
        self.planned = self.planned or bool(entries)
        named = {entry["step"] for entry in entries}
        for name, step in self.steps.items():
            if name not in named:
                step.there = False
        gaps, tails = read_ranges(entries)
        for entry in entries:
            name = entry["step"]
            step = self.steps.setdefault(name, Step(None, Fraction(1)))
            if not step.there:
                self.pending(step)
            step.there = True
            step.parent = entry.get("parent")
            pair = entry.get("range")
            step.weight = Fraction(repr(entry.get("weight") or 1)) if pair is None else width(pair)
            step.gap = gaps.get(name, Fraction(0))
        parents = {step.parent for step in self.steps.values() if step.there}
        for name in sorted((n for n, s in self.steps.items() if s.there), key=self.depth, reverse=True):
            step = self.steps[name]
            if name in parents and not step.group:
                step.group, step.base, step.mark = True, step.now, step.now
                step.tail = tails.get(name, Fraction(0))
                step.rem0 = self.rem(name) if step.now else self.whole(name)
                before.pop(name, None)
                self.settle_marks(name)
            elif step.group:
                step.tail = tails.get(name, Fraction(0))
        self.root.tail = tails.get(None, Fraction(0))
        self.rebase_changed(before, skip_root=first)
        if first:
            self.root.base = self.root.mark = self.shown
            self.root.rem0 = self.rem(None) if self.shown else self.whole(None)

    def add(self, name: str, data: Event) -> None:
        known = self.steps.get(name)
        before = self.shapes()
        weight = data.get("weight")
        if known is not None and known.there:
            if weight is not None:
                known.weight = Fraction(repr(weight))
                known.gap = known.gap
            self.rebase_changed(before)
            return
        parent = data.get("parent")
        if parent is not None and not (parent in self.steps and self.steps[parent].there):
            self.put(parent, None, self.steps[parent].weight if parent in self.steps else self.median())
        self.put(name, parent, self.median() if weight is None else Fraction(repr(weight)))
        if parent is not None and not self.steps[parent].group:
            self.make_group(parent, before)
        was, self.planned = self.planned, True
        self.rebase_changed(before, skip_root=not was)
        if not was:
            self.root.base = self.root.mark = self.shown
            self.root.rem0 = self.rem(None) if self.shown else self.whole(None)

    def discover(self, name: str) -> None:
        before = self.shapes()
        known = self.steps.get(name)
        if known is None:
            self.put(name, None, self.median())
        else:
            parent = known.parent if known.parent is not None and self.steps[known.parent].there else None
            self.put(name, parent, known.weight)
            if parent is not None and not self.steps[parent].group:
                self.make_group(parent, before)
        if self.planned:
            self.rebase_changed(before)

    def make_group(self, name: str, before: dict[str | None, Any]) -> None:
        holder = self.steps[name]
        holder.group, holder.base, holder.mark, holder.tail = True, holder.now, holder.now, Fraction(0)
        before[name] = None

    def put(self, name: str, parent: str | None, weight: Fraction) -> None:
        step = self.steps.setdefault(name, Step(parent, weight))
        if not step.there:
            self.pending(step)
        step.parent, step.weight, step.gap, step.there, step.group = parent, weight, Fraction(0), True, False

    def remove(self, name: str) -> None:
        before = self.shapes()
        gone = [name]
        parent = self.steps[name].parent
        over = parent is not None and all(leaf.settled for leaf in self.leaves(parent))
        done = parent is not None and self.complete(parent)
        for each in gone:
            self.steps[each].there = self.steps[each].group = self.steps[each].open = False
            gone.extend(n for n, s in self.steps.items() if s.there and s.parent == each)
        if parent is not None and not self.names(parent):
            holder = self.steps[parent]
            holder.group, holder.settled, holder.open = False, True, False
            if not over:
                holder.now = holder.mark = ONE
                holder.begun, holder.abandoned = True, False
            holder.all_done = done or not over
        self.rebase_changed(before)

    def median(self) -> Fraction:
        weights = sorted(s.weight for s in self.steps.values() if s.there and s.parent is None)
        return weights[(len(weights) - 1) // 2] if weights else Fraction(1)

    # ------------------------------------------------------------------------------------------------ sums

    def children(self, name: str | None) -> list[Step]:
        return [step for step in self.steps.values() if step.there and step.parent == name]

    def names(self, parent: str | None) -> list[str]:
        return [name for name, step in self.steps.items() if step.there and step.parent == parent]

    def leaves(self, name: str | None) -> list[Step]:
        found = []
        for child in self.names(name):
            found.extend(self.leaves(child) if self.steps[child].group else [self.steps[child]])
        return found

    def complete(self, name: str) -> bool:
        step = self.steps[name]
        if step.group:
            return all(self.complete(child) for child in self.names(name))
        return step.all_done

    def group(self, name: str | None) -> Step:
        return self.root if name is None else self.steps[name]

    def rem(self, name: str | None) -> Fraction:
        total = Fraction(0)
        for child in self.children(name):
            total += child.weight * (ONE - child.now) + (0 if child.begun else child.gap * ONE)
        names = self.names(name)
        if not (names and all(self.complete(child) for child in names)):
            total += self.group(name).tail * ONE
        return total

    def whole(self, name: str | None) -> Fraction:
        return (sum((c.weight + c.gap for c in self.children(name)), Fraction(0)) + self.group(name).tail) * ONE

    def shapes(self) -> dict[str | None, Any]:
        groups = [None, *(name for name, step in self.steps.items() if step.there and step.group)]
        return {name: self.shape(name) for name in groups}

    def shape(self, name: str | None) -> Any:
        kids = {child: (self.steps[child].weight, self.steps[child].gap) for child in self.names(name)}
        return kids, self.group(name).tail

    def rebase_changed(self, before: dict[str | None, Any], skip_root: bool = False) -> None:
        """Deepest first: a group whose children or weights changed goes on from its mark with what is missing now."""
        groups = [None, *(name for name, step in self.steps.items() if step.there and step.group)]
        for name in sorted(groups, key=self.depth, reverse=True):
            if name is None and (skip_root or not self.planned):
                continue
            group = self.group(name)
            if name in before and before[name] != self.shape(name):
                if name is None:
                    group.mark = max(group.mark, self.shown)
                group.base, group.rem0 = group.mark, self.rem(name)
            if self.names(name):
                self.settle_marks(name)

    def depth(self, name: str | None) -> int:
        depth = 0
        while name is not None:
            name, depth = self.steps[name].parent, depth + 1
        return depth

    def settle_marks(self, name: str | None) -> None:
        group = self.group(name)
        value = ONE if group.rem0 == 0 else floor(ONE - Fraction(ONE - group.base) * self.rem(name) / group.rem0)
        group.mark = max(group.mark, value)
        if name is not None:
            group.now = group.mark
            group.begun = group.begun or any(child.begun for child in self.children(name))

    def recount(self) -> None:
        groups = [name for name, step in self.steps.items() if step.there and step.group]
        for name in sorted(groups, key=self.depth, reverse=True):
            self.settle_marks(name)
        if self.planned and self.children(None):
            self.settle_marks(None)
            if self.shown < ONE:
                self.shown = max(self.shown, min(self.root.mark, CAP))


def width(pair: list[float]) -> Fraction:
    return Fraction(repr(pair[1])) - Fraction(repr(pair[0]))


def read_ranges(entries: list[Event]) -> tuple[dict[str, Fraction], dict[str | None, Fraction]]:
    """The gap before each step with a range, and per group the gap after its last."""
    gaps: dict[str, Fraction] = {}
    ends: dict[str | None, Fraction] = {}
    for entry in sorted((e for e in entries if "range" in e), key=lambda e: e["range"][0]):
        parent, (start, end) = entry.get("parent"), entry["range"]
        gaps[entry["step"]] = Fraction(repr(start)) - ends.get(parent, Fraction(0))
        ends[parent] = Fraction(repr(end))
    return gaps, {parent: 100 - end for parent, end in ends.items()}
