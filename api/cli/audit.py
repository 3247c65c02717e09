"""`audit`: who reported what when, what did not count and why, and the attempts of a step with their stacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from api.cli.failures import NotFound
from api.cli.moments import MOMENT, TIME, at_of
from api.cli.output import clock, console, on_terminal, percent_text, print_raw, span
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible, visible_block

if TYPE_CHECKING:
    from eventstore.events import RecordedEvent
    from eventstore.store import EventStore
    from projections.audit import AuditFilter, Page
    from projections.audit_attempts import AttemptStory

Show = Callable[["RecordedEvent", int], None]


@click.group(invoke_without_command=True)
@click.option("--job", metavar="JOB", help="Only this job.")
@click.option("--prefix", metavar="TEXT", help="Only jobs whose id begins so.")
@click.option("--since", type=TIME, help="Recorded at this time or later: 2026-01-31, 2026-01-31T12:00Z, 90s, 2h, 3d.")
@click.option("--until", type=TIME, help="Recorded before this time.")
@click.option("--occurred", is_flag=True, help="Times are the workers' own instead, where they gave one.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only this type, or step.* for all of steps.")
@click.option("--step", "steps", multiple=True, metavar="STEP", help="Only this step.")
@click.option("--actor", "actors", multiple=True, metavar="ACTOR", help="Only who reported under this name.")
@click.option("--applied/--rejected", default=None, help="Only reports that counted, or that did not.")
@click.option("--reason", "reasons", multiple=True, metavar="REASON", help="Only what did not count because of this.")
@click.option("--text", metavar="TEXT", help="Only what says this in message, reason, title, label or error.")
@click.option("--after", metavar="CURSOR", default="", help="The first ones after this place.")
@click.option("--before", metavar="CURSOR", default="", help="The last ones before this place.")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="At most so many.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@log_option
@json_option
@pass_session
def audit(
    session: Session,
    /,
    occurred: bool,
    after: str,
    before: str,
    limit: int,
    everything: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Who reported what when: the last events that match, in the order of the log. Several options must all match;
    one that is given several times must match once.

    With --json each line is an event with its cursor: the last one's goes to --after, the first one's to --before.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    from eventstore.cursor import parse_cursor
    from projections.audit import Clock, audit_filter

    lists = {name: asked.pop(name) or None for name in ("types", "steps", "actors", "reasons")}
    wanted = audit_filter(**asked, **lists, clock=Clock.OCCURRED if occurred else Clock.RECORDED)
    for place in (after, before):
        parse_cursor(place)
    show = _as_json if as_json else _as_text(occurred=occurred)
    with session.store() as store:
        if everything:
            _stream(store, wanted, after, before, show)
        else:
            _page(store, wanted, after, before, limit, show)
    sys.stdout.flush()


@audit.command()
@click.argument("job")
@click.argument("step")
@click.option("--at", type=MOMENT, help="As of a position, a cursor or a time.")
@log_option
@json_option
@pass_session
def attempts(session: Session, job: str, step: str, at: str | datetime | None, as_json: bool) -> None:
    """The attempts of a step: who worked on it, how long, how it ended, with the error and its stack."""
    from eventstore.codec import check_job_id
    from projections.audit_attempts import attempts_of

    check_job_id(job)
    with session.store() as store:
        told = attempts_of(store, job, step, None if at is None else at_of(store, at))
    if told is None:
        raise NotFound(f"there is no step {visible(step)!r} in a job {job!r}; `headway show {job}` lists the steps")
    if as_json:
        for attempt in told:
            print_raw(msgspec.json.encode(attempt))
        return
    if not told:
        click.echo("nobody tried it yet", err=True)
    for number, attempt in enumerate(told):
        _show_attempt(attempt, first=number == 0)
    sys.stdout.flush()


def _page(store: EventStore, wanted: AuditFilter, after: str, before: str, limit: int, show: Show) -> None:
    """A page is in the order of the log whichever end it was looked for from."""
    from projections.audit import Order

    forwards = bool(after)
    order = Order.OLDEST_FIRST if forwards else Order.NEWEST_FIRST
    found: list[RecordedEvent] = []
    page = _found(store, wanted, after, before, order, limit, found)
    for event in found if forwards else found[::-1]:
        show(event, page.epoch)
    if not found:
        click.echo("nothing matches", err=True)
    elif not page.complete:
        sys.stdout.flush()
        where = f"later ones: --after {page.scanned_to}" if forwards else f"earlier ones: --before {page.scanned_to}"
        click.echo(where, err=True)


def _found(
    store: EventStore, wanted: AuditFilter, after: str, before: str, order: Any, limit: int, found: list[RecordedEvent]
) -> Page:
    """Fill `found` with `limit` events, request by request; the last page."""
    from projections.audit import Order, find

    page = find(store, wanted, after=after, before=before, order=order, limit=limit)
    found += page.events
    if page.complete or len(found) == limit:
        return page
    forwards = order is Order.OLDEST_FIRST
    first = page.scanned_to
    with looking() as progress:
        total = store.head().position - first if forwards else first - 1
        while not page.complete and len(found) < limit:
            after, before = (page.cursor, before) if forwards else (after, page.cursor)
            page = find(store, wanted, after=after, before=before, order=order, limit=limit - len(found))
            found += page.events
            progress(abs(page.scanned_to - first), total)
    return page


def _stream(store: EventStore, wanted: AuditFilter, after: str, before: str, show: Show) -> None:
    from projections.audit import stream

    epoch = store.head().epoch
    with looking(quiet=on_terminal()) as progress:
        for events in stream(store, wanted, after=after, before=before, progress=progress):
            for event in events:
                show(event, epoch)


@contextmanager
def looking(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal and nothing else is written to it meanwhile."""
    from api.cli.verify import progress_bar

    if quiet:
        yield _told_nobody
        return
    with progress_bar() as progress:
        yield progress or _told_nobody


