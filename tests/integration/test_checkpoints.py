"""Named consumers on a real PostgreSQL: checkpoints, at least once, exactly once, resets, kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row

from eventstore.checkpoints import Checkpoints
from eventstore.errors import (
    CheckpointMoved,
    InvalidCursor,
    InvalidFilter,
    LogDiverged,
    NoSuchConsumer,
    StoreUnavailable,
)
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from tests.support.following import noted, shorten, tails, until_idle
from tests.support.sessions import Watcher, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, pool_size=4) as store:
        store.create_log()
        with store.database.session() as conn:
            conn.execute("CREATE TABLE effects (id serial PRIMARY KEY, position bigint)")
        yield store


@pytest.fixture
def checkpoints(store: EventStore) -> Checkpoints:
    return Checkpoints(store)


def cursor(store: EventStore, position: int) -> str:
    return f"0001_{position:016d}_{store.read_log(position - 1, limit=1)[0].hash[:4].hex()}"


def effects(store: EventStore) -> list[int]:
    with store.database.session() as conn:
        return [row[0] for row in conn.execute("SELECT position FROM effects ORDER BY id").fetchall()]


def transaction(store: EventStore) -> Any:
    return psycopg.connect(store.database.url)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_read_back_as_it_was_saved(store, checkpoints):
    store.append("a", [noted() for _ in range(3)])
    assert checkpoints.read("billing") is None
    assert checkpoints.save("billing", cursor(store, 2))
    saved = checkpoints.read("billing")
    assert (saved.name, saved.position, saved.cursor) == ("billing", 2, cursor(store, 2))


def test_a_save_moves_forwards_only(store, checkpoints):
    store.append("a", [noted() for _ in range(3)])
    assert checkpoints.save("billing", cursor(store, 2))
    assert not checkpoints.save("billing", cursor(store, 1))
    assert not checkpoints.save("billing", cursor(store, 2))
    assert checkpoints.save("billing", cursor(store, 3))
    assert checkpoints.read("billing").position == 3


def test_a_place_without_a_hash_is_not_saved(checkpoints):
    for bare in ("-1", "now", "5", "abc"):
        with pytest.raises(InvalidCursor):
            checkpoints.save("billing", bare)


def test_the_lag_is_told_in_events_and_in_seconds(store, checkpoints):
    store.append("a", [noted() for _ in range(3)])
    checkpoints.create("all")
    checkpoints.create("none", "now")
    checkpoints.create("some", 1)
    lags = {lag.name: lag for lag in checkpoints.list()}
    assert [(name, lag.behind, lag.head, lag.on_history) for name, lag in lags.items()] == [
        ("all", 3, 3, True), ("none", 0, 3, True), ("some", 2, 3, True)
    ]  # fmt: skip
    assert lags["none"].seconds == 0
    assert lags["all"].seconds >= lags["some"].seconds > 0


def test_a_consumer_whose_history_is_gone_is_shown(store, checkpoints):
    store.append("a", [noted() for _ in range(5)])
    checkpoints.create("lost", 4)
    checkpoints.create("fine", 2)
    with store.database.session() as conn, conn.transaction():
        shorten(conn, store.log_id(), 3)
    store.append("a", [noted() for _ in range(5)])
    assert {lag.name: lag.on_history for lag in checkpoints.list()} == {"fine": True, "lost": False}


def test_a_reset_goes_back_and_forth_but_stays_on_the_history(store, checkpoints):
    store.append("a", [noted() for _ in range(5)])
    checkpoints.create("billing", "now")
    for to, position in ((cursor(store, 2), 2), ("-1", 0), ("now", 5), (3, 3)):
        assert checkpoints.reset("billing", to).position == position
        assert checkpoints.read("billing").position == position
    assert checkpoints.read("billing").cursor == cursor(store, 3)
    for wrong, error in (("0001_0000000000000002_00000000", LogDiverged), (6, LogDiverged), ("x", InvalidCursor)):
        with pytest.raises(error):
            checkpoints.reset("billing", wrong)
    with pytest.raises(NoSuchConsumer):
        checkpoints.reset("nobody", 0)
    assert checkpoints.read("billing").position == 3


def test_a_deleted_consumer_is_gone(checkpoints):
    checkpoints.create("billing")
    checkpoints.delete("billing")
    assert checkpoints.read("billing") is None
    with pytest.raises(NoSuchConsumer):
        checkpoints.delete("billing")


@pytest.mark.parametrize("name", ["x" * 200, "计费 系统", "a b", "é", "?"])
def test_a_name_may_be_of_any_language(checkpoints, name):
    assert checkpoints.create(name).name == name
    assert [lag.name for lag in checkpoints.list()] == [name]


@pytest.mark.parametrize("name", ["", "x" * 201, " a", "a ", "a\n", "a\tb", "\x00", "\x85x", 7, "relay:redis-streams"])
def test_any_other_name_and_a_relays_is_refused(store, checkpoints, name):
    for call in (checkpoints.create, checkpoints.delete, store.consume):
        with pytest.raises(InvalidFilter, match="consumer"):
            call(name)


def test_consumers_of_another_log_are_others(store, checkpoints):
    other = store.for_log("other")
    other.create_log()
    checkpoints.create("billing")
    assert Checkpoints(other).read("billing") is None


# -- with the effect --------------------------------------------------------------------------------------------------


def test_effect_and_checkpoint_commit_together_or_not_at_all(store, checkpoints):
    store.append("a", [noted() for _ in range(3)])
    at = checkpoints.create("billing").cursor
    with transaction(store) as conn:
        conn.execute("INSERT INTO effects (position) VALUES (1)")
        checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
    with pytest.raises(ZeroDivisionError), transaction(store) as conn:
        conn.execute("INSERT INTO effects (position) VALUES (2)")
        checkpoints.save_in(conn, "billing", cursor(store, 2), expected=cursor(store, 1))
        raise ZeroDivisionError
    assert (effects(store), checkpoints.read("billing").position) == ([1], 1)


def test_sqlalchemy_and_rows_as_dictionaries_will_do(store, checkpoints):
    store.append("a", [noted() for _ in range(3)])
    at = checkpoints.create("billing").cursor
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(store.database.url))
    with engine.begin() as conn:
        conn.execute(sa.text("INSERT INTO effects (position) VALUES (1)"))
        checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
    with engine.connect() as conn, pytest.raises(ValueError, match="open a transaction"):
        checkpoints.save_in(conn, "billing", cursor(store, 2), expected=cursor(store, 1))
    engine.dispose()
    with psycopg.connect(store.database.url, row_factory=dict_row) as conn, pytest.raises(CheckpointMoved):
        checkpoints.save_in(conn, "billing", cursor(store, 3), expected=cursor(store, 2))
    assert checkpoints.read("billing").position == 1


def test_without_a_transaction_nothing_is_saved(store, checkpoints):
    store.append("a", [noted()])
    at = checkpoints.create("billing").cursor
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        with pytest.raises(ValueError, match="open a transaction"):
            checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
        with conn.transaction():
            checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
    assert checkpoints.read("billing").position == 1


def test_of_two_processes_with_one_name_one_is_told(store, checkpoints):
    # B waits for A's row, sees that A moved it, and loses its effect with its transaction.
    store.append("a", [noted() for _ in range(2)])
    at = checkpoints.create("billing").cursor
    told: list[BaseException] = []

    def second() -> None:
        try:
            with transaction(store) as conn:
                conn.execute("INSERT INTO effects (position) VALUES (1)")
                checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
        except CheckpointMoved as error:
            told.append(error)

    with transaction(store) as conn:
        conn.execute("INSERT INTO effects (position) VALUES (1)")
        checkpoints.save_in(conn, "billing", cursor(store, 1), expected=at)
        thread = threading.Thread(target=second)
        thread.start()
        with psycopg.connect(store.database.url, autocommit=True) as watch:
            while not watch.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
                pass
    thread.join()
    assert [(error.expected, error.actual) for error in told] == [(0, 1)]
    assert effects(store) == [1]


# -- consumers --------------------------------------------------------------------------------------------------------


async def test_a_consumer_goes_on_where_its_name_left_off(store):
    store.append("a", [noted() for _ in range(5)])
    seen = []
    async for event in store.consume("billing"):
        seen.append(event.position)
        if len(seen) == 3:
            break
    await ended(store)
    async for event in store.consume("billing"):
        seen.append(event.position)
        if event.position == 5:
            break
    assert seen == [1, 2, 3, 3, 4, 5]  # the third was not finished: nobody asked for the next


async def test_a_new_name_begins_where_it_is_told(store):
    store.append("a", [noted() for _ in range(5)])
    async for event in store.consume("late", after=3):
        assert event.position == 4
        break
    consumer = aiter(store.consume("later", after="now"))
    first = asyncio.ensure_future(anext(consumer))
    while Checkpoints(store).read("later") is None:
        await anyio.sleep(0.001)
    await anyio.to_thread.run_sync(store.append, "a", [noted()])
    assert (await first).position == 6
    await consumer.aclose()


async def test_what_was_handled_is_saved_while_the_consumer_waits(store):
    store.append("a", [noted() for _ in range(3)])
    checkpoints = Checkpoints(store)
    consumer = aiter(store.consume("billing", save_every=0.01, types=["job.noted"]))
    for _ in range(3):
        await anext(consumer)
    waiting = asyncio.ensure_future(anext(consumer))
    while (await anyio.to_thread.run_sync(checkpoints.read, "billing")).position != 3:
        await anyio.sleep(0.001)
    await anyio.to_thread.run_sync(store.append, "a", [noted()])
    assert (await waiting).position == 4
    await consumer.aclose()
    assert checkpoints.read("billing").position == 3


async def test_a_consumer_whose_save_hangs_can_be_ended(store):
    store.append("a", [noted() for _ in range(2)])
    consumer = aiter(store.consume("billing", save_every=0.0))
    await anext(consumer)
    watcher = Watcher(store.database.url)
    with transaction(store) as holder:
        holder.execute("SELECT 1 FROM checkpoints WHERE name = 'billing' FOR UPDATE")
        waiting = asyncio.ensure_future(anext(consumer))
        await anyio.to_thread.run_sync(watcher.until_waiting)
        waiting.cancel()
        ended, _ = await asyncio.wait([waiting], timeout=15)
        assert ended, "the consumer waits for its save"
    pool: Any = store.database.engine.pool
    wait_until(lambda: pool.checkedout() == 0, "the save is over")
    watcher.close()


async def test_a_save_whose_answer_got_lost_is_not_taken_for_somebody_elses(store, monkeypatch):
    store.append("a", [noted() for _ in range(4)])
    consumer = store.consume("billing", save_every=0.0)
    move, lost = consumer.checkpoints.move, []

    def losing(*args: Any, **kwargs: Any) -> None:
        move(*args, **kwargs)
        if not lost:
            lost.append(args)
            raise StoreUnavailable("the answer got lost")

    monkeypatch.setattr(consumer.checkpoints, "move", losing)
    iteration = aiter(consumer)
    assert [(await anext(iteration)).position for _ in range(4)] == [1, 2, 3, 4]
    await iteration.aclose()
    assert lost
    assert Checkpoints(store).read("billing").position == 3


async def test_the_checkpoint_passes_what_the_filter_left_out(store):
    store.append("other", [noted() for _ in range(7)])
    consumer = aiter(store.consume("billing", jobs="mine", save_every=0.0))
    waiting = asyncio.ensure_future(anext(consumer))
    checkpoints = Checkpoints(store)
    while (found := checkpoints.read("billing")) is None or found.position != 7:
        await anyio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_crash_between_effect_and_save_repeats_the_effect_once_but_not_with_save_in(store):
    store.append("a", [noted() for _ in range(3)])

    async def run(name: str, crash: bool) -> None:
        consumer = store.consume(name, save_every=0.0)
        async for event in consumer:
            with transaction(store) as conn:
                conn.execute("INSERT INTO effects (position) VALUES (%s)", (event.position,))
                if name == "exactly":
                    consumer.save_in(conn)
            if crash and event.position == 2:
                raise ZeroDivisionError
            if event.position == 3:
                break

    for name, expected in (("at-least", [1, 2, 2, 3]), ("exactly", [1, 2, 3])):
        with pytest.raises(ZeroDivisionError):
            await run(name, crash=True)
        await ended(store)
        await run(name, crash=False)
        await ended(store)
        assert effects(store) == expected
        with store.database.session() as conn:
            conn.execute("TRUNCATE effects")


async def test_an_asynchronous_connection_will_do_too(store):
    store.append("a", [noted() for _ in range(2)])
    consumer = store.consume("billing")
    async with await psycopg.AsyncConnection.connect(store.database.url) as conn:
        async for event in consumer:
            await conn.execute("INSERT INTO effects (position) VALUES (%s)", (event.position,))
            await consumer.save_in_async(conn)
            await conn.commit()
            if event.position == 2:
                break
    assert (effects(store), Checkpoints(store).read("billing").position) == ([1, 2], 2)


async def test_a_reset_is_told_to_the_consumer_that_runs(store):
    store.append("a", [noted() for _ in range(5)])
    consumer = aiter(store.consume("billing", save_every=0.0))
    await anext(consumer)
    await anext(consumer)
    Checkpoints(store).reset("billing", "-1")
    with pytest.raises(CheckpointMoved) as told:
        await anext(consumer)
    assert (told.value.expected, told.value.actual) == (1, 0)
    assert Checkpoints(store).read("billing").position == 0


async def test_a_consumer_beyond_a_restored_log_is_told_the_last_common_cursor(store):
    store.append("a", [noted() for _ in range(5)])
    Checkpoints(store).create("billing", "now")
    with store.database.session() as conn, conn.transaction():
        shorten(conn, store.log_id(), 3)
    with pytest.raises(LogDiverged) as told:
        await anext(aiter(store.consume("billing")))
    Checkpoints(store).reset("billing", told.value.common)
    assert Checkpoints(store).read("billing").position == 3


async def ended(store: EventStore) -> None:
    """Wait until what a loop left behind is closed: that happens in the event loop, soon after it."""
    while tails():
        await anyio.sleep(0.001)


# -- kill -9 ----------------------------------------------------------------------------------------------------------

CONSUMER = """
import sys, anyio, psycopg
from eventstore.store import EventStore

