"""The shipped projections against the same figures made by hand, whatever the batches were."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from projections.projection import Projection
from projections.rebuild_projection import rebuild_projection
from projections.runner import Runner
from projections.shipped import shipped
from projections.shipped.activity import Activity
from projections.shipped.durations import Durations
from projections.shipped.failures import Failures
from tests.support.read_models import rows
from tests.support.step_table import report

BEGAN = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


class Job:
    """Reports of one job, each `after` so many seconds."""

    def __init__(self, store: EventStore, job_id: str) -> None:
        self.store, self.job_id, self.now = store, job_id, BEGAN

    def say(
        self, kind: str, step: str | None = None, /, *, after: float = 0, attempt: int | None = None, **data: Any
    ) -> None:
        self.now += timedelta(seconds=after)
        event = NewEvent(type=kind, step=step, attempt=attempt, occurred_at=self.now, data=data)
        self.store.append(self.job_id, [event])


def statistics(store: EventStore) -> dict[tuple[str, str], tuple[int, float, float, float]]:
    found = rows(store, "SELECT kind, step, count, median, p90, p95 FROM step_duration_statistics ORDER BY 1, 2")
    return {(kind, step): (count, *rest) for kind, step, count, *rest in found}


def about(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0.01)


def test_median_p90_and_p95_of_each_step_are_less_than_one_percent_off(store: EventStore) -> None:
    rng = random.Random(3)
    took: list[float] = []
    for number in range(60):
        job = Job(store, f"job-{number}")
        job.say("job.planned", kind="build", steps=[{"step": "compile"}, {"step": "test"}])
        for step in ("compile", "test"):
            seconds = round(rng.lognormvariate(3, 1), 3) if step == "compile" else 5.0
            took += [seconds] if step == "compile" else []
            job.say("step.started", step)
            job.say("step.completed", step, after=seconds)
    Runner(store, Durations()).catch_up()
    found = statistics(store)
    exact = sorted(took)
    rank = {part: exact[math.ceil(part * 60) - 1] for part in (0.5, 0.9, 0.95)}
    assert found[("build", "compile")] == (60, about(rank[0.5]), about(rank[0.9]), about(rank[0.95]))
    assert found[("build", "test")] == (60, about(5), about(5), about(5))
    assert found[("build", "")][1] == about(exact[29] + 5)


def test_waiting_does_not_count(store: EventStore) -> None:
    job = Job(store, "job")
    job.say("step.started", "a")
    job.say("step.waiting", "a", after=10)
    job.say("step.resumed", "a", after=1_000)
    job.say("step.waiting", "a", after=10)
    job.say("step.progressed", "a", after=1_000, percent=50)
    job.say("job.waiting", after=10)
    job.say("job.resumed", after=1_000)
    job.say("step.completed", "a", after=10)
    job.say("job.completed")
    Runner(store, Durations()).catch_up()
    assert statistics(store) == {("", "a"): (1, about(40), about(40), about(40)), ("", ""): (1, *[about(2_040)] * 3)}


def test_only_attempts_that_completed_count_each_from_its_own_beginning(store: EventStore) -> None:
    job = Job(store, "job")
    job.say("step.started", "a", attempt=1)
    job.say("step.failed", "a", after=100, attempt=1, error={"message": "x"}, retry_at="2026-02-01T00:10:00Z")
    job.say("step.started", "a", after=50, attempt=2)
    job.say("step.completed", "a", after=7, attempt=2)
    job.say("step.started", "b")
    job.say("step.skipped", "b", after=9)
    job.say("step.completed", "c", after=9)
    Runner(store, Durations()).catch_up()
    assert statistics(store) == {("", "a"): (1, about(7), about(7), about(7))}


def test_clocks_of_finished_jobs_are_gone_and_a_reopened_job_goes_on(store: EventStore) -> None:
    done, failed = Job(store, "done"), Job(store, "failed")
    for job in (done, failed):
        job.say("job.started")
        job.say("step.started", "a")
    done.say("job.completed", after=5)
    failed.say("job.failed", after=5, error={"message": "x"})
    failed.say("job.reopened", after=100)
    failed.say("step.started", "a", after=0)
    failed.say("step.completed", "a", after=3)
    failed.say("job.completed")
    Runner(store, Durations()).catch_up()
    assert statistics(store)[("", "a")] == (1, about(3), about(3), about(3))
    assert rows(store, "SELECT count(*) FROM step_clocks") == [(0,)]
    assert statistics(store)[("", "")][0] == 2


def test_workers_are_seen_when_their_steps_report(store: EventStore) -> None:
    job = Job(store, "job")
    job.say("step.started", "a", worker="甲")
    job.say("step.progressed", "a", after=60, percent=5)
    Runner(store, Durations()).catch_up()
    assert rows(store, "SELECT worker, last_seen FROM workers_seen") != []
    ((worker, seen),) = rows(store, "SELECT worker, extract(epoch FROM last_seen)::float8 FROM workers_seen")
    assert (worker, seen) == ("甲", BEGAN.timestamp() + 60)


def test_activity_counts_by_the_day_on_which_it_happened(store: EventStore) -> None:
    job, other = Job(store, "job"), Job(store, "other")
    job.say("job.started")
    job.say("job.progressed", percent=50)
    job.say("job.progressed", percent=20)
    job.say("job.completed", after=120)
    other.say("job.started", after=86_400)
    other.say("job.failed", error={"message": "x"})
    cancelled = Job(store, "cancelled")
    cancelled.say("job.cancelled")
    Runner(store, Activity()).catch_up()
    assert rows(store, "SELECT * FROM activity_per_day ORDER BY day")[0][2:] == (4, 1, 2, 0, 0, 1)
    assert rows(store, "SELECT day::text, events, rejected, jobs_begun, jobs_completed, jobs_failed, jobs_cancelled"
                       " FROM activity_per_day ORDER BY 1") == [
        ("2026-01-31", 4, 1, 2, 0, 0, 1), ("2026-02-01", 3, 0, 1, 1, 1, 0)
    ]  # fmt: skip


def test_a_job_that_completes_by_its_last_step_counts_as_completed_once(store: EventStore) -> None:
    job = Job(store, "job")
    job.say("job.planned", steps=[{"step": "a"}], auto_complete=True)
    job.say("step.completed", "a")
    job.say("job.completed")
    Runner(store, Activity()).catch_up()
    assert rows(store, "SELECT jobs_completed, rejected FROM activity_per_day") == [(1, 1)]


def test_a_failure_is_one_row_with_first_last_and_count(store: EventStore) -> None:
    for number in range(3):
        job = Job(store, f"job-{number}")
        job.say("step.started", "a", after=number * 60)
        stack = f'Traceback\n  File "/tmp/run{number}/x.py", line {number}, in f\nOSError: disk {number}'
        job.say("step.failed", "a", error={"message": f"disk {number}", "type": "OSError", "stack": stack})
    job.say("job.failed", error={"message": "another thing"})
    Runner(store, Failures()).catch_up()
    found = rows(
        store,
        "SELECT type, message, count, extract(epoch FROM last_seen - first_seen)::int, last_job, last_step"
        " FROM failures ORDER BY count DESC",
    )
    assert found == [("OSError", "disk 2", 3, 120, "job-2", "a"), (None, "another thing", 1, 0, "job-2", None)]


TABLES = ("step_durations", "step_clocks", "workers_seen", "activity_per_day", "failures")


def contents(store: EventStore) -> dict[str, list[str]]:
    return {name: [row[0] for row in rows(store, f"SELECT t::text FROM {name} t ORDER BY 1")] for name in TABLES}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_tables_do_not_depend_on_the_batches_and_a_rebuild_gives_them_again(
    store: EventStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    for number in range(600):
        event = report(rng)
        store.append(f"job-{rng.randrange(9)}", [NewEvent(
            type=event.type, step=event.step, data=event.data, occurred_at=BEGAN + timedelta(seconds=20 * number)
        )])  # fmt: skip
    for projection in shipped():
        Runner(store, projection).catch_up()
    live = contents(store)
    assert all(live[name] for name in ("step_durations", "activity_per_day", "failures"))
    monkeypatch.setattr("projections.applying.PAGE", 7)
    for projection in shipped():
        rebuild_projection(store, projection, verify=True)
    assert contents(store) == live


def test_every_shipped_projection_has_its_tables_after_the_migration(store: EventStore) -> None:
    live = dict(rows(store, "SELECT name, version FROM projection_tables WHERE role = 'live'"))
    assert live == {projection.name: projection.version for projection in shipped()}
    assert Counter(map(type, shipped())) == Counter([Durations, Activity, Failures])
    assert all(isinstance(projection, Projection) for projection in shipped())
