"""A rebuild puts new tables in the place of the live ones while a runner is at work: neither harms the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from eventstore.store import EventStore
from projections import rebuild_projection as rebuilding
from projections.progress import Progress
from projections.projection import Events
from projections.rebuild import Step
from projections.rebuild_projection import rebuild_projection
from projections.runner import Runner, Turn
from tests.support.read_models import JobEvents, append, counted, in_log, rows
from tests.support.sessions import Doing, Watcher, wait_until


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def watcher(database_url: str) -> Iterator[Watcher]:
    opened = Watcher(database_url)
    yield opened
    opened.close()


def test_the_gate_lets_a_runner_finish_its_batch(store: EventStore) -> None:
    """The runner holds its checkpoint in the handler. The gate asks for it, gives up after 200 ms, and asks again."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(JobEvents):
        def handle(self, conn: sa.Connection, events: Events) -> None:
            super().handle(conn, events)
            inside.set()
            assert go_on.wait(15)

    append(store, "job", "x", "x")
    tries = 0

    def told(step: Step) -> None:
        nonlocal tries
        tries += step.phase == "gate"

    runner = Runner(store, Slow())
    working = Doing(runner.turn)
    assert inside.wait(15)
    swapping = Doing(lambda: rebuild_projection(store, JobEvents(), progress=told))
    wait_until(lambda: tries >= 3, "the gate was tried three times")
    assert not swapping.done
    go_on.set()
    assert working.result() is Turn.MORE
    swapping.result()
    assert counted(store) == {"job": 2}
    assert counted(store, "headway_old_job_events") == {"job": 2}
    runner.close()


def test_a_runner_that_waits_at_the_gate_goes_on_in_the_new_tables(
    store: EventStore, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate holds the checkpoints; the runner asks for its own; then the tables change places."""
    held, go_on = threading.Event(), threading.Event()

    def swap(*args: object) -> None:
        held.set()
        assert go_on.wait(15)
        real(*args)  # type: ignore[arg-type]

    real = rebuilding.swap
    monkeypatch.setattr(rebuilding, "swap", swap)
    append(store, "job", "x", "x")
    runner = Runner(store, JobEvents())
    assert runner.turn() is Turn.MORE
    swapping = Doing(lambda: rebuild_projection(store, JobEvents()))
    assert held.wait(15)
    append(store, "job", "x")
    behind = Doing(runner.turn)
    watcher.until_waiting(1)
    go_on.set()
    swapping.result()
    assert behind.result() is Turn.FOLLOWING
    assert runner.turn() is Turn.MORE
    assert counted(store) == in_log(store) == {"job": 3}
    assert counted(store, "headway_old_job_events") == {"job": 2}
    runner.close()


def test_a_log_whose_first_runner_begins_at_the_gate_is_not_taken_twice(
    store: EventStore, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebuild has taken a log that no runner ever did. Without its row the runner would begin at 0 in tables that
    have its events."""
    held, go_on = threading.Event(), threading.Event()

    def swap(*args: object) -> None:
        held.set()
        assert go_on.wait(15)
        real(*args)  # type: ignore[arg-type]

    real = rebuilding.swap
    monkeypatch.setattr(rebuilding, "swap", swap)
    other = store.for_log("other")
    other.create_log()
    append(other, "job", "x", "x")
    swapping = Doing(lambda: rebuild_projection(store, JobEvents()))
    assert held.wait(15)
    runner = Runner(other, JobEvents())
    behind = Doing(runner.turn)
    watcher.until_waiting(1)
    go_on.set()
    swapping.result()
    behind.result()
    runner.catch_up()
    assert counted(other) == {"job": 2}


def test_a_version_that_is_filled_by_two_programs_at_once_is_filled_once(store: EventStore) -> None:
    class Second(JobEvents):
        version = 2

    inside, go_on = threading.Event(), threading.Event()

    class First(Second):
        def handle(self, conn: sa.Connection, events: Events) -> None:
            inside.set()
            assert go_on.wait(15)
            super().handle(conn, events)

    append(store, "job", "x", "x")
    Runner(store, JobEvents()).catch_up()
    one, two = Runner(store, First()), Runner(store, Second())
    filling = Doing(one.turn)
    assert inside.wait(15)
    following = Doing(two.turn)
    go_on.set()
    filling.result()
    following.result()
    for runner in (one, two):
        runner.close()
    Runner(store, Second()).catch_up()
    assert counted(store) == {"job": 2}
    assert rows(store, "SELECT name FROM checkpoints ORDER BY 1") == [
        ("projection:job_events:v1:old",),
        ("projection:job_events:v2",),
    ]
