"""Histories for the property tests: reports as they come from real jobs, and as they come on the worst day.

`reports(rng)` yields events for ever, each one valid (`projections.check` accepts it) and none of them knowing what the
fold made of the last. `tame=True` leaves out what FOLD.md gives no percentage for: a step that moves to another group,
a group that becomes a leaf. Bulk tests draw a seed and use `random.Random`; small ones draw Hypothesis' own random, so
that a failure shrinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from hypothesis import strategies as st

Event = dict[str, Any]

START_US = 1_800_000_000_000_000
TEXTS = ("克隆儲存庫", "第 3 步：推送", "done", "", "\u202eright to left", "🚀" * 40, "two\nlines")
WEIGHTS = (1, 1, 1, 2, 3, 10, 0.5, 0.1, 1.5, 33.3, 1e-6, 0.000003, 1_000_000_000, 1e9)
TOTALS = (1, 2, 3, 7, 10, 100, 999_983, 2**53)
RETRY_AT = "2026-01-31T12:00:00Z"


def reports(rng: Random, *, tame: bool = False) -> Iterator[Event]:
    """Reports about one job, without end."""
    return _Job(rng, tame).reports()


def history(rng: Random, length: int, *, tame: bool = False) -> list[Event]:
    """The first reports about one job."""
    return list(islice(reports(rng, tame=tame), length))


def histories(longest: int = 40, *, tame: bool = False) -> st.SearchStrategy[list[Event]]:
    """Short histories that shrink."""
    return st.builds(
        lambda rng, length: history(rng, length, tame=tame),
        st.randoms(use_true_random=False),
        st.integers(1, longest),
    )


def seeds() -> st.SearchStrategy[int]:
    """Seeds of long histories."""
    return st.integers(0, 2**64 - 1)


def shrink(events: Sequence[Event], fails: Callable[[Sequence[Event]], bool]) -> list[Event]:
    """The events that are needed to fail: takes away halves, quarters … single events for as long as it still fails."""
    left = list(events)
    size = max(len(left) // 2, 1)
    while True:
        at, shorter = 0, False
        while at < len(left):
            trial = left[:at] + left[at + size :]
            if trial and fails(trial):
                left, shorter = trial, True
            else:
                at += size
        if size == 1 and not shorter:
            return left
        size = max(size // 2, 1)


def ranges(rng: Random, names: Sequence[str], *, gaps: bool = True) -> list[Event]:
    """Steps with ranges that do not overlap, in order, with up to four decimals."""
    scale = rng.choice((1, 10, 10_000))
    count = len(names)
    cuts = sorted(rng.sample(range(100 * scale + 1), 2 * count))
    if not gaps or rng.random() < 0.3:
        inner = sorted(rng.sample(range(1, 100 * scale), count - 1))
        cuts = [cut for pair in zip([0, *inner], [*inner, 100 * scale], strict=True) for cut in pair]
    ends = [cut // scale if cut % scale == 0 else cut / scale for cut in cuts]
    return [{"step": name, "range": ends[2 * at : 2 * at + 2]} for at, name in enumerate(names)]


class _Job:
    """Who writes the reports: knows the plan it sent, and about what it said of each step."""

    def __init__(self, rng: Random, tame: bool) -> None:
        self.rng, self.tame = rng, tame
        self.plan: list[Event] = []
        self.said: dict[str, float] = {}
        self.counting: dict[str, int | None] = {}
        self.seq: dict[str | None, int] = {}
        self.attempt: dict[str, int] = {}
        self.named = 0
        self.noise = rng.choice((0.02, 0.1, 0.4))
        self.ends = rng.choice((0.0, 0.0, 0.002, 0.02))
        self.replans = rng.choice((0.0, 0.01, 0.05))

    def reports(self) -> Iterator[Event]:
        rng = self.rng
        beginning = rng.random()
        if beginning < 0.75:
            yield self.planned()
        elif beginning < 0.85:
            for _ in range(rng.randint(1, 6)):
                yield self.about_job("progressed")
        while True:
            event = self.next()
            yield event
            while rng.random() < self.noise / 4:
                yield event

    def next(self) -> Event:
        rng = self.rng
        draw = rng.random()
        if draw < self.ends:
            return self.about_job(rng.choice(("completed", "failed", "failed", "cancelled")))
        if draw < 2 * self.ends:
            return self.about_job("reopened")
        if rng.random() < self.replans:
            return rng.choice((self.planned, self.replanned, self.added, self.added, self.removed))()
        if rng.random() < 0.03:
            return self.about_job(rng.choice(("started", "waiting", "resumed", "noted", "progressed")))
        return self.about_step()

    # ------------------------------------------------------------------------------------------------ plans

    def fresh(self) -> str:
        self.named += 1
        return self.rng.choice(("step", "步驟", "s")) + f" {self.named}"

    def planned(self) -> Event:
        rng = self.rng
        if self.plan and self.tame:
            return self.replanned()
        self.plan = []
        self.siblings(None, 1)
        data: Event = {"steps": self.plan, "auto_complete": rng.random() < 0.3}
        if rng.random() < 0.3:
            data |= {"title": rng.choice(TEXTS), "kind": "build", "continues": "job:0"}
        return self.job("planned", data)

    def siblings(self, parent: str | None, depth: int) -> None:
        rng = self.rng
        known = [name for name in self.said if name not in {entry["step"] for entry in self.plan}]
        names = [
            rng.choice(known) if known and not self.tame and rng.random() < 0.3 else self.fresh()
            for _ in range(rng.randint(1, 6))
        ]
        names = list(dict.fromkeys(names))
        with_ranges = rng.random() < 0.3
        entries = ranges(rng, names) if with_ranges else [{"step": name} for name in names]
        for entry in entries:
            if not with_ranges and rng.random() < 0.7:
                entry["weight"] = rng.choice(WEIGHTS)
            if parent is not None:
                entry["parent"] = parent
            if rng.random() < 0.2:
                entry["label"] = rng.choice(TEXTS)
            self.said.setdefault(entry["step"], 0.0)
        self.plan.extend(entries)
        if with_ranges and rng.random() < 0.3:
            rng.shuffle(self.plan)
        for name in names:
            if rng.random() < 0.25 / depth:
                self.siblings(name, depth + 1)

    def replanned(self) -> Event:
        """The plan again, with some steps gone, some new, some of another weight."""
        rng = self.rng
        parents = {entry.get("parent") for entry in self.plan}
        ranged = {entry.get("parent") for entry in self.plan if "range" in entry}
        kept: list[Event] = []
        for entry in self.plan:
            alone = sum(other.get("parent") == entry.get("parent") for other in self.plan) < 3
            if rng.random() < 0.1 and entry["step"] not in parents and not alone:
                continue
            reweighed = "range" not in entry and rng.random() < 0.2
            kept.append({**entry, "weight": rng.choice(WEIGHTS)} if reweighed else entry)
        for parent in sorted((p for p in parents - ranged if p is not None), key=str):
            if rng.random() < 0.3 and any(entry["step"] == parent for entry in kept):
                kept.append({"step": self.fresh(), "parent": parent})
        if None not in ranged and rng.random() < 0.5:
            kept.append({"step": self.fresh(), "weight": rng.choice(WEIGHTS)})
        self.plan = kept
        for entry in kept:
            self.said.setdefault(entry["step"], 0.0)
        return self.job("planned", {"steps": list(kept), "auto_complete": rng.random() < 0.1})

    def added(self) -> Event:
        rng = self.rng
        known = sorted(self.said)
        name = self.fresh() if not known or rng.random() < 0.8 else rng.choice(known)
        data: Event = {}
        if self.tame or rng.random() < 0.8:
            data["weight"] = rng.choice(WEIGHTS)
        if rng.random() < 0.2:
            data["label"] = rng.choice(TEXTS)
        if known and name not in self.said and rng.random() < 0.4:
            ranged = {entry.get("parent") for entry in self.plan if "range" in entry}
            parents = [entry["step"] for entry in self.plan if entry["step"] not in ranged]
            if parents or not self.tame:
                data["parent"] = rng.choice(parents or known)
            if self.tame and parents:
                self.plan.append({"step": name, "weight": data["weight"], "parent": data["parent"]})
        if known and rng.random() < 0.2:
            data["after"] = rng.choice(known)
        self.said.setdefault(name, 0.0)
        return {"type": "step.added", "step": name, "data": data}

    def removed(self) -> Event:
        return {"type": "step.removed", "step": self.some_step(), "data": {}}

    # ------------------------------------------------------------------------------------------------ reports

    def job(self, verb: str, data: Event) -> Event:
        event: Event = {"type": f"job.{verb}", "data": data}
        if self.rng.random() < self.noise:
            event["seq"] = self.number(None)
        return self.timed(event)

    def about_job(self, verb: str) -> Event:
        rng = self.rng
        data: Event = {}
        match verb:
            case "progressed":
                data["percent"] = self.percent("\0job")
            case "noted":
                data |= {"level": "info", "message": rng.choice(TEXTS)}
            case "failed":
                data["error"] = {"message": rng.choice(TEXTS), "stack": "at 1"}
            case "waiting":
                data |= {"reason": "quota", "until": RETRY_AT}
        return self.job(verb, data)

    def some_step(self) -> str:
        rng = self.rng
        if not self.said or rng.random() < 0.01:
            name = self.fresh()
            self.said[name] = 0.0
            return name
        if self.plan and rng.random() < 0.8:
            chosen: str = rng.choice(self.plan)["step"]
            return chosen
        return rng.choice(list(self.said))

    def about_step(self) -> Event:
        rng = self.rng
        name = self.some_step()
        draw = rng.random()
        attempt = self.attempt.get(name, 0)
        data: Event = {}
        if draw < 0.6:
            verb = "progressed"
            data = self.reached(name)
        elif draw < 0.72:
            verb = "started"
            attempt += rng.random() < 0.3
            data = {"worker": "w-1"} if rng.random() < 0.3 else {}
        else:
            verb = rng.choice(
                "waiting resumed noted completed completed failed failed failed skipped cancelled reset removed".split()
                if rng.random() < 0.5 + self.noise
                else ["completed"]
            )
            if verb == "removed" and rng.random() > self.replans:
                verb = "noted"
        match verb:
            case "noted":
                data = {"level": "warning", "message": rng.choice(TEXTS)}
            case "failed":
                data = {"error": {"message": rng.choice(TEXTS), "type": "OSError", "stack": "at 1\nat 2", "code": 7}}
                if rng.random() < 0.6:
                    data["retry_at"] = RETRY_AT
            case "waiting" | "skipped" | "cancelled" | "reset" | "removed":
                data = {"reason": rng.choice(TEXTS)}
            case "progressed" | "completed" if rng.random() < 0.2:
                data |= {"message": rng.choice(TEXTS), "metadata": {"rate": 0.25, "檔案": [1, None]}, "extra": 1.5}
        event: Event = {"type": f"step.{verb}", "step": name, "data": data}
        if rng.random() < self.noise:
            attempt += rng.choice((-1, 0, 0, 0, 1))
            event["attempt"] = max(attempt, 1)
        elif verb == "started" and attempt > self.attempt.get(name, 0):
            event["attempt"] = attempt
        self.attempt[name] = max(self.attempt.get(name, 0), event.get("attempt", 1))
        if rng.random() < self.noise:
            event["seq"] = self.number(name)
        return self.timed(event)

    def reached(self, name: str) -> Event:
        rng = self.rng
        if name not in self.counting or rng.random() < self.noise / 10:
            self.counting[name] = rng.choice((None, *TOTALS, -1)) if rng.random() < 0.5 else -2
            if self.counting[name] == -1:
                self.counting[name] = 0
        total = self.counting[name]
        if total == -2:
            return {"percent": self.percent(name)}
        percent = self.percent(name)
        if total is None:
            return {"done": int(percent * 10)}
        done = int(total * percent / 100)
        if rng.random() < self.noise / 10:
            done += rng.choice((1, 5, 10**6))
        return {"done": min(done, 2**53), "total": total, **({"unit": "files"} if rng.random() < 0.2 else {})}

    def percent(self, name: str) -> float:
        """Mostly a little more than last time; now and then less, or far off."""
        rng = self.rng
        now = self.said.get(name, 0.0)
        draw = rng.random()
        if draw < self.noise / 2:
            now = rng.uniform(0, 100)
        elif draw < self.noise:
            return rng.choice((0, -0.0, 100, 99.9999, 1e-7, 0.57, 33.33333333))
        else:
            now = min(100.0, now + rng.expovariate(1 / 5))
            if now >= 100 and rng.random() < 0.5:
                now = rng.uniform(0, 20)
        if name != "\0job":
            self.said[name] = now
        return rng.choice((round(now), round(now, 2), round(now, 4), now))

    def number(self, name: str | None) -> int:
        rng = self.rng
        last = self.seq.get(name, -1)
        now = max(0, last + rng.choice((1, 1, 1, 1, 2, 0, -1)))
        self.seq[name] = max(last, now)
        return now

    def timed(self, event: Event) -> Event:
        if self.rng.random() < 0.2:
            event["at"] = START_US + self.rng.randint(-(10**12), 10**12)
        return event