async def main(url, last, redis_url):
    store = EventStore(url)
    consumer = store.consume("billing", redis_url=redis_url or None)
    with psycopg.connect(url) as conn:
        async for event in consumer:
            conn.execute("INSERT INTO effects (position) VALUES (%s)", (event.position,))
            consumer.save_in(conn)
            conn.commit()
            if event.position == last:
                return

anyio.run(main, sys.argv[1], int(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize("live", ["notify", "redis"])
def test_a_consumer_that_is_killed_has_each_effect_exactly_once(store, database_url, redis_url, live):
    with ExitStack() as stack:
        if live == "redis":
            stack.callback(until_idle, store)
            stack.enter_context(start_relay(Relay(store, [RedisStreams(redis_url)])))
        kill_and_check(store, database_url, redis_url if live == "redis" else "")


def kill_and_check(store: EventStore, database_url: str, redis_url: str) -> None:
    total = 600
    done = threading.Event()

    def write() -> None:
        for _ in range(total // 20):
            store.append("a", [noted() for _ in range(20)])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", CONSUMER, database_url, str(total), redis_url])
        if kills < 3:
            reached = len(effects(store)) + 40  # killed wherever it is when it has done some more
            while process.poll() is None and len(effects(store)) < reached:
                pass
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    writer.join()
    assert kills == 3
    assert effects(store) == list(range(1, total + 1))
