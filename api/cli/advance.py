"""How far a long command is: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from api.cli.output import console

if TYPE_CHECKING:
    from rich.progress import Task

Advance = Callable[[str, str, int, int | None], None]
"""`advance(what, unit, done, total)`; another `what` begins another bar. `unit`: "bytes" or what is counted."""


@contextmanager
def advance() -> Iterator[Advance]:
    """Gone at the end: what stays is what the command prints then."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else rate_text(speed, task.fields["unit"]))

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(what: str, unit: str, done: int, total: int | None) -> None:
            if what not in tasks:
                for task in progress.tasks:
                    progress.update(task.id, completed=task.total or task.completed)
                tasks[what] = progress.add_task(what, total=total, unit=unit)
            progress.update(tasks[what], completed=done, total=total)

        yield show


def rate_text(speed: float, unit: str) -> str:
    return f"{speed / 1e6:,.1f} MB/s" if unit == "bytes" else f"{speed:,.0f} {unit}/s"
