"""Output: for people (colours and columns on a terminal, plain text elsewhere) and for programs (JSON, a line each).

Whatever was typed by somebody goes through `api.cli.text.visible` before it gets here; markup is never interpreted.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from api.cli.text import visible_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PAST: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
NO_WIDTH: Final = 10_000  # columns, of what is not a terminal
STYLES: Final = {
    "pending": "dim",
    "running": "cyan",
    "waiting": "yellow",
    "retrying": "yellow",
    "completed": "green",
    "skipped": "green dim",
    "failed": "bold red",
    "cancelled": "magenta",
    "abandoned": "red dim",
    "removed": "dim",
}
MARKS: Final = {
    "pending": "·",
    "running": "▸",
    "waiting": "‖",
    "retrying": "↻",
    "completed": "✓",
    "skipped": "↷",
    "failed": "✗",
    "cancelled": "⊘",
    "abandoned": "–",
    "removed": "–",
}


@cache
def console(*, stderr: bool = False) -> Console:
    """Where people read. NO_COLOR is respected; what is not a terminal gets no colours and no line breaks of ours."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=None if terminal else NO_WIDTH)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """One value as one line of JSON."""
    print_raw(msgspec.json.encode(value))


def print_raw(line: bytes) -> None:
    """A line that is JSON already; on a terminal nothing in it acts there."""
    if on_terminal():
        sys.stdout.write(visible_json(line.decode()) + "\n")
    else:
        sys.stdout.buffer.write(line + b"\n")


def columns(*headings: str, right: tuple[str, ...] = (), fold: tuple[str, ...] = ()) -> Table:
    """A table without lines. Columns in `fold` give way on a narrow terminal; wide characters count as two columns."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading not in fold)
    return table


def print_table(table: Table) -> None:
    """On a terminal as wide as that is, elsewhere as wide as its content: a pipe has no width."""
    out = console()
    with out.capture() as captured:
        out.print(table)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().rstrip("\n").split("\n")))


def percent_text(ppm: int) -> str:
    """A percentage with one decimal, never rounded up: 100.0 only for the whole."""
    return f"{ppm // 1_000 / 10:.1f} %"


def bar(ppm: int, width: int) -> str:
    """A bar of `width` columns; full only for the whole."""
    full = ppm * width // 1_000_000
    return "█" * full + "░" * (width - full)


def clock(us: int) -> str:
    """Microseconds since 1970 as local date and time, to the millisecond."""
    try:
        moment = datetime.fromtimestamp(us / 1_000_000, tz=UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return "out of range"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{us // 1_000 % 1_000:03d}"


def span(us: int) -> str:
    """A duration in its two largest units: `2d 3h`, `4m 5s`, `0.8s`."""
    seconds = max(us, 0) / 1_000_000
    if seconds < 10:
        return f"{seconds:.1f}s"
    left, parts = int(seconds), []
    for size, unit in PAST:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])
