"""The demonstration while it runs: bars on a terminal, lines elsewhere. Drawn from the events alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol

import click

from api.cli.lines import error_text, event_line
from api.cli.output import MARKS, STYLES, bar, columns, console, on_terminal, percent_text
from api.cli.text import shortened, visible
from eventstore.events import RecordedEvent
from projections import fold
from projections.state import JobState, StepState

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH: Final = 24  # columns of a bar
OFTEN: Final = 100_000  # ppm between two lines of one step
SELDOM: Final = 30.0  # seconds between two lines of one step


class View(Protocol):
    def show(self, event: RecordedEvent) -> None: ...

    def refresh(self) -> None: ...


@contextmanager
def view(job_id: str) -> Iterator[View]:
    """Bars if people watch on a terminal, else lines."""
    if not on_terminal():
        yield Lines(job_id)
        return
    from rich.live import Live

    bars = Bars(job_id)
    with Live(get_renderable=bars.render, console=console(), auto_refresh=False, vertical_overflow="visible") as live:
        bars.live = live
        yield bars


class Bars:
    """A bar per step and one for the job, redrawn; what must not be missed is printed above them."""

    def __init__(self, job_id: str) -> None:
        from rich.live import Live

        self._state = fold.initial(job_id)
        self.live: Live | None = None

    def show(self, event: RecordedEvent) -> None:
        self._state, _ = fold.evolve(self._state, event)
        if self.live is not None and (text := worth_a_line(event)):
            self.live.console.print(text, style="yellow", soft_wrap=True)

    def refresh(self) -> None:
        if self.live is not None:
            self.live.refresh()

    def render(self) -> RenderableType:
        from rich.text import Text

        state = self._state
        table = columns("", "", "", "", "")
        table.show_header = False
        room = max(console().width - WIDTH - 40, 10)
        for step in steps_of(state):
            style = STYLES.get(step.status, "")
            table.add_row(
                Text(MARKS.get(step.status, " "), style=style),
                Text(visible(step.label or step.step)),
                Text(bar(step.frac, WIDTH), style=style),
                Text(f"{percent_text(step.frac):>7}"),
                Text(shortened(said(step), room), style="dim"),
            )
        table.add_row(
            "",
            Text(visible(state.title or state.job_id), style="bold"),
            Text(bar(state.percent, WIDTH), style="bold green"),
            Text(f"{percent_text(state.percent):>7}", style="bold"),
            Text(state.status, style=STYLES.get(state.status, "")),
        )
        return table


class Lines:
    """A line when a step changes its phase, and every ten percent; every rejected report."""

    def __init__(self, job_id: str) -> None:
        self._state = fold.initial(job_id)
        self._last: dict[str, tuple[str, int, float]] = {}

    def show(self, event: RecordedEvent) -> None:
        self._state, _ = fold.evolve(self._state, event)
        if text := worth_a_line(event):
            click.echo(text)
        step = self._state.steps.get(event.step or "")
        if step is None or not event.applied:
            return
        status, frac, at = self._last.get(step.step, ("", 0, 0.0))
        now = time.monotonic()
        if status != step.status or step.frac - frac >= OFTEN or now - at >= SELDOM:
            self._last[step.step] = step.status, step.frac, now
            text = f"{percent_text(self._state.percent):>7}  {MARKS.get(step.status, ' ')} "
            text += f"{visible(step.label or step.step)}  {percent_text(step.frac)}  {said(step)}"
            click.echo(text.rstrip())

    def refresh(self) -> None:
        pass


def steps_of(state: JobState) -> list[StepState]:
    return sorted(state.steps.values(), key=attrgetter("ordinal"))


def said(step: StepState) -> str:
    """What a step has to say besides its percentage."""
    attempt = f"attempt {step.attempt}" if step.attempt > 1 else ""
    count = f"{step.done}/{step.total} {step.unit or ''}".strip() if step.total else ""
    return visible("  ".join(part for part in (step.status, attempt, count, step.message or "") if part))


def worth_a_line(event: RecordedEvent) -> str | None:
    """A line about what must not be missed: a report that does not count, an attempt that failed."""
    if not event.applied:
        return event_line(event)
    if event.type == "step.failed":
        what = error_text(event.data.get("error")).partition("\\x0a")[0]
        return f"{visible(event.step or '')}, attempt {event.attempt}, failed: {what}"
    return None
