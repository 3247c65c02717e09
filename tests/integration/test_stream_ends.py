"""How streams end: old, expired, revoked, too many, stopped, or of another history (S2, S3, S8, S9)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import httpx
import pytest

from api.auth import Scope
from eventstore import connections, epochs
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from tests.support.following import shorten
from tests.support.http import Server, serving
from tests.support.keys import bearer, id_of, make_key, make_logs, revoke_key
from tests.support.sessions import wait_until
from tests.support.sse_client import Stream, chained, stream
from tests.support.streams import Ahead, ended, hub, subscribers, until_dispatched


@pytest.fixture
def server(database_url: str) -> Iterator[Server]:
    with serving(database_url) as running:
        yield running


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


def live(server: Server, stack: ExitStack, path: str, **headers: str) -> Stream:
    reading = stack.enter_context(stream(server.port, path, headers))
    reading.until("caught_up")
    return reading


def retry_of(reading: Stream) -> int:
    assert reading.parser.retry is not None
    return reading.parser.retry


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_comment_comes_every_15_s(server: Server) -> None:
    clock = Ahead(server)
    with ExitStack() as stack:
        reading = live(server, stack, "/v1/stream?after=now")
        for count in (1, 2, 3):
            clock.go(15.1)
            server.services.store.append("a", [noted()])
            reading.events(1)
            assert reading.parser.comments == count


def test_a_stream_is_recycled_after_15_minutes_and_goes_on_where_it_was(server: Server) -> None:
    clock = Ahead(server)
    with ExitStack() as stack:
        readings = [live(server, stack, "/v1/stream?after=now") for _ in range(5)]
        clock.go(800)
        server.services.store.append("a", [noted()])
        for reading in readings:
            reading.events(1)
        clock.go(200)
        server.services.store.append("a", [noted()])
        retries = set()
        for reading in readings:
            assert reading.next() is None
            assert reading.ended_well
            retries.add(retry_of(reading))
            assert reading.last_id is not None
            again = stack.enter_context(stream(server.port, "/v1/stream?after=now", {"Last-Event-ID": reading.last_id}))
            assert chained(again.events(1), reading.last_id) == [2]
        assert len(retries) > 1, "they come back at different times"
        assert all(500 <= retry <= 3_000 for retry in retries)
        assert ended(server, "recycled") == 5


def test_a_server_that_stops_ends_its_streams_well_and_spreads_the_return(database_url: str) -> None:
    with ExitStack() as stack:
        with serving(database_url) as server:
            readings = [live(server, stack, "/v1/stream?after=now") for _ in range(5)]
            quiet = stack.enter_context(stream(server.port, "/v1/jobs/a/stream?wait=true", buffer=4_096))
        for reading in [*readings, quiet]:
            assert [frame.event for frame in reading if frame.event != "snapshot"] in ([], ["caught_up"])
            assert reading.ended_well
        retries = {retry_of(reading) for reading in readings}
        assert len(retries) > 1
        assert all(1_000 <= retry <= 5_000 for retry in retries)


# -- keys and tokens --------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded(database_url: str) -> Iterator[tuple[Server, str, str]]:
    """A server that needs keys; a key; a database."""
    make_logs(database_url, "default")
    key = make_key(database_url, scopes=[Scope.READ, Scope.APPEND])
    with serving(database_url, keyless=False, streams_per_key=10) as server:
        yield server, key, database_url


def test_a_stream_ends_when_its_token_does_and_is_told_to_get_another(guarded: tuple[Server, str, str]) -> None:
    server, key, _ = guarded
    clock = Ahead(server)
    token = httpx.post(f"{server.url}/v1/stream-tokens", json={"ttl": 300}, headers=bearer(key)).json()["token"]
    with ExitStack() as stack:
        by_token = live(server, stack, f"/v1/stream?after=now&token={token}")
        by_key = live(server, stack, "/v1/stream?after=now", **bearer(key))
        clock.go(250)
        assert len(subscribers(server)) == 2
        clock.go(56)
        (reauth,) = by_token
        assert (reauth.event, reauth.id, retry_of(by_token)) == ("reauth", None, 30_000)
        assert by_token.ended_well
        server.services.store.append("a", [noted()])
        by_key.events(1)


def test_a_revoked_key_ends_its_streams_and_those_of_its_tokens(guarded: tuple[Server, str, str]) -> None:
    server, key, database_url = guarded
    clock = Ahead(server)
    other = make_key(database_url)
    wait_until(lambda: httpx.get(f"{server.url}/v1/jobs", headers=bearer(other)).status_code == 200, "it is known")
    token = httpx.post(f"{server.url}/v1/stream-tokens", headers=bearer(key)).json()["token"]
    with ExitStack() as stack:
        theirs = [
            live(server, stack, "/v1/stream?after=now", **bearer(key)),
            live(server, stack, f"/v1/stream?after=now&token={token}"),
        ]
        stays = live(server, stack, "/v1/stream?after=now", **bearer(other))
        revoke_key(database_url, key)
        wait_until(lambda: not server.services.keys.is_good(id_of(key)), "the server knows")
        clock.go(5.1)
        for reading in theirs:
            (reauth,) = reading
            assert (reauth.event, reauth.data) == ("reauth", {"reason": "revoked"})
        server.services.store.append("a", [noted()])
        stays.events(1)


# -- too many ---------------------------------------------------------------------------------------------------------


def test_who_finds_no_room_is_refused_and_who_comes_back_is_sent_away_for_a_while(database_url: str) -> None:
    with serving(database_url, max_streams=2) as server, ExitStack() as stack:
        for _ in range(2):
            live(server, stack, "/v1/stream?after=now")
        refused = httpx.get(f"{server.url}/v1/stream?after=now")
        assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
        assert int(refused.headers["retry-after"]) >= 1
        retries = set()
        for _ in range(5):
            with stream(server.port, "/v1/stream", {"Last-Event-ID": "0"}) as reading:
                assert reading.status == 200
                assert list(reading) == []
                assert reading.ended_well
                retries.add(retry_of(reading))
        assert len(retries) > 1
        assert all(5_000 <= retry <= 30_000 for retry in retries)
        stack.close()
        wait_until(lambda: not subscribers(server), "the two have left")
        with stream(server.port, "/v1/stream?after=now") as reading:
            reading.until("caught_up")


def test_a_key_has_so_many_streams_and_no_more(guarded: tuple[Server, str, str]) -> None:
    server, key, _ = guarded
    with ExitStack() as stack:
        for _ in range(10):
            live(server, stack, "/v1/stream?after=now", **bearer(key))
        refused = httpx.get(f"{server.url}/v1/stream?after=now", headers=bearer(key))
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        with stream(server.port, "/v1/stream", {"Last-Event-ID": "0", **bearer(key)}) as reading:
            assert (reading.status, list(reading)) == (200, [])


def test_many_that_come_back_at_once_cost_the_database_a_few_questions(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3. The first question is answered when all of them are there."""
    store = server.services.store
    told = store.append("a", [noted(str(n)) for n in range(20)])
    count, asked, all_here = 100, [], threading.Event()
    with ExitStack() as stack:
        live(server, stack, "/v1/stream?after=now")
        reading_store = hub(server)._store

        def counted(name: str) -> Callable[..., Any]:
            read = getattr(reading_store, name)

            def asking(*args: Any, **kwargs: Any) -> Any:
                asked.append(name)
                assert all_here.wait(20)
                return read(*args, **kwargs)

            return asking

        for name in ("read_log", "read_job", "read_job_after_position", "resolve"):
            monkeypatch.setattr(reading_store, name, counted(name), raising=False)
        with ThreadPoolExecutor(count) as pool:
            start = told[4].cursor
            opened = [
                pool.submit(Stream, server.port, "/v1/jobs/a/stream", {"Last-Event-ID": start}) for _ in range(count)
            ]
            wait_until(lambda: len(subscribers(server)) == count + 1, "all are here")
            all_here.set()
            readings = [future.result() for future in opened]
        for reading in readings:
            stack.callback(reading.close)
            assert chained(reading.events(15), start) == [answer.position for answer in told[5:]]
            reading.until("caught_up")
        assert len(asked) <= 12, asked
        (next_one,) = store.append("a", [noted()])
        for reading in readings:
            assert chained(reading.events(1), told[-1].cursor) == [next_one.position]


