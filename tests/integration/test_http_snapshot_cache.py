"""Snapshots from Redis: used only while they are known to be fresh, and never needed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from eventstore.events import NewEvent
from eventstore.wire import heartbeat_key, snapshot_key
from projections.snapshots import encode_snapshot, read_snapshot
from tests.support.http import Server, serving

PLAN = NewEvent(type="job.planned", data={"steps": [{"step": "a"}]})
START = NewEvent(type="step.started", step="a")


@pytest.fixture
def server(database_url: str, redis_url: str) -> Iterator[Server]:
    """A server that reads the cache, with nobody who writes it."""
    with serving(database_url) as server:
        server.services.redis_url = redis_url
        yield server


@pytest.fixture
def cache(redis_url: str) -> Iterator[redis.Redis]:
    with redis.from_url(redis_url) as client:
        yield client


def keep(cache: redis.Redis, server: Server, job: str, **changed: Any) -> None:
    found = read_snapshot(server.services.store, job)
    assert found is not None
    cache.set(snapshot_key("default", job), json.dumps(json.loads(encode_snapshot(found)) | changed))


def counted(server: Server) -> tuple[int, int]:
    text = httpx.get(f"{server.url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    hits = next(float(value) for name, value in values.items() if "cache" in name and "hit" in name)
    misses = next(float(value) for name, value in values.items() if "cache" in name and "miss" in name)
    return int(hits), int(misses)


def shown(server: Server, job: str, query: str = "") -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/v1/jobs/{job}{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_answer_from_the_cache_is_the_one_of_the_database(server: Server, cache: redis.Redis) -> None:
    error = {"message": "ä", "code": 7}
    worked = {"percent": 5, "metadata": {"files": [1, {"a": None}]}}
    server.services.store.append(
        "a",
        [
            PLAN, START, NewEvent(type="step.progressed", step="a", data=worked),
            NewEvent(type="step.failed", step="a", data={"error": error}),
            NewEvent(type="step.started", step="a", attempt=2), NewEvent(type="job.failed", data={"error": error}),
        ],
    )  # fmt: skip
    fresh = httpx.get(f"{server.url}/v1/jobs/a")
    keep(cache, server, "a")
    cache.set(heartbeat_key("default"), "1")
    cached = httpx.get(f"{server.url}/v1/jobs/a")
    assert (cached.json(), cached.headers["etag"]) == (fresh.json(), fresh.headers["etag"])
    assert counted(server) == (1, 1)
    known = httpx.get(f"{server.url}/v1/jobs/a", headers={"if-none-match": cached.headers["etag"]})
    assert known.status_code == 304


def test_without_the_relays_heartbeat_the_cache_answers_only_who_names_a_version(
    server: Server, cache: redis.Redis
) -> None:
    server.services.store.append("a", [PLAN])
    keep(cache, server, "a", message="from the cache")
    assert shown(server, "a")["message"] is None
    assert shown(server, "a", "?min_version=1")["message"] == "from the cache"
    cache.set(heartbeat_key("default"), "1")
    assert shown(server, "a")["message"] == "from the cache"


def test_a_cached_snapshot_older_than_the_wanted_version_is_passed_over(server: Server, cache: redis.Redis) -> None:
    server.services.store.append("a", [PLAN])
    keep(cache, server, "a", version=0)
    cache.set(heartbeat_key("default"), "1")
    server.services.store.append("a", [START])
    assert shown(server, "a", "?min_version=2")["version"] == 2


def test_what_this_process_appended_is_never_missing(server: Server, cache: redis.Redis) -> None:
    server.services.store.append("a", [PLAN])
    keep(cache, server, "a")
    cache.set(heartbeat_key("default"), "1")
    server.services.store.append("a", [START])
    assert shown(server, "a")["version"] == 2


def test_what_is_no_snapshot_is_passed_over(server: Server, cache: redis.Redis) -> None:
    server.services.store.append("a", [PLAN])
    cache.set(heartbeat_key("default"), "1")
    for garbage in (
        "",
        "{}",
        '{"version":"9"}',
        '{"version":9}',
        "\x00\xff",
        '{"version":9,"x":"' + "x" * 70_000 + '"}',
    ):
        cache.set(snapshot_key("default", "a"), garbage)
        assert shown(server, "a")["version"] == 1


def test_a_large_snapshot_comes_from_the_cache_too(server: Server, cache: redis.Redis) -> None:
    steps = [{"step": f"step {number}", "label": "x" * 100} for number in range(300)]
    server.services.store.append(
        "a", [NewEvent(type="job.planned", data={"steps": steps}), NewEvent(type="job.started")]
    )
    keep(cache, server, "a", message="from the cache")
    cache.set(heartbeat_key("default"), "1")
    found = shown(server, "a")
    assert found["message"] == "from the cache" and len(found["steps"]) == 300


@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers"])
def test_with_redis_away_the_database_answers_and_redis_is_let_alone(database_url: str, kind: str) -> None:
    asked: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as door, serving(database_url) as server:
        port = door.getsockname()[1]
        if kind == "nobody listens":
            door.close()
        else:
            accept_all(door, asked)
        server.services.redis_url = f"redis://127.0.0.1:{port}/0"
        server.services.store.append("a", [PLAN])
        for _ in range(5):
            assert shown(server, "a")["version"] == 1
        assert len(asked) <= 1
    for each in asked:
        each.close()


def accept_all(door: socket.socket, asked: list[socket.socket]) -> None:
    def run() -> None:
        try:
            while True:
                asked.append(door.accept()[0])
        except OSError:
            pass  # the test is over

    threading.Thread(target=run, daemon=True).start()


def test_the_cache_answers_a_key_only_about_the_log_of_its_own_row(server: Server) -> None:
    store, snapshots = server.services.store, server.services.snapshots
    store.create_log("other")
    mine, others = (server.services.store.for_log(log).log_id() for log in ("default", "other"))
    tenant = server.services.tenant(server.services.keys._everybody)
    assert snapshots._is_of(tenant, mine) and not snapshots._is_of(tenant, others)
