"""The live picture of a job on a terminal: the whole, then its steps, as many as there is room for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api.cli.jobs import count_text, status_text
from api.cli.lines import error_line
from api.cli.output import MARKS, STYLES, percent_text, span
from api.cli.text import shortened, visible
from eventstore.events import to_us

if TYPE_CHECKING:
    from projections.snapshots import JobSnapshot, StepView

AROUND: Final = 5  # lines that are not steps
NARROW: Final = 60  # columns; below that bars are short and nothing is said beside them
FIRST: Final = ("running", "retrying", "waiting", "failed", "abandoned", "pending")
"""Which steps are shown when there are more than lines; the others are counted."""


class Picture:
    """Draws its `snapshot` each time it is rendered, so that durations go on while nothing else happens."""

    def __init__(self, snapshot: JobSnapshot) -> None:
        self.snapshot = snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        job = self.snapshot
        width, room = options.max_width, max((options.height or console.size.height) - AROUND, 1)
        title = f"  {visible(job.title)}" if job.title else ""
        yield fitted(Text.assemble((visible(job.job_id), "bold cyan"), title), width)
        ppm = round(job.percent * 10_000)
        whole = Table.grid(padding=(0, 1))
        whole.add_row(
            ProgressBar(total=1_000_000, completed=ppm, width=max(min(width - 36, 50), 8)),
            Text(percent_text(ppm), style="bold"),
            status_text(job.status),
            Text(elapsed(job), style="dim"),
        )
        yield whole
        yield fitted(Text(visible(job.message or job.reason or ""), style="dim"), width)
        steps = chosen(job.steps, room)
        if steps:
            yield step_grid(steps, width)
        if len(steps) < len(job.steps):
            hidden = Counter(step.status for step in job.steps) - Counter(step.status for step in steps)
            more = ", ".join(f"{count} {status}" for status, count in hidden.items())
            yield fitted(Text(f"  … and {more}", style="dim"), width)


def chosen(steps: Sequence[StepView], room: int) -> list[StepView]:
    """At most `room` steps in the order of the plan: those that matter most now."""
    if len(steps) <= room:
        return list(steps)
    rank = {status: place for place, status in enumerate(FIRST)}
    order = sorted(range(len(steps)), key=lambda at: (rank.get(steps[at].status, len(FIRST)), at))
    return [steps[at] for at in sorted(order[:room])]


def step_grid(steps: Sequence[StepView], width: int) -> Table:
    """A line for each step: mark, label, bar, percentage, and what it says if there is room."""
    narrow = width < NARROW
    bar = 8 if narrow else max(min((width - 30) // 3, 30), 10)
    labels = [visible(step.label or step.step) for step in steps]
    wide = min(max(cell_len(label) for label in labels), max(width - bar - 14, 4), 40)
    rest = width - wide - bar - 16
    grid = Table.grid(padding=(0, 1))
    for step, label in zip(steps, labels, strict=True):
        ppm = round(step.percent * 10_000)
        cells: list[Text | ProgressBar] = [
            Text(MARKS.get(step.status, " "), style=STYLES.get(step.status, "")),
            Text(shortened(label, wide)),
            ProgressBar(total=1_000_000, completed=ppm, width=bar),
            Text(f"{percent_text(ppm):>7}"),
        ]
        if not narrow and rest > 8:
            cells.append(Text(shortened(beside(step), rest), style="red" if step.status == "failed" else "dim"))
        grid.add_row(*cells)
    return grid


def beside(step: StepView) -> str:
    """What stands beside a step's bar: which try, how many, its error or message."""
    attempt = f"try {step.attempt}" if step.attempt > 1 else ""
    failed = step.status in ("failed", "retrying")
    said = error_line(step.error) if failed and step.error is not None else visible(step.message or step.reason or "")
    return "  ".join(part for part in (attempt, count_text(step), said) if part)


def elapsed(job: JobSnapshot) -> str:
    if job.started_at is None:
        return ""
    end = to_us(job.ended_at) if job.ended_at is not None else time.time_ns() // 1_000
    return span(end - to_us(job.started_at))


def fitted(text: Text, width: int) -> Text:
    """On one line, whatever its length: the height of the picture must not change."""
    text.truncate(width, overflow="ellipsis")
    return text
