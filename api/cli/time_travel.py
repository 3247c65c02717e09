"""`diff` and `curve`: what changed between two moments of a job, and how its percentage went. `jobs --at` ends here."""

from __future__ import annotations

import sys
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from api.cli.failures import NotFound
from api.cli.moments import MOMENT, at_of, check_occurred
from api.cli.output import clock, columns, console, on_terminal, print_json, print_raw, print_table, span
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import shortened, visible

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from projections.as_of import Change, Point
    from projections.snapshots import JobSummary

ALWAYS: Final = frozenset(("version", "position", "updated_at"))
"""Fields that every event changes: shown with --json only."""
HEIGHT: Final = 10  # lines of the chart
WIDTH: Final = 72  # columns of the chart, at most
EIGHTHS: Final = " ▁▂▃▄▅▆▇█"


@click.command()
@click.argument("job")
@click.argument("start", metavar="FROM", type=MOMENT)
@click.argument("end", metavar="[TO]", type=MOMENT, required=False)
@click.option("--occurred", is_flag=True, help="Times are the workers' own instead of the log's.")
@log_option
@json_option
@pass_session
def diff(
    session: Session, job: str, start: str | datetime, end: str | datetime | None, occurred: bool, as_json: bool
) -> None:
    """What changed in a job between two moments: positions, cursors or times (2026-01-31T12:00Z, 15m ago). TO is now
    if it is left out.
    """
    from eventstore.codec import check_job_id
    from projections.as_of import diff as changes_between
    from projections.as_of import job_as_of

    check_job_id(job)
    check_occurred(occurred, start, end)
    with session.store() as store:
        last = store.head().position if end is None else at_of(store, end)
        before = job_as_of(store, job, at_of(store, start), occurred=occurred)
        after = job_as_of(store, job, last, occurred=occurred)
    if before is None and after is None:
        raise NotFound(f"there was no job {job!r} in the log {session.settings.log} at these moments")
    changes = changes_between(before, after)
    if as_json:
        for change in changes:
            print_raw(_encoded(change))
        return
    shown = [change for change in changes if change.field not in ALWAYS]
    if not shown:
        click.echo("nothing changed", err=True)
        return
    table = columns("STEP", "FIELD", "BEFORE", "AFTER", fold=("STEP", "BEFORE", "AFTER"))
    last_step: str | None = None
    for change in shown:
        name = "" if change.step == last_step else visible(change.step or "")
        last_step = change.step
        table.add_row(name, change.field.replace("_", " "), _value(change, change.before), _value(change, change.after))
    print_table(table)


@click.command()
@click.argument("job")
@click.option("--occurred", is_flag=True, help="Over the workers' own time instead of the log's.")
@log_option
@json_option
@pass_session
def curve(session: Session, job: str, occurred: bool, as_json: bool) -> None:
    """How a job's percentage went over time, as a small chart. With --json a line for each change."""
    from eventstore.codec import check_job_id
    from projections.as_of import curve as points_of

    check_job_id(job)
    with session.store() as store:
        points = list(points_of(store, job))
        log = store.log
    if not points:
        raise NotFound(f"there is no job {job!r} in the log {log}; `headway jobs` lists them")
    if as_json:
        for point in points:
            print_json(point)
        return
    room = console().width - 8 if on_terminal() else WIDTH
    for line in chart(points, max(8, min(room, WIDTH)), occurred=occurred):
        click.echo(line)
    sys.stdout.flush()


def jobs_at(
    store: EventStore,
    at: int | datetime,
    occurred: bool,
    status: str | None,
    kind: str | None,
    prefix: str | None,
    limit: int,
    before: int | None,
) -> list[JobSummary]:
    """The page of `jobs` as it would have been then. All jobs are folded, so this takes time on a long log."""
    from api.cli.verify import progress_bar
    from projections.as_of import jobs_as_of
    from projections.snapshots import JobSummary

    with progress_bar() as progress:
        wanted = (
            job
            for job in jobs_as_of(store, at, occurred=occurred, progress=progress)
            if (status is None or job.status == status)
            and (kind is None or job.kind == kind)
            and job.job_id.startswith(prefix or "")
            and (before is None or job.first_position < before)
        )
        newest = deque(wanted, maxlen=limit)
    names = JobSummary.__struct_fields__
    return [JobSummary(**{name: getattr(job, name) for name in names}) for job in reversed(newest)]


def chart(points: list[Point], width: int, *, occurred: bool) -> list[str]:
    """The points as lines of text: 0 to 100 % upwards, time to the right, each column as high as it got in its time."""
    from eventstore.events import to_us

    moments: list[int] = []
    for point in points:
        given = point.occurred_at if occurred and point.occurred_at is not None else point.recorded_at
        moments.append(max(to_us(given), moments[-1] if moments else 0))
    began, took = moments[0], moments[-1] - moments[0]
    levels = [0.0] * width
    for moment, point in zip(moments, points, strict=True):
        column = (moment - began) * (width - 1) // took if took else 0
        levels[column] = point.percent
    for column in range(1, width):
        levels[column] = max(levels[column], levels[column - 1])
    eighths = [int(level / 100 * HEIGHT * 8) for level in levels]
    labels = {HEIGHT - 1: "100 %", HEIGHT // 2 - 1: "50 %", 0: "0 %"}
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        cells = "".join(EIGHTHS[max(0, min(8, level - row * 8))] for level in eighths)
        lines.append(f"{labels.get(row, ''):>5} │{cells}".rstrip())
    lines.append(f"{'':>5} └{'─' * width}")
    first, last = clock(began), clock(moments[-1])
    lines.append(f"{'':>7}{first}{last:>{max(width - len(first), len(last) + 2)}}" if took else f"{'':>7}{first}")
    lines.append(
        f"{'':>7}{points[0].percent:.1f} % to {points[-1].percent:.1f} % in {span(took)}, {len(points)} points"
    )
    return lines


def _encoded(change: Change) -> bytes:
    values = msgspec.structs.asdict(change)
    raw = {name: msgspec.Raw(value) if isinstance(value, bytes) else value for name, value in values.items()}
    return msgspec.json.encode(raw)


def _value(change: Change, value: Any) -> str:
    """A value for people: on one line, not too long."""
    from eventstore.events import to_us

    match value:
        case None:
            return "–"
        case datetime():
            return clock(to_us(value))
        case bytes():
            text = value.decode()
        case list():
            text = ", ".join(f"{attempt.attempt} {attempt.status}" for attempt in value) or "–"
        case float() if change.field == "percent":
            text = f"{value:g} %"
        case _:
            text = str(value)
    return shortened(visible(text), 200)
