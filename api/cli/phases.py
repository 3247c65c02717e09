"""What `watch` says where there is no terminal: few lines, each worth one in a CI log."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from api.cli.lines import error_line, error_text, what_it_says
from api.cli.output import percent_text, span
from api.cli.text import shortened, visible
from eventstore.events import ENDING_TYPES, RecordedEvent, to_datetime, to_us

if TYPE_CHECKING:
    from projections.snapshots import JobSnapshot

EVERY: Final = 30.0  # seconds between two lines about mere progress, unless …
STRIDE: Final = 100_000  # … the whole went on by this much (ppm)
MANY: Final = 100  # steps; of a job with more only failures and retries get a line each
SAID: Final = 120  # columns of what a report says

VERBS: Final = {
    "job.planned": "planned",
    "job.started": "started",
    "job.waiting": "waiting",
    "job.resumed": "resumed",
    "job.reopened": "reopened",
    "step.started": "started",
    "step.waiting": "waiting",
    "step.resumed": "resumed",
    "step.completed": "completed",
    "step.failed": "failed",
    "step.skipped": "skipped",
    "step.cancelled": "cancelled",
    "step.reset": "reset",
    "step.removed": "removed",
}
ALWAYS: Final = frozenset({"step.failed", "step.waiting", "step.reset"})


class Phases:
    """Turns a job's events into lines: a change of phase always, mere progress every 30 s or 10 %."""

    def __init__(self, snapshot: JobSnapshot, clock: Callable[[], float] | None = None) -> None:
        self.snapshot = snapshot
        self._clock = clock or time.monotonic
        self._told_at = self._clock()
        self._told_ppm = round(snapshot.percent * 10_000)

    def now(self) -> str:
        """How the job stands: the first line for who comes late."""
        job = self.snapshot
        title = f" {visible(job.title)}" if job.title else ""
        steps = f", {job.steps_done} of {job.steps_total} steps done" if job.steps_total else ""
        current = f", at {self.label(job.current_step)}" if job.current_step and job.ended_at is None else ""
        return self._line(
            to_us(job.updated_at), self._told_ppm, f"{visible(job.job_id)}{title}: {job.status}{steps}{current}"
        )

    def line(self, event: RecordedEvent) -> str | None:
        """The line for an event, None for most; of the end tells `end`."""
        if event.type in ENDING_TYPES:
            return None
        verb = VERBS.get(event.type)
        many = self.snapshot.steps_total > MANY
        about_step = event.step is not None
        if verb is None or (about_step and many and event.type not in ALWAYS):
            if self._clock() - self._told_at < EVERY and event.ppm - self._told_ppm < STRIDE:
                return None
            verb = verb or ""
        what = visible(self.snapshot.job_id) if not about_step else self.label(event.step or "")
        attempt = f" (attempt {event.attempt})" if event.attempt is not None and event.attempt > 1 else ""
        said = error_text(event.data.get("error")) if event.type.endswith("failed") else what_it_says(event)
        text = f"{what} {verb}".rstrip() + attempt + (f": {shortened(said, SAID)}" if said else "")
        self._told_at, self._told_ppm = self._clock(), event.ppm
        return self._line(event.recorded_us, event.ppm, text)

    def may_end(self, event: RecordedEvent) -> bool:
        """Whether the job may have another plan or be over after this event, so that it is worth a look."""
        return event.ppm == 1_000_000 or event.type.startswith("job.") or event.type in ("step.added", "step.removed")

    def end(self, job: JobSnapshot) -> str:
        """The last line: how it ended and how long it took."""
        took = ""
        if job.started_at is not None and job.ended_at is not None:
            took = f" after {span(to_us(job.ended_at) - to_us(job.started_at))}"
        why = error_line(job.error) or visible(job.reason or "")
        rejected = f", {job.rejected} reports did not count" if job.rejected else ""
        steps = f", {job.steps_done} of {job.steps_total} steps done" if job.steps_total else ""
        return self._line(
            to_us(job.ended_at or job.updated_at),
            round(job.percent * 10_000),
            f"{visible(job.job_id)} {job.status}{took}{steps}{rejected}" + (f": {shortened(why, SAID)}" if why else ""),
        )

    def label(self, step: str) -> str:
        found = self.snapshot.step(step)
        return visible(found.label if found is not None and found.label else step)

    def _line(self, us: int, ppm: int, text: str) -> str:
        moment: datetime = to_datetime(us).astimezone()
        return f"{moment:%H:%M:%S} {percent_text(ppm):>7}  {text}"
