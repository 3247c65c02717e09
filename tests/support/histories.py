"""Random histories of a job from a seed: every type, attempts and numbers that are often too late, plans of all shapes.

For tests that compare two ways of folding; strategies that shrink are in tests/property.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

STEP_TYPES = (
    "added started started progressed progressed progressed progressed waiting resumed noted completed failed skipped"
    " cancelled reset removed"
).split()
JOB_TYPES = "planned planned planned started progressed waiting resumed noted noted reopened".split()
ENDS = "completed failed cancelled".split()


def plan(rng: random.Random, names: list[str]) -> list[dict[str, Any]]:
    """The steps of a plan: groups, weights or ranges, in any order."""
    chosen = rng.sample(names, rng.randint(0, min(7, len(names))))
    steps: list[dict[str, Any]] = []
    groups: defaultdict[str | None, list[dict[str, Any]]] = defaultdict(list)
    for index, name in enumerate(chosen):
        step: dict[str, Any] = {"step": name}
        if index and rng.random() < 0.4:
            step["parent"] = rng.choice(chosen[:index])
        steps.append(step)
        groups[step.get("parent")].append(step)
    for members in groups.values():
        if rng.random() < 0.4:
            cuts = sorted(rng.sample(range(101), 2 * len(members)))
            for index, step in enumerate(members):
                step["range"] = cuts[2 * index : 2 * index + 2]
        else:
            for step in members:
                if rng.random() < 0.5:
                    step["weight"] = rng.choice([1, 2, 0.5, 10])
    rng.shuffle(steps)
    return steps


def data_of(rng: random.Random, kind: str, names: list[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    match kind:
        case "job.planned":
            data = {"steps": plan(rng, names), "auto_complete": rng.random() < 0.3}
        case "job.progressed":
            data = {"percent": rng.choice([0, 10, 50, 99.5, 100])}
        case "step.progressed" if rng.random() < 0.5:
            data = {"percent": rng.choice([0, 1, 10, 33.33, 50, 66.6, 100])}
        case "step.progressed":
            data = {"done": rng.randint(0, 12)}
            if rng.random() < 0.8:
                data |= {"total": rng.choice([10, 10, 12]), "unit": "文件"}
        case "job.failed" | "step.failed":
            data = {"error": {"message": "磁盘已满", "type": "OSError", "code": 28, "stack": "line 1\nline 2"}}
            if kind == "step.failed" and rng.random() < 0.5:
                data["retry_at"] = "2026-11-21T12:00:00+02:00"
        case "job.noted" | "step.noted":
            data = {"level": "info", "message": f"note {rng.randint(0, 9)}"}
        case "job.waiting" | "step.waiting":
            data = {"reason": "quota", "until": "2026-11-21T12:00:00Z"}
        case "step.added":
            data = {
                name: value
                for name, value in {
                    "parent": rng.choice(names),
                    "weight": rng.choice([1, 3, 0.25]),
                    "after": rng.choice(names),
                    "label": "标签",
                }.items()
                if rng.random() < 0.4
            }
        case "step.started":
            data = {"worker": "w1"} if rng.random() < 0.5 else {}
        case _:
            data = {"reason": "because"} if rng.random() < 0.3 else {}
    if kind in ("step.progressed", "job.progressed", "step.completed") and rng.random() < 0.3:
        data["message"] = f"message {rng.randint(0, 9)} 消息"
    if kind in ("step.progressed", "job.progressed") and rng.random() < 0.2:
        data["metadata"] = {"b": 1, "a": [1.5, None, {"é": "\u2028"}]}
    return data


def history(seed: int, length: int, steps: int = 8) -> Iterator[dict[str, Any]]:
    """`length` events as the vectors write them (type, step, attempt, seq, at, data), for the seed."""
    rng = random.Random(seed)
    names = [f"s{index}" for index in range(rng.randint(2, steps))]
    for _ in range(length):
        event: dict[str, Any] = {}
        chance = rng.random()
        if chance < 0.12:
            event["type"] = "job." + (rng.choice(ENDS) if chance < 0.01 else rng.choice(JOB_TYPES))
        else:
            event |= {"type": "step." + rng.choice(STEP_TYPES), "step": rng.choice(names)}
            if rng.random() < 0.4:
                event["attempt"] = rng.choice([1, 1, 2, 2, 3, 5])
        if rng.random() < 0.3:
            event["seq"] = rng.randint(0, 60)
        if rng.random() < 0.3:
            event["at"] = 1_790_000_000_000_000 + rng.randint(0, 10**9)
        event["data"] = data_of(rng, event["type"], names)
        yield event
