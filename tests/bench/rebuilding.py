"""What a rebuild costs, what it costs the appends meanwhile, and how fast the chain is recomputed."""

from __future__ import annotations

import statistics
import threading
import time

from eventstore.events import NewEvent
from eventstore.store import EventStore
from eventstore.verify import verify
from projections.as_of import job_as_of
from projections.progress import Progress
from projections.rebuild import Rebuilt, rebuild
from tests.bench.report import Report


def jobs(first: int, count: int) -> list[tuple[str, NewEvent]]:
    """Ordinary jobs of 100 events: a plan of 8 steps, each started, reported ten times, completed."""
    made: list[tuple[str, NewEvent]] = []
    for number in range(first, first + count):
        job = f"rebuild:{number}"
        steps = [{"step": f"s{i}", "weight": i + 1, "label": f"第 {i} 步"} for i in range(8)]
        made.append((job, NewEvent(type="job.planned", data={"title": f"Job {number}", "steps": steps})))
        for step in ("s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"):
            made.append((job, NewEvent(type="step.started", step=step, attempt=1)))
            for tick in range(10):
                data = {"percent": tick * 10, "message": f"写入 {tick}"}
                made.append((job, NewEvent(type="step.progressed", step=step, attempt=1, data=data)))
            made.append((job, NewEvent(type="step.completed", step=step, attempt=1)))
        made.append((job, NewEvent(type="job.noted", data={"level": "info", "message": "好"})))
        made += [(job, NewEvent(type="job.started"))] * 2
    return made


def run(url: str, report: Report, *, events: int) -> None:
    store = EventStore(url, log="bench-rebuild", projection=Progress())
    if store.create_log():
        for first in range(0, events // 100, 10):
            store.append_many(jobs(first, 10))
    count = store.head().position
    quiet = _appends(store, "quiet", lambda: time.sleep(4))
    done: list[Rebuilt] = []
    busy = _appends(store, "busy", lambda: done.append(rebuild(store, processes=2)))
    alone = rebuild(store, processes=2)
    report.line(f"rebuild of {alone.events:,} events of all logs, 2 processes", f"{alone.seconds:.1f} s")
    report.ratio("rebuild, events/s (Marten publishes 8,700)", alone.events / alone.seconds, 70_000)
    slower = statistics.median(busy) / statistics.median(quiet)
    report.ratio("p50 of an append during it / before", slower, 1.5, at_most=True)
    report.ratio("appends blocked at the gate, ms", done[0].blocked * 1000, 300, at_most=True)
    checked = verify(store)
    report.ratio(f"verify of {count:,} events, events/s", checked.events / checked.seconds, 150_000)
    took = []
    for number in range(0, events // 100, max(1, events // 5_000)):
        began = time.perf_counter()
        job_as_of(store, f"rebuild:{number}", count)
        took.append(time.perf_counter() - began)
    report.ratio("as-of of one job, p50 ms", statistics.median(took) * 1000, 5, at_most=True)
    store.close()


def _appends(store: EventStore, name: str, work: object) -> list[float]:
    """Seconds of each append of one caller while `work` runs."""
    took: list[float] = []
    over = threading.Event()

    def append() -> None:
        number = 0
        while not over.is_set():
            began = time.perf_counter()
            data = {"percent": min(99, number / 100)}
            store.append(f"bench-{name}:{number // 10_000}", [NewEvent(type="job.progressed", data=data)])
            took.append(time.perf_counter() - began)
            number += 1

    caller = threading.Thread(target=append)
    caller.start()
    try:
        work()  # type: ignore[operator]
    finally:
        over.set()
        caller.join()
    return took
