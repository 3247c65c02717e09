"""What is full says so: the number of steps of a job, and how deep groups may go."""

from __future__ import annotations

from types import ModuleType

import projections.fold
from projections.state import DEPTH_LIMIT, STEP_LIMIT
from tests.support.given import Event, History, said


def planned(*names: str, weight: int = 1) -> Event:
    steps = [{"step": name, "weight": weight} for name in names]
    return {"type": "job.planned", "data": {"steps": steps, "auto_complete": False}}


def added(name: str, **data: object) -> Event:
    return {"type": "step.added", "step": name, "data": data}


def started(name: str) -> Event:
    return {"type": "step.started", "step": name, "data": {}}


FULL = {"applied": False, "reason": "plan_full", "percent_ppm": 0}
APPLIED = {"applied": True, "percent_ppm": 0}


def a_job_takes_as_many_steps_as_the_limit_and_no_more(fold: ModuleType, limit: int) -> None:
    names = [f"s{n}" for n in range(limit)]
    history = History(fold).when(planned(*names[: limit - 1]))
    assert said(history.append(added("child", parent="parent"))) == FULL, "it takes room for two"
    assert said(history.append(added("child", parent=names[0]))) == APPLIED
    assert said(history.append(started("more"))) == FULL
    assert said(history.append(added("more"))) == FULL
    assert said(history.append(added("more", parent=names[0]))) == FULL
    assert said(history.append(planned("more"))) == FULL
    history.then(rejected=5)
    assert said(history.append(added(names[1], weight=2))) == APPLIED
    assert said(history.append(started(names[1]))) == APPLIED
    assert said(history.append(planned(*names[: limit - 1], weight=3))) == APPLIED
    history = History(fold)
    for name in names:
        assert said(history.append(added(name))) == APPLIED
    assert said(history.append(added("more"))) == FULL


def groups_go_as_deep_as_the_limit_and_no_deeper(fold: ModuleType) -> None:
    history = History(fold).when(planned("s0"))
    for depth in range(DEPTH_LIMIT):
        assert said(history.append(added(f"s{depth + 1}", parent=f"s{depth}"))) == APPLIED
    assert said(history.append(added("deeper", parent=f"s{DEPTH_LIMIT}"))) == FULL
    assert said(history.append(added("beside", parent=f"s{DEPTH_LIMIT - 1}"))) == APPLIED
    history.append({"type": "step.completed", "step": f"s{DEPTH_LIMIT}", "data": {}})
    history.then(percent_ppm=500_000)


def test_a_job_takes_ten_thousand_steps_and_then_its_plan_is_full() -> None:
    assert STEP_LIMIT == 10_000
    names = [f"s{n}" for n in range(STEP_LIMIT)]
    history = History().when(planned(*names))
    assert said(history.append(started("more"))) == FULL
    assert said(history.append(added("more"))) == FULL
    history.then(rejected=2, steps_total=STEP_LIMIT)
    assert said(history.append({"type": "step.completed", "step": "s0", "data": {}})) == {
        "applied": True,
        "percent_ppm": 100,
    }


def test_every_way_to_add_a_step_knows_the_limit() -> None:
    a_job_takes_as_many_steps_as_the_limit_and_no_more(projections.fold, STEP_LIMIT)


def test_groups_go_sixteen_deep() -> None:
    assert DEPTH_LIMIT == 16
    groups_go_as_deep_as_the_limit_and_no_deeper(projections.fold)
