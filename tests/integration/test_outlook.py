"""The remaining time and the conditions of a job in the log, read from the tables of the projections, and shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.calibration import calibrate, jobs_of
from projections.conditions import conditions
from projections.eta import estimate
from projections.runner import Runner
from projections.shipped.durations import Durations
from projections.snapshots import JobSnapshot, read_snapshot
from projections.usual import read_usual
from tests.support.cli import Cli

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def at_this_moment() -> None:
    """The command line asks the real clock, so each test's histories end at its own beginning."""
    globals()["NOW"] = datetime.now(UTC)


def say(store: EventStore, job_id: str, ago: float, kind: str, step: str | None = None, /, **data: Any) -> None:
    at = NOW - timedelta(seconds=ago)
    store.append(job_id, [NewEvent(type=kind, step=step, occurred_at=at, data=data)])


def past(store: EventStore, jobs: int = 12, kind: str = "deploy") -> None:
    """Jobs of two steps, each of which took 100 s and reported every 10 s."""
    for number in range(jobs):
        job, began = f"{kind}-{number}", 100_000 - 1_000 * number
        say(store, job, began, "job.planned", kind=kind, steps=[{"step": "build"}, {"step": "ship"}])
        for index, step in enumerate(("build", "ship")):
            say(store, job, began - 100 * index, "step.started", step, worker="w1")
            for tenth in range(1, 10):
                say(store, job, began - 100 * index - 10 * tenth, "step.progressed", step, percent=tenth * 10)
            say(store, job, began - 100 * index - 100, "step.completed", step)


def running(store: EventStore, ago: float = 50, silent: float = 0) -> JobSnapshot:
    say(store, "now", ago + silent, "job.planned", kind="deploy", steps=[{"step": "build"}, {"step": "ship"}])
    say(store, "now", ago + silent, "step.started", "build", worker="w1")
    say(store, "now", silent, "step.progressed", "build", percent=50)
    found = read_snapshot(store, "now")
    assert found is not None
    return found


def test_the_remaining_time_is_estimated_from_the_log(store: EventStore) -> None:
    past(store)
    job = running(store)
    assert (estimate(store, job, NOW) or job).__class__.__name__ == "Estimate"
    Runner(store, Durations()).catch_up()
    found = estimate(store, job, NOW)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.basis in ("history", "both")
    assert found.low <= 150 <= found.high
    assert found.high - found.low < 60


def test_a_log_learns_nothing_from_another_one(store: EventStore) -> None:
    other = store.for_log(store.log + "-other")
    other.create_log()
    past(other)
    Runner(other, Durations()).catch_up()
    assert read_usual(store, running(store)).durations == {}


def test_a_silent_step_is_stalled_and_its_progress_is_the_recovery(store: EventStore) -> None:
    past(store)
    job = running(store, silent=70)
    Runner(store, Durations()).catch_up()
    assert [(found.kind, found.step) for found in conditions(store, job, NOW)] == [("worker_lost", "build")]
    say(store, "other", 0, "step.started", "build", worker="w1")
    Runner(store, Durations()).catch_up()
    assert [(found.kind, found.step) for found in conditions(store, job, NOW)] == [("stalled", "build")]
    say(store, "now", 0, "step.progressed", "build", percent=60)
    again = read_snapshot(store, "now")
    assert again is not None
    assert conditions(store, again, NOW) == []


def test_while_the_projection_is_behind_nobody_is_called_lost(store: EventStore, shared_database: str) -> None:
    past(store)
    Runner(store, Durations()).catch_up()
    job = running(store, silent=70)
    assert read_usual(store, job).fresh
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
        conn.execute(
            "UPDATE events SET recorded_at = recorded_at - interval '2 min' WHERE job_id = 'now' AND log_id = %s",
            (store.log_id(),),
        )
        conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable")
    assert not read_usual(store, job).fresh
    assert [found.kind for found in conditions(store, job, NOW)] == ["stalled"]


def test_show_tells_what_is_left_and_what_seems_wrong(store: EventStore, cli: Cli) -> None:
    past(store)
    running(store)
    Runner(store, Durations()).catch_up()
    said = cli("show", "now").out
    assert " to " in next(line for line in said.splitlines() if line.startswith("left"))
    past(store, 1, "other")
    assert not [line for line in cli("show", "other-0").lines if line.startswith("left")]


@pytest.mark.parametrize("ago", [4_000])
def test_show_says_longer_than_usual_instead_of_counting_down(store: EventStore, cli: Cli, ago: float) -> None:
    past(store)
    running(store, ago=50, silent=ago)
    Runner(store, Durations()).catch_up()
    said = cli("show", "now").lines
    assert [line.split("(")[0].split() for line in said if line.startswith("left")] == [
        ["left", "longer", "than", "usual"]
    ]
    assert any(line.startswith("overdue") for line in said)
    assert any(line.startswith(("worker lost", "stalled")) for line in said)


def test_a_history_in_the_log_can_be_asked_for_its_calibration(store: EventStore) -> None:
    past(store, 30)
    found = calibrate(jobs_of(store), moments=(20, 60, 120))
    assert found.learned == 21
    assert len(found.ranges) >= 20
    assert "truth inside" in found.text()
