"""Following without Redis: NOTIFY is a hint, polling the floor, PostgreSQL may go away and come back."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from eventstore import wakeup
from eventstore.errors import LogDiverged, NoSuchLog, StoreUnavailable
from eventstore.migrate import migrate
from eventstore.store import EventStore
from eventstore.subscription import Subscription
from eventstore.wakeup import Bell, bell
from eventstore.wire import cursor_of
from tests.support.cluster import cluster
from tests.support.following import noted, shorten, tails, take

pytestmark = pytest.mark.anyio

LISTENING = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'headway listen' AND datname = current_database()"
)


@pytest.fixture
def log() -> str:
    return f"log-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def store(shared_database: str, log: str) -> Iterator[EventStore]:
    """What follows; what appends is another store, so that only the servers carry news."""
    with EventStore(shared_database, log=log, pool_size=3) as store:
        store.create_log()
        yield store


@pytest.fixture
def writer(store: EventStore, shared_database: str, log: str) -> Iterator[EventStore]:
    with EventStore(shared_database, log=log, pool_size=2) as store:
        yield store


async def append(store: EventStore, count: int = 1) -> None:
    await anyio.to_thread.run_sync(store.append, "a", [noted() for _ in range(count)])


async def waiting_at_the_end(store: EventStore, **following: Any) -> Subscription:
    sub = store.subscribe(**following)
    while not (batch := await sub.batch()) or not batch.caught_up:
        pass
    return sub


async def positions(sub: Subscription, count: int) -> list[int]:
    return [event.position for event in await take(sub, count)]


async def one(url: str, statement: str, *args: Any) -> list[Any]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        found = await conn.execute(statement, args)
        return [row[0] for row in await found.fetchall()] if found.description else []


# -- NOTIFY -----------------------------------------------------------------------------------------------------------


async def test_one_connection_listens_for_all_subscribers_and_is_closed_with_the_last(store, writer):
    subs = [await waiting_at_the_end(store) for _ in range(10)]
    async with anyio.create_task_group() as tasks:
        for sub in subs:
            tasks.start_soon(positions, sub, 1)
        while not await one(store.database.url, LISTENING):
            await anyio.sleep(0.001)
        assert len(await one(store.database.url, LISTENING)) == 1
        await append(writer)
    for sub in subs:
        await sub.aclose()
    while await one(store.database.url, LISTENING):
        await anyio.sleep(0.001)


async def test_a_listening_connection_that_dies_is_opened_again(store, writer):
    async with await waiting_at_the_end(store) as sub:
        for at in range(1, 5):
            await append(writer)
            assert await positions(sub, 1) == [at]
            await one(
                store.database.url,
                f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid IN ({LISTENING})",
            )
        waiting = asyncio.ensure_future(sub.batch())
        while not await one(store.database.url, LISTENING):
            await anyio.sleep(0.001)
        await append(writer)
        assert [event.position for event in (await waiting).events] == [5]


async def test_losing_every_notification_costs_latency_and_no_event(store, writer, monkeypatch):
    monkeypatch.setattr(wakeup._Listener, "_tell", lambda self, payload: None)
    lost = []
    monkeypatch.setattr(wakeup._Listener, "lost", lambda self, why: lost.append(why))
    async with await waiting_at_the_end(store) as sub:
        for at in range(1, 7):
            await append(writer)
            assert await positions(sub, 1) == [at]
    assert any("told nothing" in why for why in lost)


async def test_behind_a_transaction_pooler_nobody_listens(shared_database, writer, log):
    with EventStore(shared_database, log=log, pool_size=2, pgbouncer=True) as store:
        async with await waiting_at_the_end(store) as sub:
            await append(writer)
            assert await positions(sub, 1) == [1]
            assert await one(shared_database, LISTENING) == []


async def test_a_bell_rings_for_its_log_and_for_what_lies_beyond(shared_database):
    async with bell(shared_database, 7) as told, bell(shared_database, 8) as other:
        assert await told.wait()  # it listens from now on; what was appended before is for the reader to find
        await other.wait(limit=0)

        async def notify(payload: str) -> None:
            await one(shared_database, "SELECT pg_notify('headway', %s)", payload)

        await notify("7 12")
        assert await told.wait(after=11)
        assert not await told.wait(after=11, limit=0.05)  # said once
        await notify("7 12")
        assert not await told.wait(after=12, limit=0.05)
        for forged in ("", "7", "x 12", "7 x", "7 " + "9" * 60, "-7 12", "７ 12"):
            await notify(forged)
        assert not await told.wait(limit=0.05)
        await notify("7 13")
        await other.wait(limit=0.05)
        assert await told.wait(after=12), "what rang between two calls counts"


async def test_a_bell_without_a_database_polls(caplog):
    told = Bell("postgresql:///x?host=/nowhere", 1)
    assert not await told.wait(limit=0.01)
    told.close()
    async with bell("postgresql://u:geheim@/x?host=/nowhere", 1) as told:
        for _ in range(3):
            assert not await told.wait()
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1
    assert "geheim" not in caplog.text


class Counting:
    """A store that counts the questions it is asked."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name not in ("head", "resolve", "read_log", "read_job", "read_job_after_position"):
            return value

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] += 1
            return value(*args, **kwargs)

        return counted

    def subscribe(self, **following: Any) -> Subscription:
        return EventStore.subscribe(self, **following)  # type: ignore[arg-type]