def _told_nobody(*_: int) -> None:
    """Where there is no terminal, how far it got is of no interest."""


def _as_json(event: RecordedEvent, epoch: int) -> None:
    from eventstore.wire import encode_event

    print_raw(encode_event(event, epoch))


def _as_text(*, occurred: bool) -> Show:
    from rich.text import Text

    from api.cli.lines import event_segments

    out = console() if on_terminal() else None

    def show(event: RecordedEvent, _: int) -> None:
        segments = event_segments(event)
        if occurred and event.occurred_us is not None:
            segments[1] = (f"{clock(event.occurred_us)}  ", "dim")
        if event.actor is not None:
            segments.append((f"  by {visible(event.actor)}", "magenta"))
        if out is None:
            click.echo("".join(text for text, _ in segments))
        else:
            out.print(Text.assemble(*segments), soft_wrap=True)

    return show


def _show_attempt(attempt: AttemptStory, *, first: bool) -> None:
    from rich.text import Text

    from api.cli.jobs import status_text
    from api.cli.lines import error_line
    from eventstore.events import to_us

    out = console()
    if not first:
        out.print()
    began = to_us(attempt.started_at)
    took = "" if attempt.ended_at is None else f"  took {span(to_us(attempt.ended_at) - began)}"
    out.print(
        Text.assemble(
            (f"attempt {attempt.attempt}", "bold"),
            "  ",
            status_text(attempt.status),
            f"  {percent_text(round(attempt.percent * 10_000))}",
            (f"  {clock(began)}{took}", "dim"),
        ),
        soft_wrap=True,
    )
    refused = ", ".join(f"{count} {visible(reason)}" for reason, count in attempt.rejected.items())
    told = f"{attempt.reports}" + (f", not applied: {refused}" if refused else "")
    if attempt.first_position is not None:
        told += f" (positions {attempt.first_position} to {attempt.last_position})"
    for name, value in (
        ("worker", visible(attempt.worker or "")),
        ("by", ", ".join(visible(actor) for actor in attempt.actors)),
        ("reports", told),
        ("error", error_line(attempt.error)),
    ):
        if value:
            out.print(Text.assemble((f"  {name:<9}", "dim"), value), soft_wrap=True)
    for line in visible_block(attempt.error_stack or "").rstrip().splitlines():
        out.print(Text(f"    {line}"), soft_wrap=True)
