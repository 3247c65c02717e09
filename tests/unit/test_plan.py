"""Plans as the fold reads them: exact numbers, gaps and tails of ranges, places in the order, limits of their data."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from typing import Any

import pytest

from eventstore.errors import InvalidEvent
from eventstore.events import NewEvent
from projections.check import check
from projections.numbers import micro, moment, ppm
from projections.plan import HUNDRED, ROOM, Entry, read_plan
from projections.state import ONE, encode_state
from tests.support.given import History


def test_every_percentage_of_two_decimals_is_exact() -> None:
    assert [ppm(float(f"{n // 100}.{n % 100:02}")) for n in range(10_001)] == [n * 100 for n in range(10_001)]


def test_percentages_are_floored_by_the_digits_that_people_see() -> None:
    rng = Random(7)
    for _ in range(20_000):
        percent = rng.random() * rng.choice([100, 1, 1e-3])
        assert ppm(percent) == int(Decimal(repr(percent)) * 10_000)
    assert [ppm(p) for p in (0, 100, -0.0, 5e-324, 33.333333333333336, 99.99999999999999)] == [
        0, ONE, 0, 0, 333_333, 999_999,
    ]  # fmt: skip


def test_weights_keep_their_decimals() -> None:
    assert [micro(w) for w in (1, 0.1, 1e-6, 1e9, 2.5)] == [ONE, 100_000, 1, 10**15, 2_500_000]


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.000001z", 1),
        ("1970-01-01T02:00+02:00", 0),
        ("2026-11-21T10:00:00", None),
        ("2026-11-21", None),
        ("2026-13-21T10:00:00Z", None),
        ("0000-01-01T00:00:00Z", None),
        ("10000-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("2026-11-21T10:00:00+99:99", None),
        ("٢٠٢٦-11-21T10:00:00Z", None),
    ],
)
def test_a_time_needs_a_zone_and_a_year_that_exists(text: str, us: int | None) -> None:
    assert moment(text) == us


def test_gaps_belong_to_the_step_behind_them_whatever_the_order_in_the_plan() -> None:
    plan = read_plan(
        [
            {"step": "c", "range": [60, 90.5]},
            {"step": "a", "range": [5, 20]},
            {"step": "x", "range": [50, 100], "parent": "a", "label": "X"},
            {"step": "y", "parent": "c"},
        ]
    )
    assert plan.entries == [
        Entry("c", None, None, 30_500_000, 40_000_000, 60_000_000),
        Entry("a", None, None, 15_000_000, 5_000_000, 5_000_000),
        Entry("x", "X", "a", 50_000_000, 50_000_000, 50_000_000),
        Entry("y", None, "c", ONE, 0, None),
    ]
    assert plan.tails == {None: 9_500_000, "a": 0}
    assert sum(e.weight + e.gap for e in plan.entries if e.parent is None) + plan.tails[None] == HUNDRED


def added(step: str, **data: Any) -> dict[str, Any]:
    return {"type": "step.added", "step": step, "data": data}


def order(history: History) -> list[str]:
    return [step["step"] for step in history.snapshot()["steps"]]


def test_a_step_can_be_added_behind_the_same_neighbour_many_times() -> None:
    history = History()
    history.append({"type": "job.planned", "data": {"steps": [{"step": "a"}, {"step": "z"}]}})
    for index in range(ROOM.bit_length() + 5):
        history.append(added(f"n{index}", after="a"))
    names = [f"n{index}" for index in reversed(range(ROOM.bit_length() + 5))]
    assert order(history) == ["a", *names, "z"]
    history.append(added("last"))
    assert order(history)[-1] == "last"


def test_a_state_is_the_same_bytes_whatever_the_order_of_its_steps_in_memory() -> None:
    history = History()
    history.append({"type": "job.planned", "data": {"steps": [{"step": "b"}, {"step": "a"}]}})
    before = encode_state(history.state)
    history.state.steps = dict(reversed(history.state.steps.items()))
    assert encode_state(history.state) == before


def refused(kind: str, data: dict[str, Any], step: str | None = None) -> tuple[str, str]:
    with pytest.raises(InvalidEvent) as error:
        check(NewEvent(type=kind, step=step, data=data))
    return error.value.field, error.value.rule_code


def a(**data: Any) -> tuple[str, str]:
    return refused("step.progressed", data, "a")


def test_texts_are_measured_in_bytes_and_taken_at_their_limit() -> None:
    for kind, name, limit in (("step.progressed", "message", 8192), ("step.progressed", "unit", 1024)):
        check(NewEvent(type=kind, step="a", data={"percent": 1, name: "é" * (limit // 2)}))
        assert refused(kind, {"percent": 1, name: "é" * (limit // 2) + "x"}, "a") == (f"data.{name}", "too_long")


def test_metadata_is_measured_in_members_names_and_bytes() -> None:
    check(NewEvent(type="step.progressed", step="a", data={"percent": 1, "metadata": {f"k{n}": n for n in range(64)}}))
    assert a(percent=1, metadata={f"k{n}": n for n in range(65)}) == ("data.metadata", "too_long")
    check(NewEvent(type="step.progressed", step="a", data={"percent": 1, "metadata": {"é" * 64: 1}}))
    assert a(percent=1, metadata={"é" * 64 + "x": 1}) == ("data.metadata", "too_long")
    check(NewEvent(type="step.progressed", step="a", data={"percent": 1, "metadata": {"k": "x" * (16_384 - 8)}}))
    assert a(percent=1, metadata={"k": "x" * (16_384 - 7)}) == ("data.metadata", "too_long")
    assert a(percent=1, metadata=[]) == ("data.metadata", "wrong_type")


def test_numbers_are_numbers() -> None:
    for given in ("50", True, None, [], {}):
        assert a(percent=given) == ("data.percent", "wrong_type")
    for given in (float("nan"), float("inf"), float("-inf")):
        assert a(percent=given) == ("data.percent", "not_finite")
    for given in (-1, 101, 100.0000001, 10**400):
        assert a(percent=given) == ("data.percent", "out_of_range")
    assert a(done=2**53 + 1) == ("data.done", "out_of_range")
    assert a(done=1, total=-1) == ("data.total", "out_of_range")
    assert a(done=1.5) == ("data.done", "wrong_type")
    assert a(percent=1, done=1) == ("data.percent", "not_allowed")
    assert a() == ("data.percent", "required")
    for taken in ({"percent": 1e-320}, {"percent": -0.0}, {"done": 2**53, "total": 0}, {"done": 7, "total": 5}):
        check(NewEvent(type="step.progressed", step="a", data=taken))


def test_a_step_is_named_where_it_must_be_and_only_there() -> None:
    assert refused("step.started", {}) == ("step", "required")
    assert refused("step.progressed", {"percent": 1}) == ("step", "required")
    assert refused("job.started", {}, "a") == ("step", "not_allowed")
    assert refused("step.added", {"parent": "a"}, "a") == ("data.parent", "cycle")
    assert refused("job.exploded", {}) == ("type", "unknown_type")