async def test_many_who_come_back_at_once_are_served_from_memory(store, writer):
    counting = Counting(store)
    async with counting.subscribe(after="now") as stays:
        await stays.batch()
        await append(writer, 300)
        cursors = [cursor_of(event, 1) for event in await take(stays, 300)]
        before = counting.asked.copy()

        async def come_back(number: int) -> None:
            async with counting.subscribe(after=cursors[number], jobs="a" if number % 2 else None) as sub:
                assert await positions(sub, 304 - number) == list(range(number + 2, 306))

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(come_back, number)
            for _ in range(5):
                await append(writer)
        asked = counting.asked - before
        assert asked["resolve"] == asked["read_job_after_position"] == 0
        assert sum(asked.values()) < 40, asked


# -- PostgreSQL away and back -----------------------------------------------------------------------------------------


async def test_postgres_restarts_and_the_consumers_go_on(caplog):
    with cluster() as own:
        await anyio.to_thread.run_sync(migrate, own.url)
        with EventStore(own.url, pool_size=3) as store:
            store.create_log()
            await append(store, 3)
            subs = [await waiting_at_the_end(store) for _ in range(5)]
            consumer = aiter(store.consume("billing", save_every=0.0))
            assert [(await anext(consumer)).position for _ in range(3)] == [1, 2, 3]
            seen: list[list[int]] = []

            async def follow(sub: Subscription) -> None:
                seen.append(await positions(sub, 2))
                await sub.aclose()

            async with anyio.create_task_group() as tasks:
                for sub in subs:
                    tasks.start_soon(follow, sub)
                next_one = asyncio.ensure_future(anext(consumer))
                await anyio.to_thread.run_sync(own.stop_immediately)
                while "PostgreSQL is away" not in caplog.text:
                    await anyio.sleep(0.001)
                await anyio.to_thread.run_sync(own.start)
                await append(store, 2)
            assert seen == [[4, 5]] * 5
            assert (await next_one).position == 4
            await consumer.aclose()
    told = [record.getMessage() for record in caplog.records if record.name == "headway.live"]
    assert ["away" in line for line in told] == [True, False], told


async def test_who_does_not_want_to_wait_for_postgres_is_told(store, servers):
    async with await waiting_at_the_end(store, give_up_after=0.2) as sub:
        name = psycopg.conninfo.conninfo_to_dict(store.database.url)["dbname"]
        with psycopg.connect(servers[0], autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                with pytest.raises(StoreUnavailable):
                    await sub.batch()
                with pytest.raises(StoreUnavailable):
                    await store.subscribe(give_up_after=0.2).batch()
                waits = store.subscribe()
                assert await waits.batch(timeout=0.3) is None
                await waits.aclose()
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


async def test_a_database_that_was_not_migrated_yet_is_waited_for(empty_database_url, caplog):
    with EventStore(empty_database_url) as store:
        waiting = asyncio.ensure_future(store.subscribe().batch())
        while "headway migrate" not in caplog.text:
            await anyio.sleep(0.001)
        await anyio.to_thread.run_sync(migrate, empty_database_url)
        with pytest.raises(NoSuchLog):
            await waiting
    assert tails() == []


# -- another history without a new epoch ------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", [True, False])
async def test_a_log_that_was_rewritten_under_a_consumer_is_found_by_its_hashes(store, writer, listen):
    await append(writer, 5)
    async with await waiting_at_the_end(store, listen=listen) as sub:
        with store.database.session() as conn, conn.transaction():
            shorten(conn, store.log_id(), 3)
        await append(writer, 4)  # positions 4 to 7: longer than what the consumer knows, and another 4 and 5
        with pytest.raises(LogDiverged) as told:
            await take(sub, 2)
        assert told.value.reason == "hash"


async def test_a_hole_in_the_database_itself_is_told(store, writer):
    await append(writer, 9)
    with store.database.session() as conn, conn.transaction():
        conn.execute("ALTER TABLE events DISABLE TRIGGER ALL")
        conn.execute("DELETE FROM events WHERE log_id = %s AND position = 6", (store.log_id(),))
        conn.execute("ALTER TABLE events ENABLE TRIGGER ALL")
    for following in ({}, {"jobs": "a"}):
        sub = store.subscribe(after=2, **following)
        with pytest.raises(LogDiverged) as told:
            await take(sub, 7)
        assert told.value.reason == "hole"
