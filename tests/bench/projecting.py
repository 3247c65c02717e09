"""How fast a runner takes a log, how soon after an append it is read, and how often the remaining time was right."""

from __future__ import annotations

import os
import statistics
import time

import sqlalchemy as sa

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.calibration import calibrate, jobs_of
from projections.importing import import_file
from projections.progress import Progress
from projections.projection import Events, Projection
from projections.runner import Runner, start_runner
from projections.shipped import shipped
from tests.bench.rebuilding import jobs
from tests.bench.report import Report


class Nothing(Projection):
    """What the framework itself costs."""

    name = "bench_nothing"
    tables = ("CREATE TABLE bench_nothing (n int)",)

    def handle(self, conn: sa.Connection, events: Events) -> None:
        del conn, events


def run(url: str, report: Report, *, events: int) -> None:
    store = EventStore(url, log="bench-project", projection=Progress())
    if store.create_log():
        for first in range(0, events // 100, 10):
            store.append_many(jobs(first, 10))
    for projection in (Nothing(), *shipped()):
        runner = Runner(store, projection)
        began = time.perf_counter()
        count = runner.catch_up()
        seconds = time.perf_counter() - began
        report.line(f"runner, {projection.name}: {count:,} events", f"{count / seconds:>12,.0f}/s")
    took = []
    with start_runner(Runner(store, Nothing())) as runner:
        for number in range(200):
            (answer,) = store.append(
                "bench:fresh", [NewEvent(type="job.noted", data={"level": "info", "message": "x"})]
            )
            began = time.perf_counter()
            runner.wait_for(answer.position)
            took.append(time.perf_counter() - began)
            del number
    report.line("append acknowledged → taken by the runner, p50", f"{statistics.median(took) * 1000:8.2f} ms")
    store.close()


def calibration(url: str, report: Report) -> None:
    """With BENCH_HISTORY=FILE the answers of `eta` about a real history."""
    path = os.environ.get("BENCH_HISTORY")
    if not path:
        report.line("calibration of the remaining time", "BENCH_HISTORY=FILE asks it of a history (XES, NDJSON, CSV)")
        return
    with EventStore(url, log="bench-history", projection=Progress()) as store:
        store.create_log()
        import_file(store, path)
        found = calibrate(jobs_of(store))
    print(found.text(), flush=True)
    report.line("remaining time: ranges that held the truth (aim 80 %)", f"{found.inside:.1f} %")
