"""Whatever is cut wherever: each event once, in order, and each frame names the one before it."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from eventstore.events import NewEvent, RecordedEvent
from eventstore.store import EventStore
from tests.support.http import Server, serving
from tests.support.sse_client import Parser, chained, stream

Test = Callable[[RecordedEvent], bool]


def progressed(step: str, percent: int) -> NewEvent:
    return NewEvent(type="step.progressed", step=step, data={"percent": percent, "message": f"推送 {percent}"})


def test_a_cut_at_every_byte_of_an_event_loses_nothing_and_repeats_nothing(database_url: str) -> None:
    with serving(database_url) as server:
        store = server.services.store
        told = store.append("a", [progressed("x", n) for n in range(1, 4)])
        path, start = "/v1/jobs/a/stream", told[0].cursor
        wanted = [answer.position for answer in told[1:]]
        with stream(server.port, path, {"Last-Event-ID": start}) as reading:
            whole = b""
            while b"caught_up" not in whole:
                whole += reading.receive()
        until = whole.index(b"event: caught_up")
        assert until > 800
        for offset in range(until + 1):
            seen: list[dict[str, Any]] = []
            last = start
            parser = Parser()
            with stream(server.port, path, {"Last-Event-ID": last}) as reading:
                for frame in parser.feed(reading.take(offset)):
                    if frame.id is not None:
                        seen.append(frame.data)
                        last = frame.id
                reading.close(reset=offset % 2 == 1)
            with stream(server.port, path, {"Last-Event-ID": last}) as reading:
                seen += [frame.data for frame in reading.until("caught_up") if frame.event is None]
            assert chained(seen, start) == wanted, f"cut after {offset} bytes"


FILTERS: dict[str, tuple[str, Test]] = {
    "log": ("/v1/stream?after=-1", lambda e: True),
    "applied": ("/v1/stream?after=-1&events=applied", lambda e: e.applied),
    "prefix": ("/v1/stream?after=-1&prefix=job:1", lambda e: e.job_id.startswith("job:1")),
    "jobs": ("/v1/stream?after=-1&jobs=job:2,job:12&events=all", lambda e: e.job_id in ("job:2", "job:12")),
    "step": ("/v1/stream?after=-1&steps=b", lambda e: e.step == "b"),
    "type": ("/v1/stream?after=-1&types=job.*", lambda e: e.type.startswith("job.")),
    "job": ("/v1/jobs/job:3/stream?after=-1&wait=true&events=all", lambda e: e.job_id == "job:3"),
    "bar": ("/v1/jobs/job:3/stream?after=-1&wait=true", lambda e: e.job_id == "job:3" and e.applied),
    "rare": ("/v1/stream?after=-1&prefix=rare", lambda e: e.job_id == "rare"),
}  # fmt: skip


@pytest.mark.parametrize("way", ["redis", "postgres"])
def test_under_every_filter_random_cuts_give_what_the_log_has(
    database_url: str, way: str, request: pytest.FixtureRequest
) -> None:
    redis_url = request.getfixturevalue("redis_url") if way == "redis" else ""
    with serving(database_url, redis_url, pool_size=6) as server:
        written = threading.Event()
        with ThreadPoolExecutor(len(FILTERS) + 1) as pool:
            reading = {
                name: pool.submit(follow, server, path, written, seed)
                for seed, (name, (path, _)) in enumerate(FILTERS.items())
            }
            try:
                write(server.services.store, random.Random(1))
            finally:
                written.set()
            found = {name: future.result() for name, future in reading.items()}
        log = [event for page in server.services.store.replay() for event in page]
        for name, (_, test) in FILTERS.items():
            seen, cuts = found[name]
            assert chained(seen, seen[0]["prev"]) == [event.position for event in log if test(event)], name
            assert cuts > 0, name


def write(store: EventStore, seeded: random.Random) -> None:
    for call in range(250):
        job = f"job:{seeded.randrange(20)}" if call % 50 else "rare"
        events = [progressed(seeded.choice("abc"), seeded.randrange(100)) for _ in range(seeded.randint(1, 12))]
        store.append(job, [*events, NewEvent(type="job.noted", data={"level": "info", "message": uuid.uuid4().hex})])


def follow(server: Server, path: str, written: threading.Event, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Read under random cuts while somebody writes, as an EventSource would; the events, and how often it was cut."""
    seeded, seen, cuts = random.Random(seed), [], 0
    last: str | None = None
    while True:
        headers = {"Last-Event-ID": last} if last else {}
        with stream(server.port, path, headers) as reading:
            if cuts >= 5 and written.is_set():
                return seen + [frame.data for frame in reading.until("caught_up") if frame.event is None], cuts
            left, parser = seeded.choice((0, 100, 3_000, 30_000)) + seeded.randrange(3_000), Parser()
            while left > 0 and not written.is_set():
                part = reading.some(min(left, seeded.randrange(1, 700)))
                left -= len(part)
                for frame in parser.feed(part):
                    if frame.id is not None:
                        seen.append(frame.data)
                        last = frame.id
            reading.close(reset=seeded.random() < 0.5)
            cuts += 1
