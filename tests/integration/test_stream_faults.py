"""Redis and PostgreSQL go and come back under live streams: nobody is cut off, nothing is missing or comes twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from eventstore.events import NewEvent
from eventstore.wire import heartbeat_key
from tests.support.http import Server, serving
from tests.support.relays import OwnValkey, own_valkey
from tests.support.sessions import wait_until
from tests.support.sse_client import Stream, chained, stream
from tests.support.streams import subscribers


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


@pytest.fixture
def valkey() -> Iterator[OwnValkey]:
    with own_valkey() as running:
        yield running


@contextmanager
def away(database_url: str) -> Iterator[None]:
    """The database takes no connection, and those that there were are gone."""
    name = conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(make_conninfo(database_url, dbname="postgres"), autocommit=True) as conn:
        conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        conn.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


class Watched:
    """Some streams with their cursors; `expect` reads what was appended from all of them."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self.readings: list[Stream] = []
        self.cursors: list[str] = []
        for path in (
            "/v1/stream?after=now",
            "/v1/jobs/a/stream?wait=true",
            "/v1/stream?after=now&prefix=a&types=job.*",
        ):
            reading = stack.enter_context(stream(server.port, path))
            self.readings.append(reading)
            self.cursors.append(reading.until("caught_up")[-1].data["cursor"])

    def expect(self, count: int = 1) -> None:
        told = self.server.services.store.append("a", [noted() for _ in range(count)])
        for index, reading in enumerate(self.readings):
            events = reading.events(count)
            assert chained(events, self.cursors[index]) == [answer.position for answer in told]
            self.cursors[index] = events[-1]["cursor"]


def relayed(valkey: OwnValkey) -> None:
    wait_until(lambda: valkey.client.exists(heartbeat_key("default")), "a relay keeps the stream fresh")


def test_redis_is_killed_emptied_and_comes_back_under_streams(database_url: str, valkey: OwnValkey) -> None:
    with serving(database_url, valkey.url) as server, ExitStack() as stack:
        relayed(valkey)
        watched = Watched(server, stack)
        watched.expect(3)
        valkey.kill()
        for _ in range(3):
            watched.expect(2)
        late = Watched(server, stack)
        late.expect()
        for index, reading in enumerate(watched.readings):
            watched.cursors[index] = reading.events(1)[0]["cursor"]
        valkey.start()
        relayed(valkey)
        watched.expect(2)
        valkey.client.flushall()
        watched.expect(2)


def test_postgres_goes_away_and_comes_back_under_streams(database_url: str, valkey: OwnValkey) -> None:
    with serving(database_url, valkey.url) as server, ExitStack() as stack:
        relayed(valkey)
        watched = Watched(server, stack)
        watched.expect(2)
        with away(database_url):
            refused = httpx.get(f"{server.url}/v1/jobs/a/stream")
            assert (refused.status_code, refused.headers.get("retry-after") is not None) == (503, True)
            with stream(server.port, "/v1/jobs/a/stream", {"Last-Event-ID": watched.cursors[1]}) as reading:
                assert (reading.status, list(reading), reading.ended_well) == (200, [], True)
                assert reading.parser.retry is not None
                assert reading.parser.retry >= 5_000
            assert len(subscribers(server)) == 3
        wait_until(lambda: httpx.get(f"{server.url}/v1/jobs/a").status_code == 200, "PostgreSQL is back")
        watched.expect(2)


def test_without_redis_postgres_goes_away_and_comes_back_under_streams(database_url: str) -> None:
    with serving(database_url) as server, ExitStack() as stack:
        watched = Watched(server, stack)
        watched.expect(2)
        with away(database_url):
            assert len(subscribers(server)) == 3
        wait_until(lambda: httpx.get(f"{server.url}/v1/jobs/a").status_code == 200, "PostgreSQL is back")
        watched.expect(2)
        watched.expect()


def test_two_processes_on_one_database_show_the_same(database_url: str) -> None:
    with serving(database_url) as one, serving(database_url) as two, ExitStack() as stack:
        here, there = Watched(one, stack), Watched(two, stack)
        here.expect(2)
        for index, reading in enumerate(there.readings):
            there.cursors[index] = reading.events(2)[-1]["cursor"]
        assert here.cursors == there.cursors
        there.expect(1)
