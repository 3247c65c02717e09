"""The relay on a real PostgreSQL and Valkey, while nothing is wrong; faults are in tests/acceptance."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import ClassVar

import anyio
import msgspec
import psycopg
import pytest
import redis

from eventstore import connections, epochs, relay_leader
from eventstore.errors import NoSuchLog
from eventstore.inline import NoProjection
from eventstore.publishers import Entry, PublisherUnavailable, Tail
from eventstore.publishers.memory import InMemory
from eventstore.publishers.redis_streams import EXPIRE_OLD, RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.relay_pages import PAGE, Pages
from eventstore.store import EventStore
from eventstore.wire import stream_key
from tests.support.relays import append, check, noted, published, until, until_published


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url) as made:
        made.create_log("default")
        yield made


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as made:
        yield made


def checkpoint(store: EventStore, name: str = "relay:redis-streams") -> tuple[int, int, str | None]:
    with psycopg.connect(store.database.url) as conn:
        row = conn.execute("SELECT position, epoch, lease_owner FROM checkpoints WHERE name = %s", (name,)).fetchone()
    assert row is not None
    return row


def held(memory: InMemory) -> list[int]:
    return [entry.position for stream in memory.streams.values() for entry in stream]


def test_what_is_appended_while_it_runs_arrives_in_order_with_its_cursor_and_json(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        for n in range(30):
            append(store, 1 + n % 4, f"job:{n % 5}")
        until_published(client, store.head().position)
    check(store, client)


def test_a_backlog_of_several_pages_arrives_whole(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    append(store, 9_300)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 9_300)
    check(store, client)


def test_large_events_arrive_although_a_page_of_them_is_too_much_at_once(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    event = msgspec.structs.replace(noted(), data={"level": "info", "message": "m", "detail": "推" * 16_000})
    for _ in range(25):
        store.append("job:1", [event] * 10)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 250)
    check(store, client)


def test_a_first_relay_of_a_long_log_publishes_what_is_recent(
    store: EventStore, client: redis.Redis, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, 250)
    with start_relay(Relay(store, [RedisStreams(redis_url, keep=100)])):
        until_published(client, 250)
    check(store, client, first=151)
    assert not [r for r in caplog.records if r.name == "headway.relay"]


def test_a_restarted_relay_goes_on_from_what_redis_has_and_not_from_its_checkpoint(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    append(store, 20)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 20)
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        conn.execute("UPDATE checkpoints SET position = 3")
    append(store, 5)
    with start_relay(Relay(store, [RedisStreams(redis_url)])) as relay:
        until_published(client, 25)
        assert relay.progress[0].published == 5
    check(store, client)


def test_a_relay_that_ends_leaves_its_checkpoint_at_the_end_and_the_lease_free(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    append(store, 20)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 20)
        assert checkpoint(store)[2] is not None
    assert checkpoint(store) == (20, 1, None)


def test_after_the_end_nothing_of_the_relay_is_left(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    before = set(threading.enumerate())
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        append(store, 3)
        until_published(client, 3)
    append(store, 3)
    left = {thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("AnyIO")}
    assert left <= {"headway-committer-1"}
    assert published(client) == 3


@pytest.mark.anyio
async def test_it_runs_in_the_task_group_of_its_caller_until_cancelled(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Relay(store, [RedisStreams(redis_url)]).run)
        await anyio.to_thread.run_sync(append, store, 10)
        await anyio.to_thread.run_sync(until_published, client, 10)
        tasks.cancel_scope.cancel()
    check(store, client)


def test_a_log_that_does_not_exist_ends_the_relay(store: EventStore, redis_url: str) -> None:
    with pytest.raises(NoSuchLog):
        anyio.run(Relay(store.for_log("other"), [RedisStreams(redis_url)]).run)


def test_logs_have_streams_of_their_own(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    other = store.for_log("other")
    other.create_log()
    with start_relay(Relay(store, [RedisStreams(redis_url)])), start_relay(Relay(other, [RedisStreams(redis_url)])):
        append(store, 3)
        append(other, 5)
        until_published(client, 3)
        until_published(client, 5, log="other")
    check(store, client)
    check(other, client)


def test_a_new_epoch_gets_a_stream_of_its_own_and_the_old_one_expires(
    store: EventStore, client: redis.Redis, redis_url: str
) -> None:
    append(store, 10)
    with start_relay(Relay(store, [RedisStreams(redis_url)])):
        until_published(client, 10)
        with connections.Database(store.database.url).connect() as conn, conn.transaction():
            epochs.begin_epoch(conn, store.log_id(), "another", "00000002", NoProjection())
        until_published(client, 11, epoch=2)
        check(store, client)
        assert 0 < client.ttl(stream_key("default", 1)) <= EXPIRE_OLD


def test_two_publishers_have_checkpoints_of_their_own(store: EventStore, client: redis.Redis, redis_url: str) -> None:
    memory = InMemory()
    append(store, 10)
    with start_relay(Relay(store, [RedisStreams(redis_url), memory])):
        until_published(client, 10)
        until(lambda: len(held(memory)) == 10)
        append(store, 2)
        until_published(client, 12)
        until(lambda: len(held(memory)) == 12)
        until(lambda: checkpoint(store)[0] == checkpoint(store, "relay:memory")[0] == 12)


def test_two_publishers_of_one_name_are_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match="memory"):
        Relay(store, [InMemory(), InMemory()])


def test_a_publisher_that_can_not_be_reached_holds_up_no_other(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    memory = InMemory()
    with start_relay(Relay(store, [RedisStreams("redis://127.0.0.1:1/0"), memory])) as relay:
        append(store, 10)
        until(lambda: len(held(memory)) == 10)
        until(lambda: relay.progress[0].error)
        append(store, 10)
        until(lambda: len(held(memory)) == 20)
    assert len([r for r in caplog.records if r.name == "headway.relay" and r.levelno >= logging.WARNING]) == 1


class Broken(InMemory):
    """Fails in a way that nobody expected, until it is mended."""

    name: ClassVar[str] = "broken"
    mended = False

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        if not self.mended:
            raise RuntimeError("a fault in a publisher")
        return await super().publish(tail, entries, replace=replace)


def test_a_fault_in_a_publisher_is_told_once_and_holds_up_no_other(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    broken, memory = Broken(), InMemory()
    append(store, 10)
    with start_relay(Relay(store, [broken, memory])) as relay:
        until(lambda: len(held(memory)) == 10)
        until(lambda: relay.progress[0].error)
        append(store, 10)
        until(lambda: len(held(memory)) == 20)
        broken.mended = True
        until(lambda: len(held(broken)) == 20)
    told = [r for r in caplog.records if "a fault in a publisher" in r.message]
    assert len(told) == 1
    assert told[0].exc_info


class Unsure(InMemory):
    """Can't tell what it holds, like a queue: the checkpoint is all there is."""

    name: ClassVar[str] = "unsure"

    async def look(self, log: str, epoch: int) -> Tail:
        return Tail(log=log, epoch=epoch, state="", unsure=True)

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        self.streams.setdefault((tail.log, tail.epoch), deque()).extend(entries)
        cursor = entries[-1].cursor if entries else None
        return Tail(log=tail.log, epoch=tail.epoch, state="", cursor=cursor, unsure=True)


