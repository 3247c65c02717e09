"""What the fold never gets to see: reports that are refused before they are queued (`tests/vectors/refused.json`)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from eventstore.errors import InvalidEvent
from eventstore.events import NewEvent
from projections.check import check
from tests.support.given import VECTORS

CASES: list[dict[str, Any]] = json.loads((VECTORS / "refused.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vector(case: dict[str, Any]) -> None:
    event = NewEvent(**case["event"])
    if "refused" not in case:
        check(event)
        return
    with pytest.raises(InvalidEvent) as refused:
        check(event)
    assert refused.value.field == case["refused"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("event", "field"),
    [
        (lambda number: NewEvent(type="step.progressed", step="a", data={"percent": number}), "data.percent"),
        (lambda number: NewEvent(type="job.progressed", data={"percent": number}), "data.percent"),
        (lambda number: NewEvent(type="step.progressed", step="a", data={"done": number}), "data.done"),
        (lambda number: NewEvent(type="step.progressed", step="a", data={"done": 1, "total": number}), "data.total"),
        (lambda number: NewEvent(type="step.added", step="a", data={"weight": number}), "data.weight"),
        (
            lambda number: NewEvent(type="job.planned", data={"steps": [{"step": "a", "weight": number}]}),
            "data.steps[0].weight",
        ),
        (
            lambda number: NewEvent(type="job.planned", data={"steps": [{"step": "a", "range": [0, number]}]}),
            "data.steps[0].range[1]",
        ),
    ],
    ids=["percent", "a job's percent", "done", "total", "weight of a step added", "weight", "range"],
)
def test_a_number_that_is_not_finite_is_refused_as_such(event: Any, field: str, number: float) -> None:
    with pytest.raises(InvalidEvent) as refused:
        check(event(number))
    assert (refused.value.field, refused.value.rule_code) == (field, "not_finite")


@pytest.mark.parametrize(
    "number",
    [2**53 + 1, 2**63, 10**40, 10**400, -(10**400)],
    ids=["2^53+1", "2^63", "40 digits", "400 digits", "-400 digits"],
)
@pytest.mark.parametrize("field", ["percent", "done", "weight"])
def test_an_integer_of_any_length_is_refused_and_breaks_nothing(field: str, number: int) -> None:
    kind = "step.added" if field == "weight" else "step.progressed"
    with pytest.raises(InvalidEvent) as refused:
        check(NewEvent(type=kind, step="a", data={field: number}))
    assert refused.value.field == f"data.{field}"
    assert len(str(refused.value)) < 300
