"""`jobs` and `show`: what the log's jobs look like now."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from api.cli.failures import NotFound
from api.cli.lines import error_line
from api.cli.moments import at_of, at_options, check_occurred
from api.cli.output import (
    MARKS,
    STYLES,
    bar,
    clock,
    columns,
    console,
    percent_text,
    print_raw,
    print_table,
    span,
)
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import shortened, visible, visible_block
from eventstore.events import to_us

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from projections.snapshots import JobSnapshot, JobSummary, StepView

ROOMY = 80  # columns; below that `jobs` keeps to id, status and percentage
STATUSES = ("pending", "running", "waiting", "completed", "failed", "cancelled")


@click.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only jobs of this status.")
@click.option("--kind", metavar="KIND", help="Only jobs whose plan says this kind.")
@click.option("--prefix", metavar="TEXT", help="Only jobs whose id begins so.")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="At most so many.")
@click.option("--before", type=click.IntRange(min=1), metavar="P", help="The next page: older than this position.")
@at_options
@log_option
@json_option
@pass_session
def jobs(
    session: Session,
    status: str | None,
    kind: str | None,
    prefix: str | None,
    limit: int,
    before: int | None,
    at: str | datetime | None,
    occurred: bool,
    as_json: bool,
) -> None:
    """List jobs, newest first; with --at as they were.

    With --json each line is a job; give the last one's `first_position` to --before for the next page.
    """
    from projections.snapshots import encode_snapshot, list_jobs

    check_occurred(occurred, at)
    with session.store() as store:
        if at is None:
            found = list_jobs(store, status=status, kind=kind, prefix=prefix, limit=limit, before=before)
        else:
            from api.cli.time_travel import jobs_at

            found = jobs_at(store, at_of(store, at), occurred, status, kind, prefix, limit, before)
    if as_json:
        for job in found:
            print_raw(encode_snapshot(job))
        return
    if not found:
        click.echo("no jobs" if status is kind is prefix is None else "no such jobs", err=True)
        return
    wide = console().width >= ROOMY
    room = ("STEPS", "AGE", "TITLE") if wide else ()
    table = columns("JOB", "STATUS", *([""] if wide else []), "", *room, right=("STEPS", "AGE"), fold=("JOB", "TITLE"))
    now = time.time_ns() // 1_000
    for job in found:
        percent = f"{percent_text(ppm(job.percent)):>7}"
        if not wide:
            table.add_row(visible(job.job_id), status_text(job.status), percent)
            continue
        table.add_row(
            visible(job.job_id),
            status_text(job.status),
            bar(ppm(job.percent), 10),
            percent,
            f"{job.steps_done}/{job.steps_total}",
            span(now - to_us(job.created_at)),
            visible(job.title or ""),
        )
    print_table(table)
    if len(found) == limit:
        click.echo(f"more: headway jobs --before {found[-1].first_position}", err=True)


@click.command()
@click.argument("job")
@at_options
@log_option
@json_option
@pass_session
def show(session: Session, job: str, at: str | datetime | None, occurred: bool, as_json: bool) -> None:
    """One job: its percentage, steps, attempts, and errors with their stacks; with --at as it was."""
    from eventstore.codec import check_job_id
    from projections.snapshots import encode_snapshot, read_snapshot

    check_job_id(job)
    check_occurred(occurred, at)
    with session.store() as store:
        if at is None:
            snapshot = read_snapshot(store, job)
        else:
            from projections.as_of import job_as_of

            snapshot = job_as_of(store, job, at_of(store, at), occurred=occurred)
        if snapshot is None and at is not None:
            raise NotFound(
                f"there was no job {job!r} in the log {store.log} then; `headway curve {job}` shows its time"
            )
        if snapshot is None:
            raise NotFound(f"there is no job {job!r} in the log {store.log}; `headway jobs` lists them")
        if as_json:
            print_raw(encode_snapshot(snapshot))
            return
        from api.cli.outlook import outlook

        expected = outlook(store, snapshot) if at is None else []
    show_snapshot(snapshot, expected)
    sys.stdout.flush()


def ppm(percent: float) -> int:
    return round(percent * 10_000)


def status_text(status: str) -> Text:
    from rich.text import Text

    return Text(f"{MARKS.get(status, ' ')} {status}", style=STYLES.get(status, ""))


def show_snapshot(job: JobSnapshot, expected: Sequence[tuple[str, str]] = ()) -> None:
    """The whole job for people: head, what is expected of it, steps, then every failed attempt with error and stack."""
    from rich.text import Text

    out = console()
    title = f"  {visible(job.title)}" if job.title else ""
    out.print(Text.assemble((visible(job.job_id), "bold cyan"), title), soft_wrap=True)
    wide = min(30, max(out.width - 24, 5))
    out.print(
        Text.assemble(f"{bar(ppm(job.percent), wide)} {percent_text(ppm(job.percent))}  ", status_text(job.status))
    )
    for name, value in [*facts(job), *expected]:
        out.print(Text.assemble((f"{name:<9}", "dim"), value), soft_wrap=True)
    if job.steps:
        from api.cli.picture import NARROW, step_grid

        out.print()
        print_table(steps_table(job.steps) if out.width >= NARROW else step_grid(job.steps, out.width))
    for heading, body in errors_of(job):
        out.print()
        out.print(Text(heading, style="bold red"), soft_wrap=True)
        if body:
            out.print(Text(body), soft_wrap=True)


def facts(job: JobSnapshot) -> list[tuple[str, str]]:
    """What is known of a job besides its steps; what is not known is left out."""
    rejected = f", {job.rejected} not applied" if job.rejected else ""
    listed = [
        ("kind", visible(job.kind or "")),
        ("message", visible(job.message or "")),
        ("reason", visible(job.reason or "")),
        ("until", _moment(job.until)),
        ("continues", visible(job.continues or "")),
        ("started", _moment(job.started_at)),
        ("ended", _moment(job.ended_at) + _took(job.started_at, job.ended_at)),
        ("events", f"{job.version}{rejected}"),
        ("cursor", job.cursor),
    ]
    return [(name, value) for name, value in listed if value]


def steps_table(steps: list[StepView]) -> Any:
    """The steps in the order of the plan, children below their group."""
    from rich.text import Text

    parents = {step.step: step.parent for step in steps}
    table = columns("STEP", "STATUS", "", "TRY", "TOOK", "MESSAGE", right=("TRY", "TOOK"), fold=("STEP", "MESSAGE"))
    for step in steps:
        depth, parent = 0, step.parent
        while parent is not None and depth < 16:
            depth, parent = depth + 1, parents.get(parent)
        said = [visible(step.message or ""), visible(step.reason or ""), error_line(step.error)]
        table.add_row(
            Text("  " * depth + visible(step.label or step.step)),
            status_text(step.status),
            f"{percent_text(ppm(step.percent)):>7}",
            str(step.attempt) if step.attempt else "",
            _took(step.started_at, step.ended_at).strip(" ()"),
            Text(shortened("  ".join(part for part in (count_text(step), *said) if part), 200)),
        )
    return table


def errors_of(job: JobSummary | JobSnapshot) -> list[tuple[str, str]]:
    """Every error of the job as a heading and a body (the stack, may be empty): attempts in order, then the job's."""
    errors = [
        (
            f"{visible(step.label or step.step)}, attempt {attempt.attempt}: {error_line(attempt.error)}",
            attempt.error_stack,
        )
        for step in getattr(job, "steps", [])
        for attempt in step.attempts
        if attempt.error is not None
    ]
    if job.error is not None:
        errors.append((f"the job: {error_line(job.error)}", job.error_stack))
    return [(heading, visible_block(stack or "").rstrip()) for heading, stack in errors]


def count_text(step: StepView) -> str:
    if step.done is None or step.status in ("completed", "skipped") or (step.total is None and not step.unit):
        return ""
    total = "" if step.total is None else f"/{step.total}"
    return f"{step.done}{total} {visible(step.unit or '')}".rstrip()


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else clock(to_us(moment))


def _took(start: datetime | None, end: datetime | None) -> str:
    return "" if start is None or end is None else f" ({span(to_us(end) - to_us(start))})"