def test_a_publisher_that_can_not_tell_what_it_holds_goes_on_from_the_checkpoint(store: EventStore) -> None:
    unsure = Unsure()
    append(store, 10)
    for _ in range(2):
        with start_relay(Relay(store, [unsure])):
            append(store, 5)
            last = store.head().position
            until(lambda: held(unsure)[-1:] == [last])  # noqa: B023
    assert held(unsure) == list(range(1, 21))


class Shy(Unsure):
    """Can't be reached at first."""

    name: ClassVar[str] = "unsure"
    refusals = 0

    async def look(self, log: str, epoch: int) -> Tail:
        if self.refusals:
            self.refusals -= 1
            raise PublisherUnavailable("not yet")
        return await super().look(log, epoch)


def test_a_term_that_fails_at_once_leaves_the_checkpoint_where_it_was(store: EventStore) -> None:
    shy = Shy()
    append(store, 10)
    with start_relay(Relay(store, [shy])):
        until(lambda: len(held(shy)) == 10)
    shy.refusals = 3
    with start_relay(Relay(store, [shy])):
        until(lambda: shy.refusals < 3)
        assert checkpoint(store, "relay:unsure")[0] == 10
        append(store, 1)
        until(lambda: len(held(shy)) == 11)
    assert held(shy) == list(range(1, 12))


def test_what_this_process_appends_is_handed_over_without_a_read(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be read, all that is appended here arrives nevertheless."""
    memory = InMemory()
    with start_relay(Relay(store, [memory])):
        append(store, 3)
        until(lambda: held(memory) == [1, 2, 3])
        head = store.head()

        def read_nothing(*_: object) -> Pages:
            return Pages(head, [], False, None, PAGE)

        monkeypatch.setattr(relay_leader, "read_page", read_nothing)
        for _ in range(5):
            append(store, 300)
        until(lambda: held(memory) == list(range(1, 1_504)))
