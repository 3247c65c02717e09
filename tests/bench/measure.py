"""Run contenders in turn, A B A B …, so that a machine that slows down slows all of them."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Sequence

import msgspec

from tests.bench.contenders import AsyncWrite, Contender, Write


class Figure(msgspec.Struct):
    """Rate in events per second (median over the rounds) and latency of one write in ms."""

    rate: float
    p50: float
    p99: float
    rounds: list[float]


def run_callers(writes: Sequence[Write], batch: int, seconds: float) -> tuple[float, list[float]]:
    """Each write in a thread of its own, in a closed loop. Events per second, and seconds per write."""
    latencies: list[list[float]] = [[] for _ in writes]
    start = threading.Barrier(len(writes) + 1)
    stop = threading.Event()

    def loop(write: Write, mine: list[float]) -> None:
        start.wait()
        while not stop.is_set():
            began = time.perf_counter()
            write()
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=loop, args=pair) for pair in zip(writes, latencies, strict=True)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    flat = [latency for mine in latencies for latency in mine]
    return len(flat) * batch / took, flat


def alternate(
    contenders: Sequence[Contender], *, callers: int, batch: int, seconds: float, rounds: int
) -> list[Figure]:
    """One figure per contender. Half a second of each is warm-up and not counted."""
    rates: list[list[float]] = [[] for _ in contenders]
    latencies: list[list[float]] = [[] for _ in contenders]
    all_writes = [[c.writer(k, batch) for k in range(callers)] for c in contenders]
    for writes in all_writes:
        run_callers(writes, batch, 0.5)
    for _ in range(rounds):
        for index, writes in enumerate(all_writes):
            rate, took = run_callers(writes, batch, seconds)
            rates[index].append(rate)
            latencies[index] += took
    return [figure(r, sorted(t)) for r, t in zip(rates, latencies, strict=True)]


async def run_tasks(writes: Sequence[AsyncWrite], batch: int, seconds: float) -> tuple[float, list[float]]:
    """As `run_callers`, with a task for each caller."""
    latencies: list[float] = []
    began = time.perf_counter()

    async def loop(write: AsyncWrite) -> None:
        while (start := time.perf_counter()) - began < seconds:
            await write()
            latencies.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for write in writes:
            group.create_task(loop(write))
    return len(latencies) * batch / (time.perf_counter() - began), latencies


def figure(rates: list[float], latencies: list[float]) -> Figure:
    return Figure(
        rate=statistics.median(rates),
        p50=latencies[len(latencies) // 2] * 1000,
        p99=latencies[int(len(latencies) * 0.99)] * 1000,
        rounds=[round(rate) for rate in rates],
    )
