"""`tail`: events from any cursor on, and live with --follow."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click

from api.cli.output import console, on_terminal, print_raw
from api.cli.session import Session, json_option, log_option, pass_session

if TYPE_CHECKING:
    from eventstore.events import RecordedEvent
    from eventstore.store import EventStore

Show = Callable[["RecordedEvent", int], None]


@click.command()
@click.option("--after", metavar="CURSOR", default="", help="Begin after it: a cursor, a position, or now.")
@click.option("--job", "jobs", multiple=True, metavar="JOB", help="Only this job, or build:* for all that begin so.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N, before following.")
@click.option("-f", "--follow", is_flag=True, help="Go on live, until Ctrl-C.")
@log_option
@json_option
@pass_session
def tail(session: Session, after: str, jobs: tuple[str, ...], lines: int | None, follow: bool, as_json: bool) -> None:
    """Print events in the order of the log, from the start or from any cursor.

    With --json each line is an event with its cursor; give the last one to --after and nothing is missed or seen twice.
    """
    from eventstore.cursor import format_cursor

    check_patterns(jobs)
    show = _as_json if as_json else _as_text()
    with session.store(redis=follow) as store:
        head, position = store.resolve(after)
        if lines is not None or not follow:
            events = history(store, position, head.position, jobs)
            for event in events if lines is None else last(events, lines):
                show(event, head.epoch)
            after = format_cursor(head.epoch, head.position, head.hash[:4].hex())
        sys.stdout.flush()
        if follow:
            follow_events(store, after, jobs, show)


def check_patterns(jobs: Iterable[str]) -> None:
    """Raise `InvalidEvent` for what can be neither a job's id nor the beginning of one."""
    from eventstore.codec import check_job_id

    for job in jobs:
        if job != "*":
            check_job_id(job.removesuffix("*"), "--job")


def history(store: EventStore, after: int, upto: int, jobs: tuple[str, ...]) -> Iterator[RecordedEvent]:
    """The events after one position up to another, in order; of these jobs only, if any are named."""
    if jobs and not any(job.endswith("*") for job in jobs):
        yield from heapq.merge(*(_of_job(store, job, after, upto) for job in set(jobs)), key=lambda e: e.position)
        return
    exact = {job for job in jobs if not job.endswith("*")}
    prefixes = tuple(job[:-1] for job in jobs if job.endswith("*"))
    for page in store.replay(after, upto=upto):
        for event in page:
            if not jobs or event.job_id in exact or event.job_id.startswith(prefixes):
                yield event


def _of_job(store: EventStore, job: str, after: int, upto: int) -> Iterator[RecordedEvent]:
    version = 0
    while page := store.read_job(job, version, upto=upto):
        yield from (event for event in page if event.position > after)
        version = page[-1].version


def last(events: Iterable[RecordedEvent], count: int) -> Iterable[RecordedEvent]:
    return deque(events, maxlen=count)


def follow_events(store: EventStore, after: str, jobs: tuple[str, ...], show: Show) -> None:
    raise NotImplementedError


def _as_json(event: RecordedEvent, epoch: int) -> None:
    from eventstore.wire import encode_event

    print_raw(encode_event(event, epoch))


def _as_text() -> Show:
    from api.cli.lines import event_line, event_segments

    if not on_terminal():
        return lambda event, _: click.echo(event_line(event))

    from rich.text import Text

    out = console()
    return lambda event, _: out.print(Text.assemble(*event_segments(event)), soft_wrap=True)
