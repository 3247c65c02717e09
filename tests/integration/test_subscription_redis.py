"""Live from Redis: whatever is missing, wrong or late there comes from PostgreSQL, and nobody notices."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import psycopg
import pytest
import redis

from eventstore.errors import LogDiverged
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.subscription import Subscription
from eventstore.wire import cursor_of, encode_event, stream_key
from tests.support.following import noted, publish, shorten, tails, take, until_idle
from tests.support.raw_reader import follow
from tests.support.relays import OwnValkey, own_valkey

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(shared_database: str) -> Iterator[EventStore]:
    import uuid

    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", pool_size=3) as store:
        store.create_log()
        yield store
        until_idle(store)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as valkey:
        yield valkey


def append(store: EventStore, count: int = 1) -> None:
    store.append("a", [noted() for _ in range(count)])


async def waiting_at_the_end(store: EventStore, redis_url: str) -> Subscription:
    """A subscription that has everything and reads from Redis next."""
    sub = store.subscribe(redis_url=redis_url)
    while not (batch := await sub.batch()) or not batch.caught_up:
        pass
    return sub


async def positions(sub: Subscription, count: int) -> list[int]:
    return [event.position for event in await take(sub, count)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# -- what is missing --------------------------------------------------------------------------------------------------


async def test_a_hole_in_the_stream_is_filled_from_the_log(store, redis_url):
    append(store, 3)
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 6)
        publish(redis_url, store, 4, 5)
        publish(redis_url, store, 8, 9)
        assert await positions(sub, 6) == [4, 5, 6, 7, 8, 9]
        assert tails()[0]._stream.up


async def test_a_hole_of_many_pages_is_filled_too(store, redis_url):
    async with await waiting_at_the_end(store, redis_url) as sub:
        for _ in range(4):
            append(store, 1_000)
        publish(redis_url, store, 3_990, 4_000)
        assert await positions(sub, 4_000) == list(range(1, 4_001))


async def test_after_flushall_the_stream_goes_on_without_a_gap(store, redis_url, client):
    append(store, 3)
    publish(redis_url, store, 1, 3)
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 2)
        publish(redis_url, store, 4, 5)
        assert await positions(sub, 2) == [4, 5]
        client.flushall()
        append(store, 3)
        publish(redis_url, store, 8, 8)  # the two before it were lost
        assert await positions(sub, 3) == [6, 7, 8]


async def test_what_was_trimmed_away_comes_from_the_log(store, redis_url, client):
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 50)
        publish(redis_url, store, 1, 50)
        client.xtrim(stream_key(store.log, 1), maxlen=3, approximate=False)
        assert await positions(sub, 50) == list(range(1, 51))


async def test_a_relay_that_is_dead_makes_it_slower_and_nothing_else(store, redis_url, caplog):
    append(store, 1)
    publish(redis_url, store, 1, 1)
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 3)  # nobody publishes it
        assert await positions(sub, 3) == [2, 3, 4]
        assert not tails()[0]._stream.up
        publish(redis_url, store, 2, 4)
        while not tails()[0]._stream.up:
            append(store, 1)
            at = store.head().position
            publish(redis_url, store, at, at)
            assert await positions(sub, 1) == [at]
    told = warnings(caplog)
    assert len(told) == 2, told
    assert "it ends at position 1, the log at 4" in told[0]
    assert "is back" in told[1]


# -- what is wrong ----------------------------------------------------------------------------------------------------


def forged(store: EventStore, kind: str) -> tuple[str, dict[str, Any]]:
    event, next_one = store.read_log(0, limit=2)
    good = {"job": event.job_id, "cursor": cursor_of(event, 1), "event": encode_event(event, 1)}
    return {
        "no json": ("1-0", {**good, "event": b"{"}),
        "no event": ("1-0", {"job": event.job_id, "cursor": good["cursor"]}),
        "another job": ("1-0", {**good, "job": "b"}),
        "another hash": ("1-0", {**good, "cursor": "0001_0000000000000001_00000000"}),
        "a forged hash": ("1-0", {**good, "event": encode_event(msgspec.structs.replace(event, hash=bytes(32)), 1)}),
        "another epoch": ("1-0", {**good, "cursor": good["cursor"].replace("0001", "0002", 1)}),
        "another position": ("2-0", good),
        "another event": ("1-0", {"job": "a", "cursor": cursor_of(next_one, 1), "event": encode_event(next_one, 1)}),
        "a part of a position": ("1-1", good),
        "the largest id": ("9223372036854775807-0", {"x": "y"}),
        "beyond the largest position": ("18446744073709551615-0", good),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "no json", "no event", "another job", "another hash", "another epoch", "a forged hash", "another position",
        "another event",        "a part of a position", "the largest id", "beyond the largest position",
    ],
)  # fmt: skip
async def test_an_entry_that_no_relay_wrote_is_not_believed(store, redis_url, client, kind):
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 2)
        ident, fields = forged(store, kind)
        client.xadd(stream_key(store.log, 1), fields, id=ident)
        assert await take(sub, 2) == store.read_log()
        client.delete(stream_key(store.log, 1))
        append(store, 1)
        publish(redis_url, store, 3, 3)
        assert await positions(sub, 1) == [3]


async def test_a_key_of_another_kind_and_a_server_that_refuses_are_as_no_redis(store, redis_url, client, caplog):
    client.set(stream_key(store.log, 1), "not a stream")
    secret = "geheim"
    for url in (redis_url, f"redis://:{secret}@127.0.0.1:1/0", f"unix://:{secret}@/nowhere.sock"):
        async with await waiting_at_the_end(store, url) as sub:
            append(store, 2)
            await take(sub, 2)
    assert secret not in caplog.text
    assert "Redis does not serve" in caplog.text


async def test_a_stream_that_is_ahead_of_a_shortened_log_deceives_nobody_for_long(store, redis_url):
    append(store, 3)
    publish(redis_url, store, 1, 3)
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 2)
        publish(redis_url, store, 4, 5)
        assert await positions(sub, 2) == [4, 5]
        with store.database.session() as conn, conn.transaction():
            shorten(conn, store.log_id(), 3)
        with pytest.raises(LogDiverged) as told:
            await sub.batch()
        assert told.value.reason == "ahead"
        assert told.value.common.startswith("0001_0000000000000003_")


# -- Redis away and back ----------------------------------------------------------------------------------------------


async def test_redis_is_killed_and_comes_back_and_the_stream_goes_on(store, valkey, caplog):
    with start_relay(Relay(store, [RedisStreams(valkey.url)])):
        async with await waiting_at_the_end(store, valkey.url) as sub:
            await anyio.to_thread.run_sync(append, store, 3)
            assert await positions(sub, 3) == [1, 2, 3]
            valkey.kill()
            for at in range(4, 8):
                await anyio.to_thread.run_sync(append, store, 1)
                assert await positions(sub, 1) == [at]
            assert not tails()[0]._stream.up
            await anyio.to_thread.run_sync(valkey.start)
            while not tails()[0]._stream.up:
                at += 1
                await anyio.to_thread.run_sync(append, store, 1)
                assert await positions(sub, 1) == [at]
            await anyio.to_thread.run_sync(append, store, 5)
            assert await positions(sub, 5) == list(range(at + 1, at + 6))
    told = [line for line in warnings(caplog) if "consumers read" in line]
    assert len(told) == 2, told


async def test_a_redis_that_stops_answering_is_found_out(store, valkey):
    async with await waiting_at_the_end(store, valkey.url) as sub:
        append(store, 2)
        publish(valkey.url, store, 1, 2)
        assert await positions(sub, 2) == [1, 2]
        valkey.send(signal.SIGSTOP)
        try:
            for at in range(3, 6):
                await anyio.to_thread.run_sync(append, store, 1)
                assert await positions(sub, 1) == [at]
        finally:
            valkey.send(signal.SIGCONT)
        await anyio.to_thread.run_sync(publish, valkey.url, store, 3, 5)
        while not tails()[0]._stream.up:
            at += 1
            append(store, 1)
            await anyio.to_thread.run_sync(publish, valkey.url, store, at, at)
            assert await positions(sub, 1) == [at]


async def test_a_connection_that_is_cut_is_opened_again_without_a_word(store, redis_url, client, caplog):
    async with await waiting_at_the_end(store, redis_url) as sub:
        for at in range(1, 5):
            append(store, 1)
            publish(redis_url, store, at, at)
            assert await positions(sub, 1) == [at]
            client.client_kill_filter(_type="normal", skipme=True)
        assert tails()[0]._stream.up or tails()[0]._stream._try_at == 0
    assert [line for line in warnings(caplog) if "consumers read" in line] == []


async def test_while_postgres_refuses_redis_alone_carries_what_was_published(store, redis_url, servers):
    append(store, 4)
    async with await waiting_at_the_end(store, redis_url) as sub:
        append(store, 3)
        publish(redis_url, store, 5, 7)
        name = psycopg.conninfo.conninfo_to_dict(store.database.url)["dbname"]
        with psycopg.connect(servers[0], autocommit=True) as admin:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                assert await positions(sub, 3) == [5, 6, 7]
            finally:
                admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        append(store, 1)
        assert await positions(sub, 1) == [8]


async def test_one_connection_to_redis_serves_all_subscribers_of_a_log(store, redis_url, client):
    async with anyio.create_task_group() as tasks:
        subs = [await waiting_at_the_end(store, redis_url) for _ in range(20)]
        for sub in subs:
            tasks.start_soon(positions, sub, 1)
        while not (tail := tails()[0])._reading or len(tail._waiting) < 19 or tail._stream._reader._conn is None:
            await anyio.sleep(0.001)
        blocked = [c for c in client.client_list() if c["cmd"] == "xread"]
        append(store, 1)
        publish(redis_url, store, 1, 1)
    assert len(blocked) <= 1
    for sub in subs:
        await sub.aclose()
    assert tails() == []


# -- XREAD by hand ----------------------------------------------------------------------------------------------------


def test_a_raw_reader_with_the_gap_check_misses_nothing(store, redis_url, client):
    append(store, 20)
    publish(redis_url, store, 1, 20)
    key = stream_key(store.log, 1)
    client.xtrim(key, maxlen=5, approximate=False)
    events = follow(redis_url, store, 3)
    assert [next(events)["position"] for _ in range(17)] == list(range(4, 21))
    client.flushall()
    append(store, 5)
    publish(redis_url, store, 24, 25)
    assert [next(events)["position"] for _ in range(5)] == [21, 22, 23, 24, 25]
    append(store, 1)
    later = threading.Timer(0, publish, (redis_url, store, 26, 26))
    later.start()
    assert next(events)["position"] == 26
    later.join()
    events.close()
