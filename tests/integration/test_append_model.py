"""The store in PostgreSQL does what the store in memory does, call by call, over random histories of real reports.

Two stores write in turn, so both paths, the cache and its suspicion are in play; calls are sent again, changed, sent to
other jobs and with expected versions.
"""

from __future__ import annotations

import itertools
import os
import uuid
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from eventstore.errors import EventStoreError
from eventstore.events import ANY, NO_JOB, NewEvent, to_datetime
from eventstore.memory import InMemoryEventStore
from eventstore.store import EventStore
from eventstore.verify import verify
from projections.progress import Progress
from tests.property.histories import reports

SEEDS = int(os.environ.get("HEADWAY_TEST_SEEDS", "2"))

Call = tuple[str, list[NewEvent], Any]


def new_event(report: dict[str, Any], rng: Random) -> NewEvent:
    return NewEvent(
        type=report["type"], step=report.get("step"), attempt=report.get("attempt"), seq=report.get("seq"),
        data=report.get("data", {}), event_id=uuid.UUID(int=rng.getrandbits(128), version=4),
        occurred_at=None if report.get("at") is None else to_datetime(report["at"]),
    )  # fmt: skip


def calls(rng: Random) -> Any:
    """Calls without end: new ones, and earlier ones again, whole, in part, changed or under another job."""
    jobs = {f"job:{n}": reports(rng) for n in range(4)}
    earlier: list[Call] = []
    while True:
        job = rng.choice(list(jobs))
        events = [new_event(report, rng) for report in itertools.islice(jobs[job], rng.randint(1, 6))]
        expected = rng.choice([ANY, ANY, ANY, ANY, NO_JOB, rng.randrange(60)])
        if earlier and rng.random() < 0.25:
            old_job, old, old_expected = rng.choice(earlier)
            match rng.randrange(6):
                case 0 | 1:
                    job, events, expected = old_job, old, old_expected
                case 2:
                    job, events = old_job, [*old, *events]
                case 3:
                    job, events = old_job, [events[0], rng.choice(old), rng.choice(old)]
                case 4:
                    job, events = rng.choice(list(jobs)), [*events, rng.choice(old)]
                case _:
                    changed = NewEvent(
                        type="job.noted", data={"level": "info", "message": "x"}, event_id=rng.choice(old).event_id
                    )
                    job, events = old_job, [*events, changed]
        earlier.append((job, events, expected))
        yield job, events, expected


def outcome(store: Any, call: Call) -> Any:
    job, events, expected = call
    try:
        answers = store.append(job, events, expected=expected)
    except EventStoreError as error:
        return type(error).__name__, str(error)
    return [(a.event_id, a.position, a.version, a.applied, a.reason, a.ppm, a.duplicate) for a in answers]


def facts(store: Any) -> list[Any]:
    return [
        (e.position, e.job_id, e.version, e.event_id, e.type, e.step, e.attempt, e.seq, e.data_json, e.applied,
         e.reason, e.ppm, e.occurred_us)
        for page in store.replay() for e in page
    ]  # fmt: skip


@pytest.mark.parametrize("small", [256, 1])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_both_stores_give_the_same_answers(shared_database, monkeypatch, seed, small):
    monkeypatch.setattr("projections.progress.SMALL", small)  # with 1, every job is one of which only parts are loaded
    rng = Random(seed)
    log = f"log-{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        model = stack.enter_context(InMemoryEventStore(log=log, projection=Progress(), max_job_events=150))
        stores = [
            stack.enter_context(
                EventStore(shared_database, log=log, projection=Progress(), max_job_events=150, pool_size=2)
            )
            for _ in range(2)
        ]
        stores[0].create_log()
        kinds: set[str] = set()
        for number, call in enumerate(itertools.islice(calls(rng), 250)):
            told = outcome(rng.choice(stores) if seed % 2 else stores[number // 20 % 2], call)
            assert told == outcome(model, call), (number, call)
            kinds.add(told[0] if isinstance(told, tuple) else "answered")
        assert kinds >= {"answered", "WrongExpectedVersion", "EventIdConflict"}
        assert kinds <= {"answered", "WrongExpectedVersion", "EventIdConflict", "JobFull"}
        assert facts(stores[0]) == facts(model)
        assert verify(stores[0]).events == model.head().position
        reasons = {event.reason for event in model.read_log()}
        assert {None, "regression"} <= reasons, reasons
