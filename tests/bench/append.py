"""What an append costs, against the naive update and the recorder of `eventsourcing`."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from statistics import median
from typing import Any

from tests.bench.contenders import Eventsourcing, Headway, NaiveUpdate
from tests.bench.measure import Figure, alternate, figure, run_callers, run_tasks
from tests.bench.report import Report


def run(url: str, report: Report, *, seconds: float, rounds: int) -> None:
    ours, naive = Headway(url), NaiveUpdate(url)
    peer = Eventsourcing(url, 40)

    one = alternate([ours, naive], callers=1, batch=1, seconds=seconds, rounds=rounds)
    _lines(report, "1 caller × 1", [ours, naive], one)
    report.ratio("1 caller: ours / naive UPDATE", one[0].rate / one[1].rate, 0.5)

    parts = [
        (alternate([ours, naive, peer], callers=32, batch=1, seconds=seconds, rounds=1), _tasks(ours, 32, seconds))
        for _ in range(rounds)
    ]
    threads, updates, recorder = (median(part[0][place].rate for part in parts) for place in range(3))
    tasks = median(part[1].rate for part in parts)
    _lines(report, "32 threads × 1", [ours, naive, peer], parts[0][0])
    report.figure("headway, 32 tasks × 1", parts[0][1])
    report.ratio("32 callers (tasks): ours / naive UPDATE", tasks / updates, 1.5)
    report.ratio("32 callers (threads): ours / naive UPDATE", threads / updates, 1.5)
    report.ratio("32 callers (tasks): ours / eventsourcing", tasks / recorder, 10)
    report.ratio("32 callers (threads): ours / eventsourcing", threads / recorder, 10)

    few_many = [_tasks(ours, callers, seconds) for callers in (32, 256) * rounds]
    report.figure("headway, 256 tasks × 1", few_many[1])
    few, many = (median(one.rate for one in few_many[start::2]) for start in (0, 1))
    report.ratio("256 callers / 32 callers (tasks)", many / few, 1.4)

    for batch in (100, 1_000):
        pair = alternate([ours, peer], callers=1, batch=batch, seconds=seconds, rounds=rounds)
        _lines(report, f"1 caller × {batch}", [ours, peer], pair)
        report.ratio(f"1 caller × {batch}: ours / eventsourcing", pair[0].rate / pair[1].rate, 0.5)

    single, four = [], []
    for _ in range(rounds):
        single.append(_processes(url, processes=1, callers=32, seconds=seconds))
        four.append(_processes(url, processes=4, callers=8, seconds=seconds))
    report.line("1 process × 32 callers", f"{sorted(single)[rounds // 2]:,.0f}/s")
    report.line("4 processes × 8 callers", f"{sorted(four)[rounds // 2]:,.0f}/s")
    report.ratio("4 processes / 1 process", sorted(four)[rounds // 2] / sorted(single)[rounds // 2], 0.7)
    for contender in (ours, naive, peer):
        contender.close()


def _lines(report: Report, title: str, contenders: list[Any], figures: list[Figure]) -> None:
    for contender, one in zip(contenders, figures, strict=True):
        report.figure(f"{contender.name}, {title}", one)


def _tasks(ours: Headway, callers: int, seconds: float) -> Figure:
    async def run() -> tuple[float, list[float]]:
        writes = [ours.async_writer(caller) for caller in range(callers)]
        await run_tasks(writes, 1, 0.5)
        return await run_tasks(writes, 1, seconds)

    rate, latencies = asyncio.run(run())
    return figure([rate], sorted(latencies))


def _processes(url: str, *, processes: int, callers: int, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(processes), context.Queue()
    children = [
        context.Process(target=_child, args=(url, callers, seconds, number, ready, rates))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    total = sum(rates.get(timeout=seconds + 60) for _ in children)
    for child in children:
        child.join()
    return float(total)


def _child(url: str, callers: int, seconds: float, number: int, ready: Any, rates: Any) -> None:
    ours = Headway(url)
    run_id = f"{number}-{time.time_ns()}"
    writes = [ours.writer(caller, 1, run_id) for caller in range(callers)]
    run_callers(writes, 1, 0.5)
    ready.wait()
    rate, _ = run_callers(writes, 1, seconds)
    rates.put(rate)
    ours.close()
