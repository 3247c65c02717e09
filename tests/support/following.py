"""What the contract of subscriptions runs over: four ways by which live events arrive, and one way to collect them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import anyio
import psycopg
import pytest
import redis
from sqlalchemy import QueuePool

from eventstore import connections, epochs, live
from eventstore.cursor import format_cursor
from eventstore.events import NewEvent, RecordedEvent
from eventstore.inline import InlineProjection
from eventstore.memory import InMemoryEventStore
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.subscription import CaughtUp, Subscription
from eventstore.wire import cursor_of, encode_event, stream_key
from projections.progress import Progress

LIVES = ("redis", "notify", "polling", "memory")


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


class World:
    """A log with a writer and a reader that share nothing but the servers (and with the memory store, everything)."""

    def __init__(self, writer: Any, reader: Any, *, redis_url: str | None = None, listen: bool = True) -> None:
        self.writer, self.reader = writer, reader
        self.redis_url, self.listen = redis_url, listen

    @property
    def log(self) -> str:
        name: str = self.writer.log
        return name

    def append(self, job_id: str, count: int = 1, *events: NewEvent) -> list[int]:
        """Append notes, or these events; their positions."""
        return [done.position for done in self.writer.append(job_id, events or [noted() for _ in range(count)])]

    async def append_async(self, job_id: str, count: int = 1) -> list[int]:
        return await anyio.to_thread.run_sync(self.append, job_id, count)

    def follow(self, after: Any = None, **following: Any) -> Subscription:
        following = {"redis_url": self.redis_url, "listen": self.listen, **following}
        sub: Subscription = self.reader.subscribe(after=after, **following)
        return sub

    def cursor(self, position: int) -> str:
        """The cursor of a position in the log as it is now."""
        if position == 0:
            return format_cursor(self.writer.head().epoch, 0, "00000000")
        event = self.writer.read_log(position - 1, limit=1)[0]
        return cursor_of(event, self.writer.head().epoch)

    def lose(self, common: int) -> None:
        """Restore the log to an earlier position and begin a new epoch, as after a failover that lost events."""
        if isinstance(self.writer, InMemoryEventStore):
            self.writer.begin_epoch(common)
            return
        with closing(self.writer.database.connect()) as conn, conn.transaction():
            shorten(conn, self.writer.log_id(), common)
            epochs.begin_epoch(conn, self.writer.log_id(), *connections.identity(conn), self.writer.projection)


def shorten(conn: psycopg.Connection[Any], log_id: int, common: int) -> None:
    """What only a superuser can do: take the end of a log away."""
    conn.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    conn.execute("DELETE FROM events WHERE log_id = %s AND position > %s", (log_id, common))
    conn.execute("ALTER TABLE events ENABLE TRIGGER ALL")
    conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable")
    conn.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_not_truncated")
    conn.execute(
        "UPDATE logs SET head = %(at)s, head_hash = coalesce((SELECT hash FROM events WHERE log_id = %(log)s"
        " AND position = %(at)s), decode(repeat('00', 32), 'hex')) WHERE log_id = %(log)s",
        {"log": log_id, "at": common},
    )


@pytest.fixture(params=LIVES)
def way(request: pytest.FixtureRequest) -> str:
    """How live events arrive."""
    way: str = request.param
    return way


@pytest.fixture
def world(way: str, request: pytest.FixtureRequest) -> Iterator[World]:
    yield from opened(way, request, None)


@pytest.fixture
def folding_world(way: str, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world whose appends are folded: reports that must not count are rejected."""
    yield from opened(way, request, Progress())


def opened(way: str, request: pytest.FixtureRequest, projection: InlineProjection | None) -> Iterator[World]:
    log = f"log-{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        if way == "memory":
            store = stack.enter_context(InMemoryEventStore(log=log, projection=projection))
            yield World(store, store)
            return
        url = request.getfixturevalue("shared_database")
        writer = stack.enter_context(EventStore(url, log=log, pool_size=3, projection=projection))
        writer.create_log()
        reader = stack.enter_context(EventStore(url, log=log, pool_size=3, pgbouncer=way == "polling"))
        if way == "redis":
            redis_url = request.getfixturevalue("redis_url")
            stack.callback(until_idle, writer)
            stack.enter_context(start_relay(Relay(writer, [RedisStreams(redis_url)])))
            yield World(writer, reader, redis_url=redis_url)
        else:
            yield World(writer, reader, listen=way == "notify")


def until_idle(store: EventStore) -> None:
    """A relay that was stopped may have left a thread that still reads: wait until its connection is back."""
    pool = store.database.engine.pool
    assert isinstance(pool, QueuePool)
    while pool.checkedout():
        time.sleep(0.001)


# -- collecting -------------------------------------------------------------------------------------------------------


async def take(sub: Subscription, count: int) -> list[RecordedEvent]:
    """The next events, exactly so many."""
    events: list[RecordedEvent] = []
    while len(events) < count:
        batch = await sub.batch()
        assert batch is not None
        events += batch.events
    assert len(events) == count
    return events


async def until_caught_up(sub: Subscription) -> list[RecordedEvent]:
    """What there is now."""
    events: list[RecordedEvent] = []
    async for item in sub.items():
        if isinstance(item, CaughtUp):
            return events
        events.append(item)
    raise AssertionError("a subscription ended by itself")


async def collect(world: World, count: int, **following: Any) -> list[int]:
    """The positions of the first events after a cursor, by a subscription of its own."""
    positions: list[int] = []
    async for event in world.follow(**following):
        positions.append(event.position)
        if len(positions) == count:
            break
    return positions


def tails() -> list[live.Tail]:
    """All tails that are held in this event loop."""
    return list(live._tails.get(asyncio.get_running_loop(), {}).values())


# -- Redis without a relay --------------------------------------------------------------------------------------------


def publish(redis_url: str, store: EventStore, first: int, last: int, *, epoch: int | None = None) -> None:
    """Write positions first..last of a log into its stream, as the relay does."""
    epoch = epoch or store.head().epoch
    with redis.from_url(redis_url) as client:
        for event in store.read_log(first - 1, upto=last):
            fields = {"job": event.job_id, "cursor": cursor_of(event, epoch), "event": encode_event(event, epoch)}
            client.xadd(stream_key(store.log, epoch), fields, id=f"{event.position}-0")
