"""The remaining time: a range with its basis, nothing when little is known, and no countdown that lies."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.calibration import calibrate
from projections.eta import Estimate, eta_of
from projections.usual import Usual
from tests.support.timelines import BEGAN, Timeline, learned, second

STEPS = ("fetch", "build", "ship")


def planned(kind: str = "deploy", steps: tuple[str, ...] = STEPS, job_id: str = "job", at: float = 0) -> Timeline:
    return Timeline(job_id).say(at, "job.planned", kind=kind, steps=[{"step": step} for step in steps])


def whole(times: dict[str, float], job_id: str = "past") -> Timeline:
    """A job that did its steps one after the other."""
    line, at = planned(job_id=job_id, steps=tuple(times)), 0.0
    for step, seconds in times.items():
        line.say(at, "step.started", step)
        for part in (0.25, 0.5, 0.75):
            line.say(at + seconds * part, "step.progressed", step, percent=part * 100)
        at += seconds
        line.say(at, "step.completed", step)
    return line.say(at, "job.completed")


def asked(line: Timeline, at: float, past: list[Timeline] | None = None) -> Estimate | None:
    """What is said of a job at a second of it."""
    job, clocks = line.seen(at)
    return eta_of(job, learned(past or [], clocks, job), second(at))


def holds(found: Estimate | None, seconds: float) -> bool:
    return found is not None and found.low is not None and found.high is not None and found.low <= seconds <= found.high


def test_without_a_past_the_rate_of_the_run_gives_a_range() -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one").say(60, "step.progressed", "one", percent=50)
    found = asked(line, 60)
    assert found is not None
    assert found.basis == "rate"
    assert holds(found, 60)
    assert not found.longer


@pytest.mark.parametrize(("at", "percent"), [(4.9, 50), (60, 1.9), (60, 0)])
def test_nothing_is_said_in_the_first_five_seconds_nor_below_two_percent(at: float, percent: float) -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one").say(at, "step.progressed", "one", percent=percent)
    past = [whole({"one": 60}, f"past-{n}") for n in range(20)]
    assert asked(line, at) is None
    assert asked(line, at, past) is None


def test_a_job_that_has_not_begun_or_has_ended_has_no_remaining_time() -> None:
    assert asked(planned(), 60) is None
    assert asked(whole({"one": 60}), 100) is None


def test_the_more_is_done_the_narrower_the_range() -> None:
    def width(percent: int) -> float:
        line = planned(steps=("one",)).say(0, "step.started", "one").say(100, "step.progressed", "one", percent=percent)
        found = asked(line, 100)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        return found.high / found.low

    assert width(10) > width(50) > width(90) > 1


def test_the_past_knows_of_steps_that_have_not_begun() -> None:
    past = [whole({"fetch": 10, "build": 20, "ship": 300 + n}, f"past-{n}") for n in range(20)]
    line = planned().say(0, "step.started", "fetch").say(10, "step.completed", "fetch").say(10, "step.started", "build")
    found = asked(line, 15, past)
    assert found is not None
    assert found.basis in ("history", "both")
    assert holds(found, 324)


def test_a_run_that_is_twice_as_slow_as_the_past_is_told_so() -> None:
    rng = random.Random(5)
    past = [whole(dict.fromkeys(STEPS, 50 * rng.lognormvariate(0, 1)), f"past-{n}") for n in range(40)]
    line = (
        planned().say(0, "step.started", "fetch").say(200, "step.completed", "fetch").say(200, "step.started", "build")
    )
    found = asked(line.say(300, "step.progressed", "build", percent=50), 300, past)
    assert found is not None
    assert found.basis == "both"
    assert holds(found, 300)


def test_time_in_which_it_waits_does_not_count() -> None:
    straight = planned(steps=("one",)).say(0, "step.started", "one").say(60, "step.progressed", "one", percent=50)
    broken = (
        planned(steps=("one",))
        .say(0, "step.started", "one")
        .say(30, "job.waiting")
        .say(3_630, "job.resumed")
        .say(3_660, "step.progressed", "one", percent=50)
    )
    assert asked(broken, 3_660) == asked(straight, 60)


def test_while_it_waits_the_range_stands_still_and_says_so() -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one").say(60, "step.progressed", "one", percent=50)
    line.say(61, "job.waiting")
    first, later = asked(line, 70), asked(line, 5_000)
    assert first is not None
    assert first.paused
    assert first == later


def test_what_takes_longer_than_its_kind_ever_did_is_told_to_and_not_counted_down() -> None:
    past = [whole({"one": 60 + n}, f"past-{n}") for n in range(20)]
    line = planned(steps=("one",)).say(0, "step.started", "one").say(6, "step.progressed", "one", percent=10)
    found = asked(line, 6_000, past)
    assert found is not None
    assert found.longer
    assert (found.low, found.high) == (None, None)
    assert found.usual == pytest.approx(78, rel=0.02)


def test_a_job_without_a_plan_has_its_kinds_past() -> None:
    past = [
        Timeline(f"past-{n}").say(0, "step.started", "a").say(10, "step.completed", "a").say(100 + n, "job.completed")
        for n in range(20)
    ]
    line = Timeline().say(0, "step.started", "a").say(10, "step.completed", "a").say(10, "step.started", "b")
    assert asked(line, 20) is None
    found = asked(line, 20, past)
    assert found is not None
    assert found.basis == "history"
    assert holds(found, 90)


def test_another_kind_of_job_says_nothing_about_this_one() -> None:
    past = [whole({"one": 60}, f"past-{n}") for n in range(20)]
    line = planned("other", steps=("one",)).say(0, "step.started", "one").say(30, "step.progressed", "one", percent=50)
    found = asked(line, 30, past)
    assert found is not None
    assert found.basis == "rate"


def test_a_second_try_is_not_judged_by_the_mark_of_the_first() -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one", attempt=1)
    line.say(600, "step.progressed", "one", attempt=1, percent=90)
    line.say(600, "step.failed", "one", attempt=1, error={"message": "x"}, retry_at="2026-01-31T12:11:00Z")
    line.say(660, "step.started", "one", attempt=2)
    line.say(680, "step.progressed", "one", attempt=2, percent=5)
    assert not holds(asked(line, 680), 20 * (1 - 0.9) / 0.9)


def test_the_time_is_the_readers_and_counts_down_until_the_rate_no_longer_holds() -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one").say(60, "step.progressed", "one", percent=50)
    job, clocks = line.seen(60)
    usual, said = Usual(clocks=clocks), []
    with freeze_time(BEGAN) as clock:
        for _ in range(4):
            clock.tick(60)
            said.append(eta_of(job, usual, datetime.now(UTC)))
    first, second, *others = said
    assert first is not None
    assert second is not None
    assert (second.low, second.high) == (0, (first.high or 0) - 60)
    assert others == [None, None]


def test_without_clocks_the_snapshots_times_must_do() -> None:
    line = planned(steps=("one",)).say(0, "step.started", "one").say(60, "step.progressed", "one", percent=50)
    job, _ = line.seen(60)
    assert holds(eta_of(job, Usual(), second(60)), 60)


@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 100), st.integers(0, 500)), max_size=12),
    st.integers(0, 10_000),
    st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_whatever_happened_a_range_is_a_range(reports: list[tuple[str, int, int]], later: int, size: int) -> None:
    line, at = planned(), 0
    for step, percent, seconds in reports:
        at += seconds
        line.say(at, "step.progressed", step, percent=percent)
    past = [whole(dict.fromkeys(STEPS, 10.0 + n), f"past-{n}") for n in range(size)]
    found = asked(line, at + later, past)
    if found is not None and (found.low is not None or found.high is not None):
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low <= found.high
    assert found is None or found.high is not None or found.longer


def simulated(rng: random.Random, number: int) -> Timeline:
    """A job whose machine is fast or slow, whose steps vary, and which reports every few seconds."""
    at, machine = number * 1_000.0, rng.lognormvariate(0, 0.4)
    line = planned(job_id=f"job-{number}", at=at)
    for step, usually in zip(STEPS, (20, 90, 40), strict=True):
        seconds = usually * machine * rng.lognormvariate(0, 0.3)
        line.say(at, "step.started", step)
        for part in range(1, 10):
            line.say(at + seconds * part / 10, "step.progressed", step, percent=part * 10)
        at += seconds
        line.say(at, "step.completed", step)
    return line.say(at, "job.completed")


def test_the_ranges_hold_the_truth_about_as_often_as_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(7)
    jobs = [simulated(rng, number).events for number in range(300)]
    found = calibrate(jobs, moments=(10, 20, 40, 80, 120, 160))
    print(found.text())
    assert len(found.ranges) > 200
    assert 70 <= found.inside <= 95
    assert "truth inside" in capsys.readouterr().out
