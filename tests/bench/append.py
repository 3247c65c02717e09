"""What an append costs, against the naive update and the recorder of `eventsourcing`."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

from tests.bench.contenders import Eventsourcing, Headway, NaiveUpdate
from tests.bench.measure import Figure, alternate, run_callers
from tests.bench.report import Report


def run(url: str, report: Report, *, seconds: float, rounds: int) -> None:
    ours, naive = Headway(url), NaiveUpdate(url)
    peer = Eventsourcing(url, 40)

    one = alternate([ours, naive], callers=1, batch=1, seconds=seconds, rounds=rounds)
    _lines(report, "1 caller × 1", [ours, naive], one)
    report.ratio("1 caller: ours / naive UPDATE", one[0].rate / one[1].rate, 0.5)

    many = alternate([ours, naive, peer], callers=32, batch=1, seconds=seconds, rounds=rounds)
    _lines(report, "32 callers × 1", [ours, naive, peer], many)
    report.ratio("32 callers: ours / naive UPDATE", many[0].rate / many[1].rate, 1.5)
    report.ratio("32 callers: ours / eventsourcing", many[0].rate / many[2].rate, 10)

    few_many = [alternate([ours], callers=n, batch=1, seconds=seconds, rounds=1)[0] for n in (32, 256) * rounds]
    report.figure("ours, 256 callers × 1", few_many[1])
    report.ratio(
        "256 callers / 32 callers", max(f.rate for f in few_many[1::2]) / max(f.rate for f in few_many[::2]), 1.4
    )

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
    for contender, figure in zip(contenders, figures, strict=True):
        report.figure(f"{contender.name}, {title}", figure)


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
