"""Stalled, worker_lost, overdue: from the learned cadence, with since and reason, gone when progress arrives."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from freezegun import freeze_time

from projections.conditions import Condition, changes, conditions_of, patience, told
from projections.histogram import class_of
from projections.usual import Usual
from tests.support.timelines import BEGAN, Timeline, second


def every(seconds: float, times: int = 100) -> Counter[int]:
    return Counter({class_of(int(seconds * 1e6)): times})


def asked(line: Timeline, at: float, **usual: Any) -> list[Condition]:
    job, clocks = line.seen(at)
    return conditions_of(job, Usual(clocks=clocks, **usual), second(at))


def kinds(found: list[Condition]) -> list[tuple[str, str | None]]:
    return [(condition.kind, condition.step) for condition in found]


@pytest.fixture
def at_work() -> Timeline:
    """A step that began at 0 and reported at 60 s."""
    return Timeline().say(0, "step.started", "build", worker="w1").say(60, "step.progressed", "build", percent=10)


def test_a_step_is_stalled_when_it_is_silent_for_much_longer_than_it_ever_was(at_work: Timeline) -> None:
    gaps = {"build": every(20)}
    assert asked(at_work, 60 + 59, gaps=gaps) == []
    (found,) = asked(at_work, 60 + 62, gaps=gaps)
    assert (found.kind, found.step, found.since) == ("stalled", "build", second(60))
    assert found.reason.startswith("no report for 1 min 2 s; more than ")


def test_a_step_that_reports_often_is_not_called_stalled_within_half_a_minute(at_work: Timeline) -> None:
    gaps = {"build": every(0.1)}
    assert asked(at_work, 60 + 29, gaps=gaps) == []
    assert kinds(asked(at_work, 60 + 31, gaps=gaps)) == [("stalled", "build")]


def test_a_step_that_never_reports_in_between_may_be_silent_as_long_as_it_takes(at_work: Timeline) -> None:
    durations = {"build": every(3_000, 10)}
    assert asked(at_work, 3_000, durations=durations) == []
    assert ("stalled", "build") in kinds(asked(at_work, 10_000, durations=durations))


def test_a_step_of_which_nothing_was_learned_has_a_quarter_of_an_hour(at_work: Timeline) -> None:
    assert asked(at_work, 60 + 899) == []
    assert kinds(asked(at_work, 60 + 901)) == [("stalled", "build")]


def test_a_few_pauses_teach_nothing(at_work: Timeline) -> None:
    assert patience("build", Usual(gaps={"build": every(20, 19)})) == 900
    assert patience("build", Usual(gaps={"build": every(20, 20)})) == pytest.approx(60, rel=0.02)


def test_progress_is_the_recovery(at_work: Timeline) -> None:
    gaps, looks = {"build": every(20)}, []
    with freeze_time(BEGAN) as clock:
        before: list[Condition] = []
        for number, seconds in enumerate((60, 100, 10, 10)):
            clock.tick(seconds)
            now = datetime.now(UTC)
            if number == 3:
                at_work.say((now - BEGAN).total_seconds(), "step.progressed", "build", percent=20)
            after = asked(at_work, (now - BEGAN).total_seconds(), gaps=gaps)
            looks.append(
                [(change.condition.kind, change.recovered, change.at) for change in changes(before, after, now)]
            )
            before = after
    assert looks == [[], [("stalled", False, second(160))], [], [("stalled", True, second(180))]]


def test_a_worker_that_is_silent_everywhere_is_lost(at_work: Timeline) -> None:
    usual = {"gaps": {"build": every(20)}, "workers": {"w1": second(60)}}
    (found,) = asked(at_work, 200, **usual)
    assert (found.kind, found.step, found.since) == ("worker_lost", "build", second(60))
    assert "worker w1 has reported nothing for 2 min 20 s, here or elsewhere" in found.reason


def test_a_worker_that_reports_elsewhere_is_not_lost_but_its_step_is_stalled(at_work: Timeline) -> None:
    usual = {"gaps": {"build": every(20)}, "workers": {"w1": second(190)}}
    assert kinds(asked(at_work, 200, **usual)) == [("stalled", "build")]
    at_work.say(190, "step.started", "other", worker="w1")
    assert kinds(asked(at_work, 200, gaps={"build": every(20)})) == [("stalled", "build")]


def test_nobody_is_called_lost_on_old_news_or_without_a_name(at_work: Timeline) -> None:
    usual = {"gaps": {"build": every(20)}, "workers": {"w1": second(60)}}
    assert kinds(asked(at_work, 200, **usual, fresh=False)) == [("stalled", "build")]
    nameless = Timeline().say(0, "step.started", "build")
    assert kinds(asked(nameless, 200, gaps={"build": every(20)})) == [("stalled", "build")]


def test_a_step_is_overdue_when_it_works_for_much_longer_than_usual(at_work: Timeline) -> None:
    usual = {"durations": {"build": every(100)}, "gaps": {"build": every(1_000)}}
    assert asked(at_work, 149, **usual) == []
    (found,) = asked(at_work, 160, **usual)
    assert (found.kind, found.step) == ("overdue", "build")
    assert abs((found.since - second(150)).total_seconds()) < 2
    assert found.reason.startswith("at work for 2 min 40 s; 95 % took at most")


def test_waiting_is_not_silence_and_not_work(at_work: Timeline) -> None:
    usual = {"durations": {"build": every(100)}, "gaps": {"build": every(20)}}
    at_work.say(61, "step.waiting", "build")
    assert asked(at_work, 100_000, **usual) == []
    at_work.say(100_000, "step.resumed", "build")
    assert asked(at_work, 100_010, **usual) == []
    at_work.say(100_020, "job.waiting")
    assert asked(at_work, 200_000, **usual) == []


@pytest.mark.parametrize(
    ("kind", "step", "data"),
    [
        ("job.waiting", None, {"until": second(100).isoformat()}),
        ("step.waiting", "build", {"until": second(100).isoformat()}),
        ("step.failed", "build", {"error": {"message": "x"}, "retry_at": second(100).isoformat()}),
    ],
    ids=["job", "step", "retry"],
)
def test_what_was_due_at_a_moment_is_overdue_a_minute_later(
    at_work: Timeline, kind: str, step: str | None, data: dict[str, Any]
) -> None:
    at_work.say(61, kind, step, **data)
    assert asked(at_work, 159) == []
    (found,) = asked(at_work, 161)
    assert (found.kind, found.step, found.since) == ("overdue", step, second(100))


def test_a_job_without_steps_can_be_silent_too() -> None:
    line = Timeline().say(0, "job.started").say(10, "job.progressed", percent=10)
    assert asked(line, 10 + 899) == []
    assert kinds(asked(line, 10 + 901)) == [("stalled", None)]


@pytest.mark.parametrize("end", ["job.completed", "job.failed", "job.cancelled"])
def test_nothing_is_wrong_with_a_job_that_has_ended(at_work: Timeline, end: str) -> None:
    at_work.say(61, end, **({"error": {"message": "x"}} if end == "job.failed" else {}))
    assert asked(at_work, 10**7, durations={"build": every(1)}) == []


def test_conditions_never_change_the_snapshot(at_work: Timeline) -> None:
    job, clocks = at_work.seen(10_000)
    before = msgspec.json.encode(job)
    assert conditions_of(job, Usual(clocks=clocks), second(10_000)) != []
    assert msgspec.json.encode(job) == before
    assert job.status == "running"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.6, "1 min"), (62, "1 min 2 s"), (7_262, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert told(seconds) == text


def test_a_clock_of_the_worker_that_is_ahead_makes_nothing_strange(at_work: Timeline) -> None:
    job, clocks = at_work.seen(60)
    assert conditions_of(job, Usual(clocks=clocks, gaps={"build": every(1)}), BEGAN - timedelta(hours=1)) == []
