"""Bring reports to the log: in order, again and again while the log is away, each at most once in the end.

Runs in the sender's thread. An error with `retryable` true is waited out; any other one costs the report that
caused it, with a warning, and none of its neighbours.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from headway.payload import sendable
from headway.report import Known, Outgoing, Report, Run, new_event_id
from headway.transport import Transport

FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 5.0  # seconds
STRANGE: Final = 5  # tries at an error that nobody described

Warn = Callable[..., None]


class Delivery:
    """Sends batches. `dropped` counts reports that the log refused or that were given up."""

    def __init__(self, transport: Transport, warn: Warn) -> None:
        self._transport = transport
        self._warn = warn
        self._stop = threading.Event()
        self._away = False
        self._told: set[str] = set()
        self.dropped = 0
        self.in_flight = 0

    def send(self, reports: Sequence[Report]) -> None:
        """Returns when each report is in the log, or was given up."""
        self.in_flight = len(reports)
        try:
            self._send(list(reports))
        finally:
            self.in_flight = 0

    def give_up(self) -> None:
        """Stop retrying: the process is about to end."""
        self._stop.set()

    @property
    def given_up(self) -> bool:
        return self._stop.is_set()

    def _send(self, reports: list[Report]) -> None:
        failures = 0
        while reports:
            try:
                outgoing = self._prepare(reports)
                if outgoing:
                    self._transport.send(outgoing)
            except Exception as error:
                failures += 1
                if self._wait_out(error, failures):
                    continue
                if len(reports) > 1 and not self._stop.is_set():
                    # One of them is at fault, or a call that is too large: alone, each fails for itself only.
                    for report in reports:
                        self._send([report])
                    return
                self._drop(reports, error)
                return
            self._back()
            return

    def _prepare(self, reports: Sequence[Report]) -> list[Outgoing]:
        outgoing: list[Outgoing] = []
        for report in reports:
            run = report.run
            if run.base is None:
                self._look(run, report)
            if run.reopen is not None and run.reopen[0] == report.event_id:
                why = {"by": run.worker, "reason": "started again"}
                outgoing.append(_outgoing(report, run, "job.reopened", run.reopen[1], why))
            if run.reopen is not None and report.type == "job.started":
                continue  # reopening it has started it
            outgoing.append(_outgoing(report, run, report.type, report.event_id, sendable(report.type, report.data)))
        return outgoing

    def _look(self, run: Run, first: Report) -> None:
        """Ask the log once what it knows of the job: attempts count on, and a job that had failed is opened again."""
        known: Known | None = self._transport.look(run.job_id)
        run.base = {} if known is None else known.attempts
        if known is None:
            return
        if known.status in ("failed", "cancelled"):
            run.reopen = first.event_id, new_event_id()
        elif known.status == "completed":
            self._once(
                f"completed {run.job_id}",
                "job %s was completed before: what is reported now is kept but doesn't count; to run it again, start "
                "a job under a new id with continues=%r",
                run.job_id,
                run.job_id,
            )

    def _wait_out(self, error: Exception, failures: int) -> bool:
        """Whether to try again, after a pause. The first failure in a row is one warning line."""
        known = hasattr(error, "retryable")
        if self._stop.is_set() or not (getattr(error, "retryable", False) or (not known and failures < STRANGE)):
            return False
        if not self._away and failures > 1:
            self._away = True
            self._warn("the log can't be reached, reports wait: %s", error)
        pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
        self._stop.wait(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter, not a secret
        return not self._stop.is_set()

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._warn("the log is back, what waited was sent")

    def _drop(self, reports: Sequence[Report], error: Exception) -> None:
        self.dropped += len(reports)
        if not self._stop.is_set():
            report = reports[0]
            self._once(
                f"{report.type} {getattr(error, 'code', type(error).__name__)}",
                "a report was refused and is lost (%s of job %s): %s",
                report.type,
                report.run.job_id,
                error,
            )

    def _once(self, what: str, text: str, *args: object) -> None:
        if what not in self._told:
            self._told.add(what)
            self._warn(text, *args)


def _outgoing(report: Report, run: Run, kind: str, event_id: bytes, data: dict[str, Any]) -> Outgoing:
    about_job = kind.startswith("job.")
    attempt = report.attempt
    if attempt is not None and run.base and report.step is not None:
        attempt += run.base.get(report.step, 0)
    return Outgoing(
        job_id=run.job_id,
        type=kind,
        step=None if about_job else report.step,
        attempt=None if about_job else attempt,
        seq=None if about_job else report.seq,
        occurred_us=report.occurred_us,
        event_id=event_id,
        data=data,
    )
