"""Every guard of the fold is held by a vector: bend one, and the conformance suite goes red.

A mutant that lives has no vector. Add one; or, if it decides nothing that a vector could see, list it below with the
reason.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

import pytest

from tests.support.given import VECTORS, given, run, said, vectors
from tests.support.mutate import Lab
from tests.unit.test_fold_limits import (
    a_job_takes_as_many_steps_as_the_limit_and_no_more,
    groups_go_as_deep_as_the_limit_and_no_deeper,
)

FEW = 24
"""The limit of steps in the copy that is bent: as a rule it is the same as 10,000."""

Killer = Callable[[ModuleType], object]


def killers() -> list[Killer]:
    """All vectors, the matrix, and the limits: each raises if the fold does not do what it says."""
    matrix = json.loads((VECTORS / "matrix.json").read_text(encoding="utf-8"))

    def cell(row: dict[str, Any]) -> Killer:
        def play(fold: ModuleType) -> None:
            history = given(*matrix["given"][row["given"]], fold=fold)
            assert said(history.append(row["event"])) == row["verdict"]
            steps = {step["step"]: step["status"] for step in history.snapshot()["steps"]}
            history.then(status=row["job"])
            assert all(steps.get(name) == status for name, status in row.get("step", {}).items())

        return play

    def vector(case: dict[str, Any]) -> Killer:
        return lambda fold: run(case, fold)

    return [
        lambda fold: a_job_takes_as_many_steps_as_the_limit_and_no_more(fold, FEW),
        groups_go_as_deep_as_the_limit_and_no_deeper,
        *map(vector, vectors()),
        *map(cell, matrix["rows"]),
    ]


@contextmanager
def endless_after(seconds: float) -> Iterator[None]:
    """A mutant may turn round for ever: that is a death, too."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_killed(fold: ModuleType, by: list[Killer]) -> bool:
    """Whether one of them notices; the one that does goes to the front, for the neighbours are often of its kind."""
    for place, killer in enumerate(by):
        try:
            killer(fold)
        except Exception:
            by.insert(0, by.pop(place))
            return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_bent_guard_is_noticed() -> None:
    lab = Lab()
    lab.modules["plan"].STEP_LIMIT = FEW
    by = killers()
    assert not is_killed(lab.fold, by), "the copy of the fold does not keep its own vectors"
    alive, tried = set(), 0
    for mutant in lab.mutants():
        tried += 1
        with endless_after(5):
            if not is_killed(lab.fold, by):
                alive.add(mutant)
    listed = {mutant for mutants in EQUIVALENT.values() for mutant in mutants}
    assert tried > 500
    assert not alive - listed, "no vector notices:\n" + "\n".join(sorted(alive - listed))
    assert not listed - alive, "noticed after all, or gone; strike from the list:\n" + "\n".join(sorted(listed - alive))


EQUIVALENT: dict[str, list[str]] = {
    "no vector tells these apart; the naive model in tests/property does": [
        "tree.rederive: delta or old != new or holder.begun != had_begun → delta or holder.begun != had_begun",
        "tree.rederive: delta or old != new or holder.begun != had_begun → old != new or holder.begun != had_begun",
        "tree.rederive: if delta or old != new or holder.begun != had_begun → if True",
        "tree.rederive: old != new → old == new",
    ],
    "a short cut: the long way round comes to the same": [
        "tree.count: if old == new → if False",
        "tree.count: group.tail > 0 and is_complete(counts) → is_complete(counts)",
        "tree.count: group.tail and is_complete(counts) is not was → is_complete(counts) is not was",
        "tree.count: group.tail > 0 → group.tail >= 0",
        "tree.count: 0 → 1",
        "tree.lift: if not delta and old == new and (begun == had_begun) → if False",
        "tree.move: if status != old → if True",
        "plan.remove_step: below(job, step) if step.group is not None else [] → below(job, step) if True else []",
        "plan.median_weight: if parent is not None → if True",
        "plan._ordinal: None if after is None else job.steps.get(after) → None if False else job.steps.get(after)",
        "plan._ordinal: if min(behind) - here > 1 → if False",
        "plan._ordinal: step.ordinal > here → step.ordinal >= here",
        "fold.evolve: if kind in JOB_RULES → if True",
    ],
    "only the order of these numbers counts": [
        "plan._deepest_first: 1 → 2",
        "plan._ordinal: 1 → 2",
        "plan._ordinal: 2 → 3",
        "plan._spread: 1 → 2",
    ],
    "never both: what is told apart here does not come together": [
        "tree.rebase_root: if job.planned → if True",
        "tree._take: RUNNING if holder.open else None → RUNNING if False else None",
        "tree.end_attempt: if attempt is None → if False",
        "tree.end_attempt: if status == FAILED → if True",
        "tree.reached: total is None or step.done is None → total is None",
        "tree.show: max(job.percent, shown) → shown",
        "step_rules._added: if parent == name → if False",
    ],
    "above 99 % or below a millionth: nobody sees it": [
        "tree.rebase_root: max(root.mark, job.percent) → job.percent",
        "plan.begin_plan: if job.planned → if False",
        "plan.remove_step: 0 → 1",
    ],
    "the rules are silent: ranges whose steps are all gone, a waiting group made a leaf, the reason of a running job": [
        "tree.is_complete: done > 0 and done == sum(counts) → done == sum(counts)",
        "tree.is_complete: done > 0 → done >= 0",
        "plan._ungroup: if step.status in OPEN → if False",
        "plan._ungroup: True → False",
        "job_rules._progressed: if job.status != RUNNING → if True",
    ],
}