# -- another history --------------------------------------------------------------------------------------------------


def lose(store: EventStore, common: int) -> None:
    """What a failover to a server that is behind does."""
    with closing(store.database.connect()) as conn, conn.transaction():
        shorten(conn, store.log_id(), common)
        epochs.begin_epoch(conn, store.log_id(), *connections.identity(conn), store.projection)


def test_after_a_failover_who_saw_too_much_is_told_and_the_others_go_on(server: Server) -> None:
    store = server.services.store
    store.append("a", [noted() for _ in range(3)])
    with ExitStack() as stack:
        whole = live(server, stack, "/v1/stream")
        of_b = live(server, stack, "/v1/stream?after=-1&prefix=b")
        of_a = live(server, stack, "/v1/stream?after=-1&prefix=a")
        (b,) = store.append("b", [noted()])
        c = store.append("c", [noted() for _ in range(2)])
        until_dispatched(server, c[-1].position)
        whole.events(3)
        of_b.events(1)
        lose(store, 3)
        (gap,) = (frame for frame in whole if frame.event == "gap")
        assert gap.data["common"].split("_")[1] == "0000000000000003"
        (gap,) = (frame for frame in of_b if frame.event == "gap")
        assert gap.data["cursor"] == b.cursor
        with EventStore(
            store.database.url, pool_size=2, projection=Progress()
        ) as writer:  # the server's own committer finds out by itself
            (more,) = writer.append("a", [noted("after")])
        last = of_a.events(1)[0]
        assert (last["position"], last["cursor"]) == (more.position, more.cursor)
        assert last["cursor"].startswith("0002_")
        assert last["prev"].split("_")[1] == "0000000000000003"
        wait_until(lambda: [one._idle for one in subscribers(server)] == [True], "the one that stays is live again")
