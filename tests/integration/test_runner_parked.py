"""A handler that fails: tried again, then the failing event is found and parked with the later ones of its job."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from eventstore.events import RecordedEvent
from eventstore.store import EventStore
from projections.parked import NotParked, list_parked, retry, skip
from projections.progress import Progress
from projections.projection import Events
from projections.runner import Runner, start_runner
from tests.support.read_models import JobEvents, append, counted, rows


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


def poisoned(store: EventStore) -> int:
    """Two good jobs, and one whose second of four events is poison; the position of that."""
    append(store, "a", "x", "x")
    position = append(store, "bad", "x", "poison")
    append(store, "bad", "x", "x")
    append(store, "b", "x")
    return position


def test_a_failing_event_and_the_later_ones_of_its_job_are_parked_and_others_go_on(store: EventStore) -> None:
    position = poisoned(store)
    projection = JobEvents()
    runner = Runner(store, projection)
    runner.catch_up()
    assert counted(store) == {"a": 2, "b": 1, "bad": 1}
    append(store, "bad", "x")
    append(store, "a", "x")
    runner.catch_up()
    assert counted(store) == {"a": 3, "b": 1, "bad": 1}
    (found,) = list_parked(store)
    assert (found.projection, found.version, found.position, found.job_id) == ("job_events", 1, position, "bad")
    assert found.error == f"ValueError: position {position} is \\x00 poison"
    assert found.error_stack is not None
    assert "in look" in found.error_stack
    assert (found.tries, found.waiting) == (4, 3)
    everything = list_parked(store, "job_events", everything=True)
    assert [(item.position, item.tries) for item in everything] == [(4, 4), (5, 0), (6, 0), (8, 0)]
    assert runner.lag().parked == 4


def test_the_batch_is_tried_three_times_before_its_events_are_tried_alone(store: EventStore) -> None:
    poisoned(store)
    projection = JobEvents()
    Runner(store, projection).catch_up()
    assert projection.batches == [7, 7, 7, 1, 1, 1, 1, 1]


def test_a_handler_that_fails_for_a_moment_parks_nothing(store: EventStore) -> None:
    class Flaky(JobEvents):
        def look(self, event: RecordedEvent) -> None:
            if len(self.batches) < 3:
                raise TimeoutError("not yet")

    append(store, "job", "x", "x")
    Runner(store, Flaky()).catch_up()
    assert counted(store) == {"job": 2}
    assert list_parked(store) == []


def test_what_a_failing_handler_wrote_before_it_failed_is_undone(store: EventStore) -> None:
    class WritesFirst(JobEvents):
        def handle(self, conn: sa.Connection, events: Events) -> None:
            super().handle(conn, events)
            if any(event.data.get("message") == "late poison" for event in events):
                raise ValueError("too late")

    append(store, "job", "x", "late poison", "x")
    Runner(store, WritesFirst()).catch_up()
    assert counted(store) == {"job": 1}
    assert [item.position for item in list_parked(store, everything=True)] == [2, 3]


def test_what_the_database_refuses_at_commit_is_the_events_fault_too(store: EventStore) -> None:
    class Deferred(JobEvents):
        tables = (*JobEvents.tables, "CREATE TABLE few (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

        def handle(self, conn: sa.Connection, events: Events) -> None:
            super().handle(conn, events)
            for event in events:
                conn.execute(sa.text("INSERT INTO few VALUES (:n)"), {"n": len(event.data["message"])})

    append(store, "a", "one")
    append(store, "b", "three")
    append(store, "c", "two")
    Runner(store, Deferred()).catch_up()
    assert counted(store) == {"a": 1, "b": 1}
    (found,) = list_parked(store)
    assert found.job_id == "c"
    assert "UniqueViolation" in (found.error or "")


def test_a_handler_that_always_fails_stops_nobody_else_and_loses_nothing(store: EventStore) -> None:
    class Always(JobEvents):
        name = "always"
        tables = ("CREATE TABLE always (n int)",)

        def look(self, event: RecordedEvent) -> None:
            if not self.cured:
                raise KeyError("always")

        def handle(self, conn: sa.Connection, events: Events) -> None:
            for event in events:
                self.look(event)
            conn.execute(
                sa.text("INSERT INTO always SELECT unnest(CAST(:n AS int[]))"), {"n": [e.position for e in events]}
            )

    for number in range(30):
        append(store, f"job-{number % 10}", "x", "x")
    broken = Always()
    with start_runner(Runner(store, broken), Runner(store, JobEvents())) as runner:
        runner.wait_for(60)
        Runner(store, JobEvents()).wait_for(60)
        assert runner.lag().parked == 60
        assert sum(counted(store).values()) == 60
        assert rows(store, "SELECT count(*) FROM always") == [(0,)]
        broken.cured = True
        done = retry(store, broken)
    assert (done.taken, len(done.freed), done.failed) == (60, 10, [])
    assert rows(store, "SELECT count(*), count(DISTINCT n) FROM always") == [(60, 60)]
    assert list_parked(store, everything=True) == []


def test_many_parked_jobs_are_told_in_few_lines(store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "headway.projections")
    for number in range(40):
        append(store, f"job-{number}", "poison")
    Runner(store, JobEvents()).catch_up()
    assert len(caplog.messages) == 5
    assert caplog.messages[-1].endswith("37 more jobs are parked, see `headway parked list`")


def test_trying_again_takes_the_job_in_order_and_frees_it(store: EventStore) -> None:
    order: list[int] = []

    class Ordered(JobEvents):
        def look(self, event: RecordedEvent) -> None:
            super().look(event)
            if self.cured:
                order.append(event.position)

    poisoned(store)
    projection = Ordered()
    runner = Runner(store, projection)
    runner.catch_up()
    projection.cured = True
    done = retry(store, projection)
    assert (done.taken, done.freed, done.failed) == (3, ["bad"], [])
    assert order == [4, 5, 6]
    append(store, "bad", "x")
    runner.catch_up()
    assert counted(store) == {"a": 2, "b": 1, "bad": 5}


def test_trying_again_too_early_counts_the_try_and_keeps_the_rest_parked(store: EventStore) -> None:
    poisoned(store)
    projection = JobEvents()
    Runner(store, projection).catch_up()
    done = retry(store, projection)
    assert (done.taken, done.freed) == (0, [])
    assert [(item.position, item.tries, item.waiting) for item in done.failed] == [(4, 5, 2)]
    assert counted(store)["bad"] == 1


def test_only_one_job_may_be_tried_again(store: EventStore) -> None:
    append(store, "a", "poison")
    append(store, "b", "poison")
    projection = JobEvents()
    Runner(store, projection).catch_up()
    projection.cured = True
    assert retry(store, projection, job="b").freed == ["b"]
    assert counted(store) == {"b": 1}
    assert [item.job_id for item in list_parked(store)] == ["a"]


def test_skipping_gives_up_one_event_and_takes_the_rest_of_its_job(store: EventStore) -> None:
    position = poisoned(store)
    projection = JobEvents()
    runner = Runner(store, projection)
    runner.catch_up()
    done = skip(store, projection, position)
    assert (done.taken, done.freed) == (2, ["bad"])
    append(store, "bad", "x")
    runner.catch_up()
    assert counted(store)["bad"] == 4
    (kept,) = list_parked(store, everything=True)
    assert (kept.position, kept.skipped_at is not None) == (position, True)
    assert list_parked(store) == []
    assert runner.lag().parked == 0


def test_skipping_the_last_parked_event_frees_the_job(store: EventStore) -> None:
    position = append(store, "job", "poison")
    projection = JobEvents()
    Runner(store, projection).catch_up()
    assert skip(store, projection, position).freed == ["job"]
    with pytest.raises(NotParked):
        skip(store, projection, position)


def test_what_is_not_parked_can_be_neither_tried_again_nor_skipped(store: EventStore) -> None:
    append(store, "job", "x")
    projection = JobEvents()
    Runner(store, projection).catch_up()
    with pytest.raises(NotParked, match="no parked events of job job"):
        retry(store, projection, job="job")
    with pytest.raises(NotParked, match="no parked event at position 1"):
        skip(store, projection, 1)


def test_a_failing_event_far_into_a_page_is_found_without_trying_the_page_again_and_again(store: EventStore) -> None:
    for number in range(9):
        append(store, f"job-{number}", *["x"] * 100)
    append(store, "bad", "poison")
    projection = JobEvents()
    Runner(store, projection).catch_up()
    assert [size for size in projection.batches if size > 1] == [901] * 3
    assert sum(counted(store).values()) == 900
