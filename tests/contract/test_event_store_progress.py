"""The rows of bad input and late reports that need to know what the data means: the log with the real fold."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from eventstore.errors import InvalidEvent
from eventstore.events import NewEvent
from projections.progress import Progress


@pytest.fixture
def store(open_store: Any) -> Any:
    return open_store(projection=Progress())


def step(kind: str, **data: Any) -> NewEvent:
    return NewEvent(type=f"step.{kind}", step="s", data=data)


def job(kind: str, **data: Any) -> NewEvent:
    return NewEvent(type=f"job.{kind}", data=data)


def planned(*steps: dict[str, Any]) -> NewEvent:
    return job("planned", steps=list(steps) or [{"step": "s"}])


def refused(store: Any, events: list[NewEvent], field: str, *codes: str) -> None:
    for event in events:
        before = store.head()
        with pytest.raises(InvalidEvent) as caught:
            store.append("a", [job("started"), event])
        error = caught.value
        assert error.field == f"events[1].{field}", f"{event}: {error}"
        assert not codes or error.rule_code in codes, f"{str(event)[:100]}: {error.rule_code}"
        assert error.given
        assert error.rule
        assert store.head().position == before.position == 0


def percents(*values: Any) -> list[NewEvent]:
    return [step("progressed", percent=value) for value in values] + [
        job("progressed", percent=value) for value in values
    ]


def test_i1_not_finite(store):
    refused(store, percents(float("nan"), float("inf"), -float("inf"), 1e999), "data.percent", "not_finite")


def test_i2_outside_0_to_100(store):
    refused(store, percents(-1, 101, 100.0000001, -1e-320, 1e300, 10**15), "data.percent", "out_of_range")
    for number, value in enumerate((-0.0, 1e-320, 0, 100, 100.0)):
        answer = store.append(f"job:{number}", [planned(), step("progressed", percent=value)])[1]
        assert answer.applied
        assert answer.ppm == (990_000 if value == 100 else 0)
    assert store.read_job("job:0")[1].data_json == b'{"percent":0}'


def test_i3_not_a_number(store):
    refused(store, percents("50", " 5_0 ", "٣", True, False, None, [], {}, [50]), "data.percent", "wrong_type")
    for field in ("done", "total"):
        wrong = [step("progressed", **{"done": 1, "total": 2, field: value}) for value in ("1", True, 1.5, [], {})]
        refused(store, wrong, f"data.{field}", "wrong_type", "out_of_range")


def test_i4_done_and_total(store):
    refused(store, [step("progressed", done=-1, total=10)], "data.done", "out_of_range")
    refused(store, [step("progressed", done=1, total=-1)], "data.total", "out_of_range")
    store.append("more", [planned(), step("progressed", done=11, total=10)])
    assert store.read_job("more")[1].ppm == 990_000
    answers = store.append(
        "nothing", [planned(), step("progressed", done=0, total=0), step("progressed", done=5, total=0)]
    )
    assert all(0 <= answer.ppm <= 990_000 for answer in answers)
    said = [{"done": 5, "total": 10}, {"done": 6, "total": 8}, {"done": 6, "total": 4}, {"done": 7, "total": 100}]
    shown = [a.ppm for a in store.append("shrinks", [planned(), *(step("progressed", **each) for each in said)])]
    assert shown == sorted(shown)
    assert shown[1] == 500_000


def test_i5_integers_that_a_double_cannot_hold(store):
    refused(store, percents(2**53 + 1, 2**63, 10**40, 10**5000), "data.percent", "out_of_range")
    for field in ("done", "total"):
        wrong = [step("progressed", **{"done": 1, "total": 2, field: value}) for value in (2**53 + 1, 2**63, 10**40)]
        refused(store, wrong, f"data.{field}", "out_of_range")
    answer = store.append("a", [planned(), step("progressed", done=2**53 - 1, total=2**53)])[1]
    assert (answer.applied, answer.ppm) == (True, 990_000)


def test_i20_weights(store):
    weighted = [planned({"step": "a"}, {"step": "s", "weight": weight}) for weight in (0, -1, 1e-7, 1e308, 1e10)]
    refused(store, weighted, "data.steps[1].weight", "out_of_range")
    odd = [planned({"step": "a"}, {"step": "s", "weight": weight}) for weight in (True, "1", [], {})]
    refused(store, odd, "data.steps[1].weight", "wrong_type")
    bad = [planned({"step": "a"}, {"step": "s", "weight": weight}) for weight in (float("nan"), float("inf"), 1e999)]
    refused(store, bad, "data.steps[1].weight", "not_finite")
    edges = [{"step": "least", "weight": 1e-6}, {"step": "most", "weight": 10**9}]
    store.append("a", [planned(*edges)])
    assert store.append("a", [NewEvent(type="step.completed", step="most")])[0].ppm == 990_000


def test_i20_a_job_of_too_many_steps_keeps_what_it_has(store):
    for begin in range(0, 10_000, 1_000):
        steps = [NewEvent(type="step.added", step=f"s{n}") for n in range(begin, begin + 1_000)]
        assert all(answer.applied for answer in store.append("a", steps))
    one_more = store.append("a", [NewEvent(type="step.added", step="one more")])[0]
    assert (one_more.applied, one_more.reason) == (False, "plan_full")
    assert store.append("a", [NewEvent(type="step.completed", step="s9999")])[0].applied


def test_i20_a_plan_of_too_many_steps_is_refused(store):
    too_many = [{"step": f"s{n}"} for n in range(10_001)]
    with pytest.raises(InvalidEvent):
        store.append("a", [planned(*too_many)])
    assert store.head().position == 0


def test_c5_a_late_report_is_kept_and_moves_nothing(store):
    store.append("a", [planned(), step("progressed", percent=60)])
    late = store.append("a", [step("progressed", percent=40, message="late")])[0]
    assert (late.position, late.applied, late.reason, late.percent) == (3, False, "regression", 60.0)
    recorded = store.read_log()[-1]
    assert (recorded.applied, recorded.reason, recorded.percent) == (False, "regression", 60.0)
    assert recorded.data == {"percent": 40, "message": "late"}
    assert store.append("a", [step("progressed", percent=61)])[0].applied


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_c6_reports_after_the_end_are_kept_and_move_nothing(store, ending):
    end = job("failed", error={"message": "m"}) if ending == "failed" else job(ending)
    store.append("a", [planned({"step": "s"}, {"step": "t"}), step("progressed", percent=50), end])
    shown = store.read_log()[-1].ppm
    late = [step("progressed", percent=70), step("completed"), job("started"), job("noted", level="info", message="x")]
    for answer in store.append("a", late):
        assert (answer.applied, answer.ppm) == (False, shown)
        assert answer.reason
    reopened = store.append("a", [job("reopened")])[0]
    assert reopened.applied == (ending != "completed")
    assert store.append("a", [step("progressed", percent=80)])[0].applied == (ending != "completed")


def test_c6_a_new_attempt_of_a_step_opens_it_again(store):
    store.append("a", [planned({"step": "s"}, {"step": "t"}), step("started")])
    store.append("a", [step("failed", error={"message": "m"})])
    again = NewEvent(type="step.started", step="s", attempt=2)
    stale = NewEvent(type="step.progressed", step="s", attempt=1, data={"percent": 90})
    assert [a.applied for a in store.append("a", [again, stale])] == [True, False]
    assert store.read_log()[-1].reason == "stale_attempt"


def test_a_retry_is_a_duplicate_with_its_first_verdict(store):
    late = NewEvent(type="step.progressed", step="s", data={"percent": 10}, event_id=uuid.uuid4())
    store.append("a", [planned(), step("progressed", percent=60)])
    first = store.append("a", [late])[0]
    store.append("a", [step("progressed", percent=80)])
    again = store.append("a", [late])[0]
    assert again.duplicate
    assert (again.applied, again.reason, again.percent) == (first.applied, first.reason, first.percent)
    assert (again.reason, again.percent) == ("regression", 60.0)


def test_chinese_texts_are_cut_by_no_limit(store):
    message = "正" * (8 * 1024 // 3)
    assert store.append("a", [planned({"step": "推送", "label": "推送模板"}), NewEvent(
        type="step.progressed", step="推送", data={"percent": 1, "message": message})])[1].applied  # fmt: skip
    assert store.read_log()[-1].data["message"] == message
    with pytest.raises(InvalidEvent) as caught:
        store.append(
            "a", [NewEvent(type="step.progressed", step="推送", data={"percent": 2, "message": message + "正"})]
        )
    assert (caught.value.field, caught.value.rule_code) == ("events[0].data.message", "too_long")
