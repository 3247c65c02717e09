"""Time travel says what the tables said: each moment of a job is compared with a snapshot that was taken then."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from eventstore.errors import LogDiverged
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.as_of import curve, diff, job_as_of, jobs_as_of, position_at
from projections.past import FoldMismatch
from projections.progress import Progress
from projections.snapshots import JobSnapshot, list_jobs, read_snapshot, read_snapshots

BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def store(database_url: str):
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def report(rng: random.Random, number: int) -> NewEvent:
    kind = rng.choice(
        "step.started step.progressed step.progressed step.failed step.completed step.waiting step.noted step.reset"
        " job.noted job.planned job.failed job.reopened step.removed step.skipped".split()
    )
    data: dict[str, object] = {
        "step.progressed": {"percent": rng.randrange(101), "message": "正在推送代码"},
        "step.failed": {"error": {"message": "the disk is full", "type": "OSError", "stack": "a\nb"}},
        "job.failed": {"error": {"message": "no more tries"}},
        "step.noted": {"level": "info", "message": "好"},
        "job.noted": {"level": "warning", "message": "slow"},
        "job.planned": {
            "title": "Import",
            "steps": [{"step": s, "weight": rng.randrange(1, 9)} for s in ("a", "b", "g")]
            + [{"step": "g1", "parent": "g"}, {"step": "g2", "parent": "g"}],
        },
    }.get(kind, {})
    step = rng.choice(("a", "b", "g1", "g2", "found")) if kind.startswith("step") else None
    return NewEvent(type=kind, step=step, data=data, occurred_at=BEGAN + timedelta(minutes=number))


@pytest.mark.parametrize("seed", range(4))
def test_a_job_as_of_a_position_is_what_its_snapshot_was_then(store: EventStore, seed: int) -> None:
    rng = random.Random(seed)
    then: list[tuple[int, JobSnapshot]] = []
    for number in range(60):
        (answer,) = store.append("job", [report(rng, number)])
        snapshot = read_snapshot(store, "job")
        assert snapshot is not None
        then.append((answer.position, snapshot))
    for position, snapshot in then:
        assert msgspec.json.encode(job_as_of(store, "job", position)) == msgspec.json.encode(snapshot)


def test_all_jobs_as_of_a_position_are_what_their_snapshots_were_then(store: EventStore) -> None:
    rng = random.Random(11)
    then: dict[int, dict[str, JobSnapshot]] = {}
    names = [f"job-{n}" for n in range(7)]
    for number in range(120):
        store.append(rng.choice(names), [report(rng, number)])
        if number % 40 == 39:
            then[store.head().position] = read_snapshots(store, names)
    for position, snapshots in then.items():
        assert {view.job_id: view for view in jobs_as_of(store, position)} == snapshots
    assert [view.job_id for view in jobs_as_of(store, 120)] == [j.job_id for j in list_jobs(store)][::-1]


def test_a_time_means_the_last_position_recorded_by_then(store: EventStore) -> None:
    for number in range(30):
        store.append("job", [report(random.Random(number), number)])
    events = store.read_log()
    assert position_at(store, events[17].recorded_at) == max(
        e.position for e in events if e.recorded_us <= events[17].recorded_us
    )
    assert position_at(store, BEGAN - timedelta(days=9_000)) == 0
    assert position_at(store, events[-1].recorded_at + timedelta(days=1)) == 30
    assert job_as_of(store, "job", BEGAN) is None


def test_occurred_asks_what_had_happened_by_a_time(store: EventStore) -> None:
    for minute, percent in enumerate((10, 20, 30)):
        store.append(
            "job",
            [NewEvent(type="job.progressed", data={"percent": percent}, occurred_at=BEGAN + timedelta(minutes=minute))],
        )
    seen = job_as_of(store, "job", BEGAN + timedelta(minutes=1), occurred=True)
    assert seen is not None
    assert seen.percent == 20
    assert [view.percent for view in jobs_as_of(store, BEGAN + timedelta(minutes=1), occurred=True)] == [20]


def test_a_diff_names_job_and_step_field_before_and_after(store: EventStore) -> None:
    store.append("job", [NewEvent(type="job.planned", data={"steps": [{"step": "a"}, {"step": "b"}]})])
    store.append("job", [NewEvent(type="step.progressed", step="a", data={"percent": 50})])
    changes = diff(job_as_of(store, "job", 1), job_as_of(store, "job", 2))
    assert [(c.step, c.field, c.before, c.after) for c in changes if c.field in ("percent", "status")] == [
        (None, "status", "pending", "running"),
        (None, "percent", 0.0, 25.0),
        ("a", "status", "pending", "running"),
        ("a", "percent", 0.0, 50.0),
    ]
    assert diff(None, None) == []


def test_the_curve_has_a_point_for_each_event_that_moved_the_percentage(store: EventStore) -> None:
    for percent in (10, 10, 5, 60):
        store.append("job", [NewEvent(type="job.progressed", data={"percent": percent})])
    assert [(p.position, p.percent) for p in curve(store, "job")] == [(1, 10.0), (4, 60.0)]


def test_a_position_ahead_of_the_log_is_told_and_not_guessed(store: EventStore) -> None:
    with pytest.raises(LogDiverged, match="ahead"):
        job_as_of(store, "job", 5)


def test_a_changed_verdict_is_found_when_the_log_is_folded_again(store: EventStore, database_url: str) -> None:
    store.append("job", [NewEvent(type="job.progressed", data={"percent": p}) for p in (10, 20)])
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER ALL")
        conn.execute("UPDATE events SET percent = 300000 WHERE position = 2")
    with pytest.raises(FoldMismatch, match="position 2"):
        job_as_of(store, "job", 2)
