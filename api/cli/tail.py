"""`tail`: events from any cursor on, and live with --follow."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import anyio
import click

from api.cli.output import console, on_terminal, print_raw
from api.cli.session import Session, json_option, log_option, pass_session

if TYPE_CHECKING:
    from eventstore.events import RecordedEvent
    from eventstore.filters import Filter
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
    from eventstore.cursor import format_cursor, parse_cursor
    from eventstore.filters import make_filter

    parse_cursor(after)
    wanted = make_filter(jobs=jobs or None)
    show = _as_json if as_json else _as_text()
    with session.wired(redis=follow) as wiring:
        store = wiring.store()
        head, position = store.resolve(after)
        if lines is not None or not follow:
            events = history(store, wanted, position, head.position)
            for event in events if lines is None else last(events, lines):
                show(event, head.epoch)
            after = format_cursor(head.epoch, head.position, head.hash[:4].hex())
        sys.stdout.flush()
        if follow:
            anyio.run(_follow, store, after, jobs, wiring.live_redis_url(), show)


def history(store: EventStore, wanted: Filter, after: int, upto: int) -> Iterator[RecordedEvent]:
    """The events after one position up to another that pass the filter, in order."""
    if wanted.exact:
        of_jobs = (_of_job(store, job, after, upto) for job in wanted.exact)
        yield from heapq.merge(*of_jobs, key=lambda event: event.position)
        return
    for page in store.replay(after, upto=upto):
        yield from wanted.compiled()(page)


def _of_job(store: EventStore, job: str, after: int, upto: int) -> Iterator[RecordedEvent]:
    while page := store.read_job_after_position(job, after, upto=upto, limit=1_000):
        yield from page
        after = page[-1].position


async def _follow(store: EventStore, after: str, jobs: tuple[str, ...], redis_url: str | None, show: Show) -> None:
    async with store.subscribe(after=after, jobs=jobs or None, redis_url=redis_url) as news:
        while True:
            batch = await news.batch()
            assert batch is not None
            for event in batch.events:
                show(event, batch.epoch)
            sys.stdout.flush()


def last(events: Iterable[RecordedEvent], count: int) -> Iterable[RecordedEvent]:
    return deque(events, maxlen=count)


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
