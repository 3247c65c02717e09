"""What the store in memory has beyond the contract: a clock, and failovers on demand."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest

from eventstore.chain import GENESIS
from eventstore.errors import LogDiverged
from eventstore.events import LOG_JOB, NewEvent
from eventstore.memory import InMemoryEventStore
from projections.progress import Progress


def progressed(percent: float, **fields: Any) -> NewEvent:
    return NewEvent(type="step.progressed", step="s", data={"percent": percent}, **fields)


@pytest.fixture
def store() -> InMemoryEventStore:
    store = InMemoryEventStore(projection=Progress())
    store.append("a", [NewEvent(type="job.planned", data={"steps": [{"step": "s"}]})])
    for percent in (10, 20, 30, 40):
        store.append("a", [progressed(percent)])
    return store


def test_its_log_exists_from_the_start():
    assert InMemoryEventStore(log="mine").head().name == "mine"
    assert InMemoryEventStore().create_log() is False


def test_its_clock_can_be_given():
    ticks = itertools.count(1_767_225_600_000_000, 1_000_000)
    store = InMemoryEventStore(clock=lambda: next(ticks))
    store.append("a", [NewEvent(type="job.started")])
    store.append("a", [NewEvent(type="job.completed")])
    assert [e.recorded_us for e in store.read_log()] == [1_767_225_600_000_000, 1_767_225_601_000_000]


def test_an_epoch_begins_where_the_old_one_stands(store):
    cursor = store.append("a", [progressed(50)])[0].cursor
    head = store.begin_epoch()
    assert (head.epoch, head.position) == (2, 7)
    told = store.read_log(6)[0]
    assert (told.job_id, told.type, told.version) == (LOG_JOB, "log.epoch_started", 1)
    assert told.data["common_position"] == 6
    assert store.resolve(cursor)[1] == 6
    answer = store.append("a", [progressed(60)])[0]
    assert (answer.position, answer.epoch, answer.version) == (8, 2, 7)


def test_a_failover_loses_the_tail_and_tells_who_saw_it(store):
    cursors = [f"0001_{e.position:016d}_{e.hash[:4].hex()}" for e in store.read_log()]
    lost = store.read_log(3)
    kept = store.read_log(limit=3)
    store.begin_epoch(3)
    assert store.read_log(limit=3) == kept
    assert [e.type for e in store.read_log(3)] == ["log.epoch_started"]
    assert store.resolve(cursors[2])[1] == 3
    for cursor in cursors[3:]:
        with pytest.raises(LogDiverged) as caught:
            store.resolve(cursor)
        assert caught.value.reason == "epoch"
        assert store.resolve(caught.value.common)[1] == 3
    again = store.append("a", [progressed(25, event_id=lost[0].event_id)])[0]
    assert (again.duplicate, again.applied, again.version, again.percent) == (False, True, 4, 25.0)


def test_a_failover_may_lose_everything(store):
    store.begin_epoch(0)
    assert [e.type for e in store.read_log()] == ["log.epoch_started"]
    assert store.append("a", [progressed(5)])[0].version == 1
    assert store.resolve("0002_0000000000000000_" + GENESIS[:4].hex())[1] == 0


def test_epochs_follow_each_other(store):
    store.begin_epoch(4)
    second = store.append("a", [progressed(70)])[0]
    store.begin_epoch(5)
    assert store.head().epoch == 3
    with pytest.raises(LogDiverged) as caught:
        store.resolve(second.cursor)
    assert store.resolve(caught.value.common)[1] == 5
    assert [e.version for e in store.read_job(LOG_JOB)] == [1, 2]


def test_a_cursor_of_the_first_epoch_is_held_to_all_that_was_lost_since(store):
    event = store.read_log(3)[0]
    cursor = f"0001_{event.position:016d}_{event.hash[:4].hex()}"
    store.begin_epoch(5)
    assert store.resolve(cursor)[1] == 4
    store.begin_epoch(3)
    with pytest.raises(LogDiverged) as caught:
        store.resolve(cursor)
    assert caught.value.reason == "epoch"
    assert store.resolve(caught.value.common)[1] == 3


def test_its_listener_can_be_taken_away(store):
    seen: list[int] = []
    stop = store.on_append(lambda head, events: seen.append(head.position))
    store.append("a", [progressed(50)])
    stop()
    store.append("a", [progressed(60, event_id=uuid.uuid4())])
    assert seen == [6]
