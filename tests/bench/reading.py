"""What reading costs: replay against a raw COPY, the relay's catch-up, an append seen in another process."""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import redis

from eventstore.aio import AsyncEventStore
from eventstore.events import NewEvent
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.statements import COLUMNS
from eventstore.store import EventStore
from eventstore.wire import decode_event, stream_key
from projections.progress import Progress
from tests.bench.contenders import progress
from tests.bench.report import Report


def filled(url: str, events: int) -> EventStore:
    """A log with so many events of ordinary jobs."""
    store = EventStore(url, log="bench-read", projection=Progress())
    if store.create_log():
        for start in range(0, events, 1_000):
            store.append(f"fill:{start // 20_000}", [progress(start % 20_000 + i) for i in range(1_000)])
    return store


def replay(url: str, report: Report, *, rounds: int, events: int) -> None:
    store = filled(url, events)
    copies, replays = [], []
    rows = f"SELECT {COLUMNS} FROM events WHERE log_id = {store.log_id()} ORDER BY position"
    copy = f"COPY ({rows}) TO STDOUT (FORMAT BINARY)"
    with psycopg.connect(url, autocommit=True) as conn:
        for _ in range(rounds):
            began, count = time.perf_counter(), 0
            with conn.cursor().copy(copy.encode()) as drained:
                for _ in drained:
                    count += 1
            copies.append(count / (time.perf_counter() - began))
            began = time.perf_counter()
            count = sum(len(page) for page in store.replay())
            replays.append(count / (time.perf_counter() - began))
    report.line(f"raw COPY drain of {events:,} events", f"{statistics.median(copies):,.0f}/s")
    report.line("replay into Python structs", f"{statistics.median(replays):,.0f}/s")
    report.ratio("replay / COPY", statistics.median(replays) / statistics.median(copies), 0.4)
    store.close()


def relay_catch_up(url: str, redis_url: str, report: Report, *, events: int) -> None:
    store = filled(url, events)
    client = redis.from_url(redis_url)
    client.flushall()
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DELETE FROM checkpoints WHERE log_id = %s", (store.log_id(),))
    head = store.head()
    key = stream_key(store.log, head.epoch)
    relay = Relay(store, [RedisStreams(redis_url, keep=events)])
    began = time.perf_counter()
    with start_relay(relay):
        while not client.exists(key) or client.xinfo_stream(key)["last-generated-id"] != f"{head.position}-0".encode():
            time.sleep(0.01)
        took = time.perf_counter() - began
    report.ratio(f"relay catch-up of {head.position:,} events, events/s", head.position / took, 80_000)
    used = client.memory_usage(key) or 0
    report.line("Redis memory per 100,000 entries", f"{used / head.position * 100_000 / 1e6:,.0f} MB")
    client.close()
    store.close()


def latency(url: str, redis_url: str, report: Report, *, seconds: float) -> None:
    """Open loop: appends at a fixed rate from 32 tasks, a consumer with XREAD in another process."""
    store = EventStore(url, log="bench-live", projection=Progress())
    store.create_log()
    context = multiprocessing.get_context("spawn")
    for rate in (100, 1_000, 3_000):
        inbox = context.Queue()
        head = store.head()
        consumer = context.Process(target=_consume, args=(redis_url, store.log, head.epoch, head.position, inbox))
        with start_relay(Relay(store, [RedisStreams(redis_url)])):
            consumer.start()
            inbox.get(timeout=30)
            appended = asyncio.run(_produce(store, rate, seconds))
            seen: list[float] = inbox.get(timeout=60)
        consumer.join()
        own, through = statistics.median(appended) * 1000, statistics.median(seen) * 1000
        report.line(
            f"append → consumer through Redis at {rate:,}/s",
            f"p50 {_ms(seen, 0.5)} ms, p99 {_ms(seen, 0.99)} ms; the append's own p50 {_ms(appended, 0.5)} ms",
        )
        report.ratio(f"p50 above the append's own at {rate:,}/s, ms", through - own, 2.0, at_most=True)
    store.close()


async def _produce(store: EventStore, rate: int, seconds: float) -> list[float]:
    shell = AsyncEventStore(store)
    took: list[float] = []
    job = f"live:{time.time_ns()}"

    async def one(number: int) -> None:
        began = time.time_ns()
        data = {"done": number // 32, "total": 1_000_000, "message": "推送", "sent": began // 1_000}
        await shell.append(f"{job}:{number % 32}", [NewEvent(type="step.progressed", step="push", data=data)])
        took.append((time.time_ns() - began) / 1e9)

    tasks: list[asyncio.Task[None]] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        ahead = began + number / rate - time.perf_counter()
        if ahead > 0.001:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    await shell.append(f"{job}:end", [NewEvent(type="job.noted", data={"level": "info", "message": "end"})])
    return took


def _consume(redis_url: str, log: str, epoch: int, last: int, inbox: Any) -> None:
    client = redis.from_url(redis_url)
    key, seen, ended = stream_key(log, epoch), [], False
    inbox.put("ready")
    while not ended:
        for _, entries in client.xread({key: f"{last}-0"}, count=1_000, block=5_000) or ():
            now = time.time_ns() // 1_000
            for entry_id, fields in entries:
                event = decode_event(fields[b"event"])
                last = int(entry_id.split(b"-")[0])
                ended = event.job_id.endswith(":end")
                if not ended:
                    seen.append((now - event.data["sent"]) / 1e6)
    inbox.put(seen)


def old_system(url: str, redis_url: str, report: Report, *, seconds: float) -> None:
    """What users of the old pair know: a write 2-5 ms, a read 2-5 ms, a cached read 0.1 ms."""
    from projections.snapshots import read_snapshot

    store = EventStore(url, log="bench-old", projection=Progress())
    store.create_log()
    client = redis.from_url(redis_url)
    writes, reads, cached = [], [], []
    stop = time.perf_counter() + seconds
    number = 0
    client.set("headway-bench", b"x" * 2_000)
    while time.perf_counter() < stop:
        number += 1
        began = time.perf_counter()
        store.append("old:1", [progress(number)])
        writes.append(time.perf_counter() - began)
        began = time.perf_counter()
        read_snapshot(store, "old:1")
        reads.append(time.perf_counter() - began)
        began = time.perf_counter()
        client.get("headway-bench")
        cached.append(time.perf_counter() - began)
    client.delete("headway-bench")
    for name, known, took in (("write", "2-5", writes), ("read", "2-5", reads), ("cached read", "0.1", cached)):
        report.line(f"one {name} (old pair: {known} ms)", f"p50 {_ms(took, 0.5)} ms, p99 {_ms(took, 0.99)} ms")
    client.close()
    store.close()


def _ms(took: Sequence[float], share: float) -> str:
    return f"{sorted(took)[int(len(took) * share)] * 1000:.2f}"


def size(url: str, report: Report) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        row = conn.execute("SELECT pg_total_relation_size('events'), count(*) FROM events").fetchone()
    assert row is not None
    report.line("PostgreSQL per million events, with indexes", f"{row[0] / row[1] * 1e6 / 1e6:,.0f} MB")
