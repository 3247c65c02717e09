"""What a worker's code imports: report what a job does, without ever being in its way.

    import headway

    headway.connect("postgresql://…")

    with headway.job("import:42", title="Import of March", plan=["fetch", "store"]) as job:
        with job.step("fetch") as step:
            for page in step.track(pages):
                …
        for attempt in job.attempts("store", 3):
            with attempt as step:
                step.progress(42.5, message="writing")

Every report becomes an event in a log that is never rewritten. Reporting costs microseconds and never raises: if the
log is away, reports wait and are sent later; if it stays away, they are dropped and a warning says how many. Secrets
are taken out before anything is sent. Code that is called from a step finds it by itself:

    headway.current_step().note("cache is cold")
    for row in headway.track(rows): …

`headway.Client` and `headway.AsyncClient` talk to a server over HTTP: append, look, follow (see `headway.client`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from headway.errors import HeadwayError, Misuse
from headway.jobs import Job, current_job
from headway.loops import Tracked
from headway.plan import StepDef, step_def
from headway.reporter import RATE, Counts, Reporter
from headway.steps import NO_STEP, Step, current_step
from headway.transport import StoreTransport, Transport
from headway.work import Moment

if TYPE_CHECKING:
    from headway.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Client",
    "Counts",
    "HeadwayError",
    "Job",
    "Misuse",
    "Reporter",
    "Step",
    "StepDef",
    "Transport",
    "close",
    "connect",
    "current_job",
    "current_step",
    "flush",
    "job",
    "step",
    "step_def",
    "track",
]

FLUSH: Final = 5.0  # seconds

T = TypeVar("T")

_reporter: Reporter | None = None
_told: set[str] = set()


def connect(target: Any, *, log: str = "default", strict: bool = False, rate: float = RATE) -> Reporter:
    """Say where this process reports to: a PostgreSQL URL, a store, or a `Transport`. Does not connect yet.

    At most `rate` progress reports per second and step are sent. `strict=True` raises `Misuse` for wrong arguments
    instead of one warning, for tests of your code. Connecting again sends what waits, then takes the new place.
    A store that is closed sends what waits first, so an exception that leaves both `with` blocks is reported.
    """
    global _reporter
    reporting = hasattr(target, "send") and hasattr(target, "look")
    reporter = Reporter(target if reporting else StoreTransport(target, log=log), strict=strict, rate=rate)
    previous, _reporter = _reporter, reporter
    before_close = getattr(getattr(target, "blocking", target), "before_close", None)
    if before_close is not None:
        before_close(lambda: _reporter is reporter and reporter.flush(FLUSH))
    if previous is not None:
        previous.close()
    return reporter


def job(
    job_id: str,
    *,
    title: str | None = None,
    kind: str | None = None,
    plan: Iterable[StepDef | str] | None = None,
    continues: str | None = None,
    worker: str | None = None,
) -> Job:
    """One run of some work, for `with`, `async with`, or as a decorator (`@headway.job("nightly:{day}")`).

    `job_id`: 1 to 200 of A-Z a-z 0-9 . _ : @ - . `plan`: names of steps, or `step_def(…)`; without one, steps are
    tracked as they come and the percentage stays 0 until the end. `continues` is the id of the run before this one.
    """
    if _reporter is None and not _told:
        _told.add(job_id)
        logging.getLogger("headway").warning("headway: job %s is not reported: call headway.connect first", job_id)
    return Job(_reporter, job_id, title=title, kind=kind, plan=plan, continues=continues, worker=worker)


def step(name: str, *, message: str | None = None, retry_in: Moment | None = None) -> Step:
    """A step of the current job, for `with`, `async with`, or as a decorator."""
    return Step(current_job() or None, name, message=message, retry_in=retry_in)


def track(
    items: Iterable[T] | AsyncIterable[T],
    *,
    total: int | None = None,
    unit: str | None = None,
    message: str | None = None,
) -> Tracked[T]:
    """The same items; each one that is done counts for the current step. See `Step.track`."""
    return (current_step() or NO_STEP).track(items, total=total, unit=unit, message=message)


def flush(timeout: float = FLUSH) -> bool:
    """Wait until all that was reported is in the log; False if that took longer than `timeout` seconds."""
    return _reporter is None or _reporter.flush(timeout)


def close(timeout: float = FLUSH) -> bool:
    """`flush`, then end the sender and its connection; jobs that start now are not reported."""
    global _reporter
    reporter, _reporter = _reporter, None
    return reporter is None or reporter.close(timeout)


def __getattr__(name: str) -> Any:
    """`Client` and `AsyncClient` when first used: a worker that reports to a store loads no HTTP library."""
    if name in ("AsyncClient", "Client"):
        import headway.client

        return getattr(headway.client, name)
    raise AttributeError(f"module 'headway' has no attribute {name!r}")
