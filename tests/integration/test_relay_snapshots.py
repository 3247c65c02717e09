"""The cache of snapshots beside the stream: never old while the heartbeat is there, and never in the stream's way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence

import pytest
import redis

from eventstore import connections, epochs
from eventstore.cursor import format_cursor
from eventstore.inline import NoProjection
from eventstore.publishers import Entry
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.publishers.snapshot_cache import MAX_LOADED, TTL, SnapshotCache, marker_key
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.wire import heartbeat_key, snapshot_key
from tests.support.relays import append, noted, until, until_published

HEARTBEAT = heartbeat_key("default")


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url) as made:
        made.create_log("default")
        yield made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as made:
        yield made


class Snapshots:
    """Makes snapshots from the log itself; can be held up."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []

    def __call__(self, jobs: Sequence[str]) -> Mapping[str, bytes]:
        self.open.wait(30)
        self.asked += jobs
        head = self._store.head()
        cursor = format_cursor(head.epoch, head.position, head.hash.hex()[:8])
        return {
            job: json.dumps({"job": job, "version": version(self._store, job), "cursor": cursor}).encode()
            for job in jobs
            if not job.startswith("unknown")
        }


def version(store: EventStore, job: str) -> int:
    return len(store.read_job(job))


@pytest.fixture
def snapshots(store: EventStore) -> Snapshots:
    return Snapshots(store)


def cached(client: redis.Redis, job: str) -> int:
    """The version of the cached snapshot; 0 for none."""
    raw = client.get(snapshot_key("default", job))
    return json.loads(raw)["version"] if raw else 0


def test_each_job_that_changes_is_cached_in_its_newest_version(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    append(store, 2, "job:0")
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        for n in range(1, 4):
            append(store, n, f"job:{n}")
        until(lambda: [cached(client, f"job:{n}") for n in range(4)] == [2, 1, 2, 3])
        append(store, 5, "job:2")
        until(lambda: cached(client, "job:2") == 7)
    assert 0 < client.ttl(snapshot_key("default", "job:1")) <= TTL


def test_many_changes_of_a_job_are_few_snapshots_and_the_last_one_counts(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        for _ in range(300):
            store.append("job:1", [noted()])
        until(lambda: cached(client, "job:1") == 300)
    assert len(snapshots.asked) < 150


def test_a_slow_snapshot_holds_up_neither_the_stream_nor_lets_the_heartbeat_go_on(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 3)
        until(lambda: cached(client, "job:1") == 3 and client.exists(HEARTBEAT))
        snapshots.open.clear()
        append(store, 3)
        until_published(client, 6)
        client.delete(HEARTBEAT)
        until_published(client, append(store, 3))
        assert (cached(client, "job:1"), client.exists(HEARTBEAT)) == (3, 0)
        snapshots.open.set()
        until(lambda: cached(client, "job:1") == 9 and client.exists(HEARTBEAT))
    assert 0 < client.ttl(HEARTBEAT) <= 5


def test_without_snapshots_the_heartbeat_tells_that_the_stream_is_caught_up(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, append(store, 3))
        until(lambda: 0 < client.ttl(HEARTBEAT) <= 5)


def test_what_one_relay_left_undone_the_next_one_does(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    """The stream has the events already; the snapshots are still those from before them."""
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 3)
        until(lambda: cached(client, "job:1") == 3)
        snapshots.open.clear()
        until_published(client, append(store, 3))
    snapshots.open.set()
    assert cached(client, "job:1") == 3
    client.delete(HEARTBEAT)
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        until(lambda: client.exists(HEARTBEAT))
        assert cached(client, "job:1") == 6


def test_a_job_without_a_snapshot_is_dropped_from_the_cache(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 1, "job:1")
        until(lambda: cached(client, "job:1") == 1)
        client.set(snapshot_key("default", "unknown:1"), "old")
        append(store, 1, "unknown:1")
        until(lambda: not client.exists(snapshot_key("default", "unknown:1")))


def test_too_many_jobs_at_once_are_fresh_or_not_there(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    jobs = [f"job:{n}" for n in range(2 * MAX_LOADED)]
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 1, "first")
        until(lambda: cached(client, "first") == 1 and client.exists(HEARTBEAT))
        for job in jobs:
            client.set(snapshot_key("default", job), json.dumps({"version": -1}))
        store.append_many([(job, noted()) for job in jobs])
        last = store.head().hash.hex()[:8]
        until(lambda: (client.get(marker_key("default")) or b"").decode().endswith(last))
    assert {cached(client, job) for job in jobs} == {0, 1}


def test_a_lost_cache_is_made_again_as_jobs_change(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 3)
        until(lambda: cached(client, "job:1") == 3)
        client.flushall()
        append(store, 3)
        until(lambda: cached(client, "job:1") == 6 and client.exists(HEARTBEAT))


def test_a_new_epoch_clears_snapshots_of_a_history_that_may_be_lost(
    store: EventStore, client: redis.Redis, redis_url: str, snapshots: Snapshots
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)], snapshots=snapshots)):
        append(store, 3)
        until(lambda: cached(client, "job:1") == 3)
        client.set(snapshot_key("default", "job:lost"), json.dumps({"version": 99}))
        with connections.Database(store.database.url).connect() as conn, conn.transaction():
            epochs.begin_epoch(conn, store.log_id(), "another", "00000002", NoProjection())
        until(lambda: (client.get(marker_key("default")) or b"").startswith(b"0002_"))
    assert cached(client, "job:lost") == 0


@pytest.mark.anyio
async def test_a_relay_that_was_asleep_puts_no_old_snapshot_over_a_new_one(redis_url: str, client: redis.Redis) -> None:
    now = {"job:1": b'{"version":1}'}
    awake, asleep = (SnapshotCache(redis_url, lambda jobs: now) for _ in range(2))

    def entries(position: int) -> list[Entry]:
        return [Entry(position, "job:1", format_cursor(1, position, "00000000"), b"")]

    tail = await awake.publish(await awake.look("default", 1), entries(1))
    await asleep.look("default", 1)
    now["job:1"] = b'{"version":3}'
    await awake.publish(tail, entries(3))
    now["job:1"] = b'{"version":2}'
    found = await asleep.publish(tail, entries(2))
    assert found.cursor == format_cursor(1, 3, "00000000")
    assert cached(client, "job:1") == 3
    await awake.aclose()
    await asleep.aclose()
