"""Moments that a stream must not miss, each brought about on purpose."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from api.streams import gathered, recap
from eventstore import connections, epochs
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from tests.support.following import shorten
from tests.support.http import Server, serving
from tests.support.relays import OwnValkey, own_valkey, published
from tests.support.sessions import wait_until
from tests.support.sse_client import Stream, chained, stream
from tests.support.streams import hub, subscribers, until_dispatched

PADDING = "推送" * 200


@pytest.fixture
def server(database_url: str) -> Iterator[Server]:
    with serving(database_url) as running:
        yield running


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


def test_who_opens_a_stream_is_shown_at_once_what_was_acknowledged_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the snapshot, or before `caught_up`, however late the hub is and whatever others were told a moment ago."""
    monkeypatch.setattr(gathered, "KEEP", 3_600.0)
    store = server.services.store
    store.append("a", [noted()])
    with stream(server.port, "/v1/stream?after=now") as keeper:
        keeper.until("caught_up")
        for _ in range(30):
            before = str(hub(server).at)
            (told,) = store.append("a", [noted()])
            with stream(server.port, "/v1/jobs/a/stream") as reading:
                assert reading.until("caught_up")[0].data["cursor"] == told.cursor
            for path in ("/v1/stream", "/v1/jobs/a/stream"):
                with stream(server.port, path, {"Last-Event-ID": before}) as reading:
                    assert [frame.id for frame in reading.until("caught_up")][-2] == told.cursor


def test_who_comes_back_after_the_end_gets_204_whatever_was_known_of_the_job_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathered, "KEEP", 3_600.0)
    store = server.services.store
    (first,) = store.append("a", [noted()])
    path = "/v1/jobs/a/stream"
    with stream(server.port, path, {"Last-Event-ID": first.cursor}) as reading:
        reading.until("caught_up")
        (end,) = store.append("a", [NewEvent(type="job.completed")])
        assert [frame.id for frame in reading] == [end.cursor, None]
    with stream(server.port, path, {"Last-Event-ID": end.cursor}) as reading:
        assert reading.status == 204


def test_an_event_that_comes_while_the_last_page_of_a_catch_up_is_on_its_way_is_shown(server: Server) -> None:
    """The one page, of 240 KB, ends at the head; before the reader took it, more was handed out at the hub."""
    store = server.services.store
    last = store.append("a", [noted(PADDING) for _ in range(200)])[-1].position
    with stream(server.port, "/v1/jobs/a/stream?after=now") as other:
        other.until("caught_up")
        with stream(server.port, "/v1/stream?after=-1", buffer=4_096) as slow:
            wait_until(lambda: any(one._behind and one._link.sending for one in subscribers(server)), "it is stuck")
            more = store.append("a", [noted() for _ in range(3)])
            until_dispatched(server, more[-1].position)
            assert chained(slow.events(last + 3), "0001_0000000000000000_00000000") == list(range(1, last + 4))
            (final,) = store.append("a", [noted()])
            assert chained(slow.events(1), more[-1].cursor) == [final.position]


def test_a_page_that_was_read_before_an_acknowledged_event_is_not_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caught up means: with everything that was acknowledged before the stream was opened."""
    monkeypatch.setattr(recap, "KEEP", 3_600.0)
    store = server.services.store
    first = store.append("a", [noted() for _ in range(2)])[0]
    for number in range(20):
        with stream(server.port, f"/v1/stream?after={first.cursor}") as reading:
            frames = reading.until("caught_up")
            assert len(frames) == number + 2
        store.append("a", [noted()])


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as running:
        yield running


def test_who_saw_by_a_snapshot_what_the_hub_did_not_and_a_failover_lost_is_told(
    database_url: str, valkey: OwnValkey
) -> None:
    """Redis stands still, so the hub is behind; the snapshot comes from PostgreSQL, and what it shows is then lost.

    The hub's own place is on both histories: it notices nothing but the new epoch. It may find out too soon that Redis
    is late; then the next attempt.
    """
    with serving(database_url, valkey.url) as server, ExitStack() as stack:
        store = server.services.store
        store.append("a", [noted()])
        keeper = stack.enter_context(stream(server.port, "/v1/stream?after=now&prefix=nobody"))
        keeper.until("caught_up")
        was_behind = False
        for _ in range(10):
            common = store.append("a", [noted()])[-1].position
            wait_until(lambda: published(valkey.client, epoch=store.head().epoch) >= common, "Redis has it")  # noqa: B023
            until_dispatched(server, common)
            valkey.send(signal.SIGSTOP)
            try:
                told = store.append("a", [noted() for _ in range(2)])
                reading = stack.enter_context(stream(server.port, "/v1/jobs/a/stream"))
                assert reading.until("caught_up")[0].data["cursor"] == told[-1].cursor
                lose(store, common)
                was_behind = hub(server).at.position == common
            finally:
                valkey.kill()  # or the relay would still publish what was lost
            with EventStore(database_url, pool_size=2, projection=Progress()) as writer:
                writer.append("a", [noted("another history") for _ in range(5)])
            (gap,) = reading
            assert (gap.event, gap.data["common"].split("_")[1]) == ("gap", f"{common:016d}")
            if was_behind:
                break
            valkey.start()
        assert was_behind


def test_a_page_that_others_asked_for_before_an_event_was_acknowledged_is_read_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's page was read, and not handed over yet, when the event was appended; the second one joins it."""
    store = server.services.store
    first, second = store.append("a", [noted() for _ in range(2)])
    path, held, reading = "/v1/jobs/a/stream", threading.Event(), threading.Event()
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        keeper = stack.enter_context(stream(server.port, "/v1/stream?after=now"))
        keeper.until("caught_up")
        stack.callback(held.set)
        theirs = hub(server)._store
        read = theirs.read_job_after_position

        def slow(*args: Any, **kwargs: Any) -> Any:
            found = read(*args, **kwargs)
            reading.set()
            assert held.wait(20)
            return found

        monkeypatch.setattr(theirs, "read_job_after_position", slow, raising=False)
        one = pool.submit(Stream, server.port, path, {"Last-Event-ID": first.cursor})
        assert reading.wait(20)
        (third,) = store.append("a", [noted()])
        two = pool.submit(Stream, server.port, path, {"Last-Event-ID": first.cursor})
        (recaps,) = (log.recaps for log in server.services.streams._logs.values())
        wait_until(lambda: [page.readers for page in recaps._pages.values()] == [2], "both wait for one page")
        held.set()
        for late in (one.result(), two.result()):
            stack.callback(late.close)
        frames = two.result().until("caught_up")
        assert [frame.id for frame in frames[:-1]] == [second.cursor, third.cursor]
        assert chained(one.result().events(2), first.cursor) == [second.position, third.position]


def lose(store: EventStore, common: int) -> None:
    """What a failover to a server that is behind does."""
    with closing(store.database.connect()) as conn, conn.transaction():
        shorten(conn, store.log_id(), common)
        epochs.begin_epoch(conn, store.log_id(), *connections.identity(conn), store.projection)
