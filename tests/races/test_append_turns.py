"""Processes that take turns at one log: what happens between the lock and the COMMIT, scripted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from eventstore import turn
from eventstore.errors import EventIdConflict, StoreBusy, WrongExpectedVersion
from eventstore.events import NewEvent
from eventstore.log_writer import LogWriter
from eventstore.store import EventStore
from eventstore.verify import verify
from projections.progress import Progress
from tests.support.proxy import proxy_to
from tests.support.sessions import Doing, Watcher, holding_log


def noted(message: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message}, **fields)


def progressed(percent: float) -> NewEvent:
    return NewEvent(type="step.progressed", step="s", data={"percent": percent})


@pytest.fixture
def log(shared_database: str) -> str:
    name = f"log-{uuid.uuid4().hex[:12]}"
    with EventStore(shared_database, log=name, projection=Progress(), pool_size=1) as store:
        store.create_log()
    return name


@pytest.fixture
def pair(shared_database: str, log: str) -> Iterator[tuple[EventStore, EventStore]]:
    """Two stores, as two processes would have them, that know of each other: they take turns."""
    stores = [EventStore(shared_database, log=log, projection=Progress(), pool_size=2) for _ in range(2)]
    stores[1].append("other", [noted("0")])
    take_turns(stores[0])
    take_turns(stores[1])
    yield stores[0], stores[1]
    for store in stores:
        store.close()


def take_turns(store: EventStore) -> None:
    """Its next batch goes in turn: it knows the head, and that others move it."""
    store.append("mine", [noted()])
    store.committer()._writer.calm = 0


def noting(name: str, way: Any, went: list[str]) -> Any:
    def noted_way(self: Any, *args: Any) -> Any:
        went.append(name)
        return way(self, *args)

    return noted_way


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways in which the batches went, as they go."""
    went: list[str] = []
    for name in ("_fast", "_in_turn", "_careful"):
        monkeypatch.setattr(LogWriter, name, noting(name, getattr(LogWriter, name), went))
    return went


def test_who_came_while_another_had_its_turn_is_in_the_same_batch(pair, shared_database, log, ways):
    store, watcher = pair[0], Watcher(shared_database)
    batches: list[int] = []
    store.on_append(lambda head, events: batches.append(len(events)))
    with holding_log(shared_database, log):
        first = Doing(lambda: store.append("mine", [noted()]))
        watcher.until_waiting()
        calls = [store.submit(store.prepare(f"job-{n % 3}", [noted()])) for n in range(7)]
    first.result()
    assert [call.wait()[0].version for call in calls] == [1, 1, 1, 2, 2, 2, 3]
    assert batches == [8]
    assert ways == ["_in_turn"]
    assert verify(store).events == store.head().position
    watcher.close()


def test_a_job_that_another_touched_is_read_again_in_turn(pair, ways):
    """Without that its version would be taken, each time, and each batch would go a second time, the careful way."""
    first, second = pair
    for turns in range(1, 5):
        up = second.append("shared", [progressed(turns * 10)])[0]
        down = first.append("shared", [progressed(turns * 10 - 1)])[0]
        assert (up.version, up.applied) == (2 * turns - 1, True)
        assert (down.version, down.reason) == (2 * turns, "regression")
    assert set(ways) == {"_in_turn"}
    assert verify(first).events == first.head().position


def test_what_can_not_be_decided_in_turn_is_decided_by_the_careful_way(pair, ways):
    store, event = pair[0], noted("once", event_id=uuid.uuid4())
    position = store.append("mine", [event])[0].position
    again = store.append("mine", [event, noted("new")])
    assert [(a.position, a.duplicate) for a in again] == [(position, True), (position + 1, False)]
    with pytest.raises(WrongExpectedVersion):
        store.append("mine", [noted()], expected=1)
    with pytest.raises(EventIdConflict):
        store.append("mine", [noted("other", event_id=event.event_id)])
    assert ways == ["_in_turn"] + ["_in_turn", "_careful"] * 3
    assert verify(store).events == position + 1


def test_after_more_than_it_looks_at_it_goes_the_careful_way(pair, ways, monkeypatch):
    first, second = pair
    monkeypatch.setattr(turn, "FAR", 3)
    first.append("mine", [noted()])
    version = second.append("mine", [noted()] * 3)[-1].version
    assert first.append("mine", [noted()])[0].version == version + 1
    assert ways == ["_in_turn"] * 3
    second.append("mine", [noted()] * 4)
    assert first.append("mine", [noted()])[0].version == version + 6
    assert ways == ["_in_turn"] * 5 + ["_careful"]
    assert verify(first).events == first.head().position


def test_an_answer_of_a_commit_in_turn_that_was_lost_is_found_again(shared_database, log, monkeypatch):
    with (
        proxy_to(shared_database) as proxy,
        EventStore(proxy.url, log=log, projection=Progress(), pool_size=2) as store,
    ):
        take_turns(store)
        begin = turn.begin

        def begin_then_lose(*args: Any) -> Any:
            begun = begin(*args)
            proxy.lose_answers(1)
            return begun

        monkeypatch.setattr(turn, "begin", begin_then_lose)
        answers = store.append("mine", [noted("2"), noted("3")])
        assert proxy.lost.acquire(blocking=False)
        assert [(a.position, a.duplicate) for a in answers] == [(2, False), (3, False)]
        assert verify(store).events == 3


def test_a_turn_that_is_not_had_in_time_leaves_no_transaction(pair, shared_database, log):
    store = pair[0]
    with holding_log(shared_database, log), pytest.raises(StoreBusy):
        store.append("mine", [noted()])
    assert store.append("mine", [noted()])[0].version == 3
    with psycopg.connect(shared_database) as conn:
        left = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'").fetchone()
    assert left == (0,)


def test_a_turn_goes_on_after_its_statements_were_deallocated(pair, ways):
    store = pair[0]
    store.append("mine", [noted()])
    store.committer()._conn.execute("DEALLOCATE ALL")  # type: ignore[union-attr]
    assert [store.append("mine", [noted()])[0].version for _ in range(2)] == [4, 5]
    assert ways == ["_in_turn", "_in_turn", "_careful", "_in_turn"]
