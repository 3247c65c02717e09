"""What the relay may rely on, whatever sink it publishes to. The fixture alone knows which sinks there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import anyio
import msgspec
import pytest
import redis.asyncio

from eventstore.cursor import format_cursor
from eventstore.publishers import Entry, Publisher, Tail
from eventstore.publishers.memory import InMemory
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.wire import stream_key

pytestmark = pytest.mark.anyio

KEEP = 300


class Sink:
    """A sink under test: two publishers that see the same, what it holds, and the ways in which it gets damaged."""

    def __init__(
        self,
        one: Publisher,
        two: Publisher,
        contents: Callable[[str, int], Coroutine[Any, Any, list[Entry]]],
        lose: Callable[[str, int], Coroutine[Any, Any, Any]],
        spoil: Callable[[str, int], Coroutine[Any, Any, Any]],
    ) -> None:
        self.one, self.two, self.contents, self.lose, self.spoil = one, two, contents, lose, spoil


@pytest.fixture(params=["memory", "redis streams"])
async def sink(request: pytest.FixtureRequest) -> AsyncIterator[Sink]:
    if request.param == "memory":
        memory = InMemory(keep=KEEP)

        async def held(log: str, epoch: int) -> list[Entry]:
            return list(memory.streams.get((log, epoch), ()))

        async def lose(log: str, epoch: int) -> None:
            memory.streams.pop((log, epoch), None)

        async def spoil(log: str, epoch: int) -> None:
            memory.streams[log, epoch].append(Entry(2**60, "x", "not a cursor", b""))

        yield Sink(memory, memory, held, lose, spoil)
        return
    url = request.getfixturevalue("redis_url")
    one, two = RedisStreams(url, keep=KEEP), RedisStreams(url, keep=KEEP)
    async with redis.asyncio.from_url(url) as client:

        async def streamed(log: str, epoch: int) -> list[Entry]:
            found = await client.xrange(stream_key(log, epoch))
            return [
                Entry(int(entry_id.split(b"-")[0]), f[b"job"].decode(), f[b"cursor"].decode(), f[b"event"])
                for entry_id, f in found
            ]

        yield Sink(
            one,
            two,
            streamed,
            lambda log, epoch: client.delete(stream_key(log, epoch)),
            lambda log, epoch: client.xadd(stream_key(log, epoch), {"job": "x"}, id="9223372036854775807-0"),
        )
    await one.aclose()
    await two.aclose()


def batch(first: int, last: int, *, epoch: int = 1, salt: str = "a") -> list[Entry]:
    return [
        Entry(at, f"job:{at % 3}", format_cursor(epoch, at, f"{ord(salt):02x}{at % 2**24:06x}"), b'{"n":%d}' % at)
        for at in range(first, last + 1)
    ]


async def published(publisher: Publisher, entries: Sequence[Entry]) -> Tail:
    """Look, publish what is given, and say where the sink stands."""
    tail = await publisher.publish(await publisher.look("default", 1), entries)
    assert tail.cursor == entries[-1].cursor
    return tail


async def test_a_new_sink_is_empty(sink: Sink) -> None:
    tail = await sink.one.look("default", 1)
    assert (tail.empty, tail.cursor, tail.unsure) == (True, None, False)


async def test_what_is_published_stands_there_in_order_with_its_cursors(sink: Sink) -> None:
    first = await published(sink.one, batch(1, 3))
    await sink.one.publish(first, batch(4, 10))
    assert await sink.contents("default", 1) == batch(1, 10)
    assert (await sink.two.look("default", 1)).cursor == batch(10, 10)[0].cursor


async def test_it_can_begin_in_the_middle_of_a_log(sink: Sink) -> None:
    await published(sink.one, batch(1_000_001, 1_000_005))
    assert await sink.contents("default", 1) == batch(1_000_001, 1_000_005)


async def test_who_expects_an_older_tail_changes_nothing_and_is_told_the_present_one(sink: Sink) -> None:
    old = await published(sink.one, batch(1, 3))
    new = await sink.two.publish(old, batch(4, 6))
    told = await sink.one.publish(old, batch(4, 9))
    assert told == new
    assert await sink.contents("default", 1) == batch(1, 6)


async def test_a_batch_whose_answer_got_lost_is_not_appended_again(sink: Sink) -> None:
    before = await published(sink.one, batch(1, 3))
    await sink.one.publish(before, batch(4, 6))
    again = await sink.one.publish(before, batch(4, 6))
    assert again.cursor == batch(6, 6)[0].cursor
    assert await sink.contents("default", 1) == batch(1, 6)


async def test_many_who_publish_the_same_log_at_once_make_one_stream_without_duplicate_or_gap(sink: Sink) -> None:
    async def run(publisher: Publisher, size: int) -> None:
        tail = await publisher.look("default", 1)
        while (after := int(tail.cursor.split("_")[1]) if tail.cursor else 0) < 250:
            tail = await publisher.publish(tail, batch(after + 1, min(after + size, 250)))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, sink.one, 7)
        tasks.start_soon(run, sink.two, 5)
    assert await sink.contents("default", 1) == batch(1, 250)


async def test_a_large_batch_arrives_as_a_whole_and_only_the_newest_are_kept(sink: Sink) -> None:
    await published(sink.one, batch(1, 4_000))
    held = await sink.contents("default", 1)
    assert KEEP <= len(held) <= 2 * KEEP
    assert held == batch(4_001 - len(held), 4_000)


async def test_replacing_drops_what_was_there(sink: Sink) -> None:
    tail = await published(sink.one, batch(1, 30))
    tail = await sink.one.publish(tail, batch(5, 8, salt="b"), replace=True)
    assert tail.cursor == batch(8, 8, salt="b")[0].cursor
    assert await sink.contents("default", 1) == batch(5, 8, salt="b")


async def test_replacing_by_nothing_leaves_it_as_new(sink: Sink) -> None:
    tail = await published(sink.one, batch(1, 3))
    assert (await sink.one.publish(tail, [], replace=True)).empty
    assert (await sink.two.look("default", 1)).empty


async def test_who_expects_an_older_tail_replaces_nothing(sink: Sink) -> None:
    old = await published(sink.one, batch(1, 3))
    await sink.two.publish(old, batch(4, 6))
    await sink.one.publish(old, batch(100, 103), replace=True)
    assert await sink.contents("default", 1) == batch(1, 6)


async def test_after_a_loss_nothing_is_appended_but_the_loss_is_told(sink: Sink) -> None:
    tail = await published(sink.one, batch(1, 3))
    await sink.lose("default", 1)
    told = await sink.one.publish(tail, batch(4, 6))
    assert (told.cursor, told.empty) == (None, True)
    assert await sink.contents("default", 1) == []


async def test_something_foreign_at_the_end_is_not_taken_for_ours_and_replacing_heals_it(sink: Sink) -> None:
    before = await published(sink.one, batch(1, 3))
    await sink.spoil("default", 1)
    found = await sink.two.look("default", 1)
    assert (found.empty, found.state == before.state) == (False, False)
    assert (await sink.one.publish(before, batch(4, 6))) == found
    await sink.one.publish(found, batch(1, 6), replace=True)
    assert await sink.contents("default", 1) == batch(1, 6)


async def test_logs_are_apart(sink: Sink) -> None:
    await published(sink.one, batch(1, 3))
    other = await sink.one.look("other", 1)
    assert other.empty
    await sink.one.publish(other, batch(1, 2, salt="b"))
    assert await sink.contents("default", 1) == batch(1, 3)
    assert await sink.contents("other", 1) == batch(1, 2, salt="b")


async def test_epochs_are_apart(sink: Sink) -> None:
    await published(sink.one, batch(1, 3))
    tail = await sink.one.look("default", 2)
    assert tail.empty
    tail = await sink.one.publish(tail, batch(3, 5, epoch=2))
    assert tail.cursor == batch(5, 5, epoch=2)[0].cursor
    assert await sink.contents("default", 2) == batch(3, 5, epoch=2)


async def test_every_text_arrives_as_it_was(sink: Sink) -> None:
    odd = "推送 \x00\r\n\x1b[2J ' \" \\ 🚀 é".encode()
    entries = [msgspec.structs.replace(entry, event=odd) for entry in batch(1, 2)]
    await published(sink.one, entries)
    assert [entry.event for entry in await sink.contents("default", 1)] == [odd, odd]


async def test_it_goes_on_after_its_connections_were_closed(sink: Sink) -> None:
    tail = await published(sink.one, batch(1, 3))
    await sink.one.aclose()
    await sink.one.publish(tail, batch(4, 5))
    assert await sink.contents("default", 1) == batch(1, 5)


async def test_it_can_be_told_that_all_is_published(sink: Sink) -> None:
    await published(sink.one, batch(1, 3))
    await sink.one.caught_up("default")
    assert await sink.contents("default", 1) == batch(1, 3)
