"""Scripted interleavings of consumers, appends, the relay and each other."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventstore import connections, epochs, live
from eventstore.cursor import Cursor
from eventstore.errors import LogDiverged
from eventstore.live import Elsewhere, hold, release
from eventstore.memory import InMemoryEventStore
from eventstore.store import EventStore
from tests.support.following import noted, publish, shorten, tails, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(shared_database: str) -> Iterator[EventStore]:
    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", pool_size=2) as store:
        store.create_log()
        yield store


def append(store: Any, count: int = 1) -> None:
    store.append("a", [noted() for _ in range(count)])


class Scripted:
    """A store that runs a script once, right after one of its methods has its answer and before anybody sees it."""

    def __init__(self, store: EventStore, method: str, script: Callable[[], None]) -> None:
        self._store, self._method, self._script = store, method, script
        self._done = False

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name != self._method or self._done:
            return value

        def scripted(*args: Any, **kwargs: Any) -> Any:
            answer = value(*args, **kwargs)
            if not self._done:
                self._done = True
                self._script()
            return answer

        return scripted

    def subscribe(self, **following: Any) -> Any:
        return EventStore.subscribe(self, **following)  # type: ignore[arg-type]


# Between the last page of history and the first live read, the writer appends and the relay publishes: a consumer that
# registered for live events only then would never see them.
@pytest.mark.parametrize("jobs", [None, "a"])
@pytest.mark.parametrize("with_redis", [True, False])
async def test_what_is_appended_between_history_and_live_is_not_missed(store, redis_url, with_redis, jobs):
    append(store, 3)

    def between() -> None:
        append(store, 3)
        publish(redis_url, store, 4, 6)

    method = "read_job_after_position" if jobs else "read_log"
    scripted = Scripted(store, method, between)
    async with scripted.subscribe(redis_url=redis_url if with_redis else None, jobs=jobs) as sub:
        batch = await sub.batch()
        assert ([event.position for event in batch.events], batch.caught_up) == ([1, 2, 3], True)
        assert [event.position for event in await take(sub, 3)] == [4, 5, 6]


# The cursor is resolved in the old epoch; before the page is read, the log loses its end and grows again.
async def test_a_failover_between_resolving_a_cursor_and_reading_is_found(store):
    append(store, 5)
    cursor = f"0001_{5:016d}_{store.head().hash[:4].hex()}"

    def failover() -> None:
        with closing(store.database.connect()) as conn, conn.transaction():
            shorten(conn, store.log_id(), 3)
            epochs.begin_epoch(conn, store.log_id(), *connections.identity(conn), store.projection)
        append(store, 4)

    with pytest.raises(LogDiverged) as told:
        await Scripted(store, "resolve", failover).subscribe(after=cursor).batch()
    assert (told.value.reason, told.value.common[:21]) == ("epoch", f"0002_{3:016d}")


# The same, but the consumer is on the part of the history that both epochs share: it goes on, and its cursors from the
# new epoch's first event on must be the new epoch's, or they would be refused later.
async def test_a_failover_behind_the_cursor_goes_on_with_cursors_of_the_new_epoch(store):
    append(store, 5)
    cursor = f"0001_{2:016d}_{store.read_log(1, limit=1)[0].hash[:4].hex()}"

    def failover() -> None:
        with closing(store.database.connect()) as conn, conn.transaction():
            shorten(conn, store.log_id(), 3)
            epochs.begin_epoch(conn, store.log_id(), *connections.identity(conn), store.projection)
        append(store, 2)

    async with Scripted(store, "resolve", failover).subscribe(after=cursor) as sub:
        batch = await sub.batch()
        assert [event.position for event in batch.events] == [3, 4, 5, 6]
    assert batch.cursor.startswith(f"0002_{6:016d}_")
    assert store.resolve(batch.cursor)[1] == 6


# The head is asked for; before the answer arrives, more is appended and read: the answer is old, the log not shorter.
async def test_an_old_answer_about_the_head_is_no_divergence(store):
    append(store, 3)
    scripted = Scripted(store, "head", partial(append, store, 5))
    async with scripted.subscribe() as sub:
        assert [event.position for event in await take(sub, 8)] == list(range(1, 9))
        assert await sub.batch(0.02) is None
    assert tails() == []


# A reads for all and is cancelled in the midst of it; B waits on A. Nobody reads any more, unless B takes over.
@pytest.mark.parametrize("with_redis", [True, False])
async def test_when_the_one_who_reads_leaves_another_takes_over(store, redis_url, with_redis):
    url = redis_url if with_redis else None
    subs = [store.subscribe(redis_url=url) for _ in range(3)]
    for sub in subs:
        assert (await sub.batch()).caught_up
    tail = tails()[0]
    tasks = []
    for number, sub in enumerate(subs):
        tasks.append(asyncio.ensure_future(sub.batch()))
        while not tail._reading or len(tail._waiting) < number:
            await anyio.sleep(0)
    for task in tasks[:2]:  # the reader, and one of those who might take over, in the same moment
        task.cancel()
    await asyncio.wait(tasks[:2])
    append(store)
    publish(redis_url, store, 1, 1)
    assert [event.position for event in (await tasks[2]).events] == [1]
    for sub in subs:
        await sub.aclose()


# Many are cancelled at random moments while events flow; each asks again and must see every event once.
async def test_being_cancelled_at_any_moment_loses_and_repeats_nothing(store, redis_url):
    total = 120

    async def follow(pause: float) -> list[int]:
        seen: list[int] = []
        async with store.subscribe(redis_url=redis_url) as sub:
            while len(seen) < total:
                with anyio.move_on_after(pause):
                    batch = await sub.batch()
                    seen += [event.position for event in batch.events]
        return seen

    results: list[list[int]] = []

    async def run(pause: float) -> None:
        results.append(await follow(pause))

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(run, 0.001 + number * 0.0007)
        for start in range(0, total, 10):
            await anyio.to_thread.run_sync(append, store, 10)
            await anyio.to_thread.run_sync(publish, redis_url, store, start + 1, start + 10)
    assert results == [list(range(1, total + 1))] * 12


# A waits at 3. B comes from a page of PostgreSQL that is far beyond the ring. A must neither hang nor skip.
async def test_a_consumer_far_ahead_moves_the_ring_and_leaves_nobody_behind():
    store = InMemoryEventStore()
    append(store, 3)
    tail = hold(store, redis_url=None, listen=False)
    here = Cursor(3, 1, store.head().hash[:4].hex())
    waiting = asyncio.ensure_future(tail.after(here, tail.life))
    while not tail._reading:
        await anyio.sleep(0)
    other = asyncio.ensure_future(tail.after(here, tail.life))
    while not tail._waiting:
        await anyio.sleep(0)
    tail._look_at = float("inf")
    for _ in range(3):
        store._shared.listeners.clear()  # nobody tells the bell
        append(store, 1_000)
    there = Cursor(3_003, 1, store.head().hash[:4].hex())
    ahead = asyncio.ensure_future(tail.after(there, tail.life))
    assert await other is Elsewhere.BEHIND
    assert await waiting is Elsewhere.BEHIND
    append(store, 1)
    assert [event.position for event in await ahead] == [3_004]
    await release(tail)


# The thread that reads for a consumer is at work when the consumer is cancelled and the store is closed.
async def test_a_cancelled_consumer_gives_its_connection_back(shared_database, store):
    append(store, 5)
    for _ in range(20):
        async with store.subscribe() as sub:
            with anyio.move_on_after(0.0005):
                await sub.batch()
    pool = store.database.engine.pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_the_ring_keeps_to_its_limits(monkeypatch):
    monkeypatch.setattr(live, "RING", 100)
    store = InMemoryEventStore()
    async with store.subscribe(after="now") as sub:
        await sub.batch()
        for _ in range(30):
            append(store, 10)
            await take(sub, 10)
        tail = tails()[0]
        assert len(tail._ring) <= 100
        assert tail._last - len(tail._ring) + 1 == tail._ring[0].position
        monkeypatch.setattr(live, "RING_BYTES", 5_000)
        append(store, 10)
        await take(sub, 10)
        assert tail._bytes <= 5_000
        assert tail._bytes == sum(live.EVENT_BYTES + len(event.data_json) for event in tail._ring)
