"""What a question about the whole history costs on a million events, and what time travel costs on 262,200.

Pages that an index serves, and requests that look through a piece of the log: those must answer in bounded time
whatever they find, so they ask for what is nowhere.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final

import psycopg

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.as_of import job_as_of, jobs_as_of
from projections.audit import AuditFilter, Clock, Order, audit_filter, find, stream
from projections.progress import Progress
from tests.bench.report import Report
from tests.support.million import BEGAN, EVENTS, fill

LOG: Final = "bench-audit"
PAST: Final = "bench-past"
CASES: Final = 13_087
"""As many jobs, and with 262,200 as many events, as the history of BPI Challenge 2012."""
PAGE, REQUEST = 20.0, 200.0  # ms

_MIDDLE: Final = BEGAN + timedelta(seconds=EVENTS // 2)
SERVED: Final = {
    "a job": audit_filter(job="build:77"),
    "a time": audit_filter(since=_MIDDLE, until=_MIDDLE + timedelta(hours=1)),
    "applied=false": audit_filter(applied=False),
    "a job and a time": audit_filter(job="build:77", since=_MIDDLE),
}
SOUGHT: Final = {
    "a prefix of few jobs": audit_filter(prefix="build:777", steps="nowhere"),
    "a type": audit_filter(types="job.failed"),
    "a step": audit_filter(steps="nowhere"),
    "an actor": audit_filter(actors="nobody"),
    "a prefix of many jobs, and a step": audit_filter(prefix="build", steps="nowhere"),
    "a worker's time": audit_filter(clock=Clock.OCCURRED, since=BEGAN + timedelta(days=999)),
    "a reason": audit_filter(reasons="nothing"),
    "a text, 不在这里": audit_filter(text="不在这里"),
    "a text, Nowhere": audit_filter(text="Nowhere To Be Found"),
    "a text that is a member's name": audit_filter(text="message"),
    "all of these": audit_filter(
        text="nowhere", types="step.*", actors="ci", steps="step-1", prefix="build", applied=True
    ),
}


def run(url: str, report: Report, *, rounds: int) -> None:
    audit(url, report, rounds=rounds)
    time_travel(url, report, rounds=rounds)


def audit(url: str, report: Report, *, rounds: int) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        if conn.execute("SELECT 1 FROM logs WHERE name = %s", (LOG,)).fetchone() is None:
            fill(conn, LOG)
    with EventStore(url, log=LOG) as store:
        for name, wanted in SERVED.items():
            report.ratio(f"audit page by {name}, p50 ms", _page(store, wanted, rounds), PAGE, at_most=True)
        for name, wanted in SOUGHT.items():
            took, looked = _request(store, wanted, rounds)
            report.ratio(f"request by {name} ({looked:,} events), p50 ms", took, REQUEST, at_most=True)
        for name, wanted in (
            ("everything", audit_filter()),
            ("Connection RESET", audit_filter(text="connection RESET")),
        ):
            began = time.perf_counter()
            found = sum(len(events) for events in stream(store, wanted))
            report.line(
                f"stream of {name}: {found:,} events", f"{EVENTS / (time.perf_counter() - began):,.0f}/s looked at"
            )


def _page(store: EventStore, wanted: AuditFilter, rounds: int) -> float:
    """Pages of 100 from all over the log, both ways; ms."""
    took = []
    for number in range(rounds * 4):
        place = EVENTS // (rounds * 4 + 1) * (number + 1)
        took.append(_ms(partial(find, store, wanted, after=place)))
        took.append(_ms(partial(find, store, wanted, before=place, order=Order.NEWEST_FIRST)))
    return statistics.median(took)


def _request(store: EventStore, wanted: AuditFilter, rounds: int) -> tuple[float, int]:
    took, looked = [], []
    for order in Order:
        for _ in range(rounds):
            began = time.perf_counter()
            page = find(store, wanted, order=order)
            took.append((time.perf_counter() - began) * 1000)
            looked.append(page.scanned_to if order is Order.OLDEST_FIRST else EVENTS - page.scanned_to + 1)
    return statistics.median(took), int(statistics.median(looked))


def _ms(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def time_travel(url: str, report: Report, *, rounds: int) -> None:
    with EventStore(url, log=PAST, projection=Progress()) as store:
        if store.create_log():
            _cases(store)
        head = store.head().position
        moment = store.read_log(head // 2, limit=1)[0].recorded_at
        spread = range(0, CASES, CASES // (rounds * 40))
        took = [_ms(partial(job_as_of, store, f"case:{number}", head)) for number in spread]
        report.ratio("as-of of one job at a position, p50 ms", statistics.median(took), 5, at_most=True)
        took = [_ms(partial(job_as_of, store, f"case:{number}", moment)) for number in spread]
        report.ratio("as-of of one job at a time, p50 ms", statistics.median(took), 5, at_most=True)
        seconds = min(_ms(lambda: sum(1 for _ in jobs_as_of(store, head))) for _ in range(rounds)) / 1000
        report.ratio(f"as-of of all {CASES:,} jobs ({head:,} events), s", seconds, 4, at_most=True)


def _cases(store: EventStore) -> None:
    """About 20 events in each case, cases interleaved, as an import leaves them."""
    names = ("A_SUBMITTED", "W_Completeren aanvraag", "W_Nabellen offertes", "W_Valideren aanvraag", "签署", "O_SENT")
    batch: list[tuple[str, NewEvent]] = []
    for round_ in range(20):
        for case in range(CASES):
            step = names[round_ // 2 % len(names)]
            kind = "step.completed" if round_ % 2 else "step.started"
            when = BEGAN + timedelta(minutes=case, hours=round_)
            attempt = 1 + round_ // 2 // len(names)
            batch.append((f"case:{case}", NewEvent(type=kind, step=step, attempt=attempt, occurred_at=when)))
    batch += [
        ("case:0", NewEvent(type="job.noted", data={"level": "info", "message": str(n)}))
        for n in range(262_200 - len(batch))
    ]
    for start in range(0, len(batch), 1_000):
        store.append_many(batch[start : start + 1_000])
