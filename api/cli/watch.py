"""`watch`: one job, live, until it ends. Bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import click

from api.cli.failures import BAD, NOT_FOUND, OK, Ended, NotFound
from api.cli.jobs import errors_of, show_snapshot
from api.cli.output import console, on_terminal
from api.cli.session import Session, log_option, pass_session, say

if TYPE_CHECKING:
    from eventstore.store import EventStore
    from projections.snapshots import JobSnapshot

EXIT: Final = {"completed": OK, "failed": BAD, "cancelled": NOT_FOUND}
"""A job's last status → exit code."""
FRAME: Final = 0.1  # seconds between pictures at least
SHARE: Final = 3  # times as long as a look took is waited before the next one
TICK: Final = 1.0  # seconds between pictures at most: durations go on


@click.command()
@click.argument("job")
@click.option("--wait", is_flag=True, help="Wait for the job if it is not there yet.")
@click.option("--plain", is_flag=True, help="Lines instead of bars, also on a terminal.")
@log_option
@pass_session
def watch(session: Session, job: str, wait: bool, plain: bool) -> None:
    """Follow JOB live until it ends. Who comes late sees first how it stands.

    On a terminal a bar for each step and one for the whole; elsewhere a line when a step begins or ends, and for
    progress at most every 30 s or 10 %. Errors with their stacks stand at the end.

    \b
    Exit codes: 0 the job completed, 1 it failed, 3 it was cancelled (or there is no such job).
    """
    from eventstore.codec import check_job_id

    check_job_id(job)
    with session.wired(redis=True) as wiring:
        store, redis_url = wiring.store(), wiring.live_redis_url()
        follow = watch_lines if plain or not on_terminal() else watch_bars
        ended = anyio.run(partial(follow, store, job, redis_url, wait=wait))
    raise Ended(EXIT[ended.status])


async def first_look(store: EventStore, job: str, redis_url: str | None, *, wait: bool) -> JobSnapshot:
    """How the job stands. Raises `NotFound`, or waits for its first event."""
    from eventstore.cursor import format_cursor
    from projections.snapshots import read_snapshot

    # The head is read before the job: an event between the two is news, so a job is never waited for in vain.
    head = await anyio.to_thread.run_sync(store.head)
    snapshot = await anyio.to_thread.run_sync(read_snapshot, store, job)
    if snapshot is not None:
        return snapshot
    if not wait:
        raise NotFound(f"there is no job {job!r} in the log {store.log}; --wait waits for it")
    say(f"waiting for {job}…")
    cursor = format_cursor(head.epoch, head.position, head.hash[:4].hex())
    async with store.subscribe(after=cursor, jobs=job, redis_url=redis_url) as news:
        while snapshot is None:
            await news.batch()
            snapshot = await anyio.to_thread.run_sync(read_snapshot, store, job)
    return snapshot


async def latest(store: EventStore, job: str) -> JobSnapshot | None:
    """The job as it stands now; None while PostgreSQL is away."""
    from eventstore.errors import EventStoreError
    from projections.snapshots import read_snapshot

    try:
        return await anyio.to_thread.run_sync(read_snapshot, store, job)
    except EventStoreError as error:
        if not error.retryable:
            raise
        return None


async def watch_bars(store: EventStore, job: str, redis_url: str | None, *, wait: bool) -> JobSnapshot:
    """Draw the job again whenever something happened; at the end leave the whole of it on the screen."""
    from rich.live import Live

    from api.cli.picture import Picture

    snapshot = await first_look(store, job, redis_url, wait=wait)
    picture, stale = Picture(snapshot), False
    with Live(picture, console=console(), auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        async with store.subscribe(after=snapshot.cursor, jobs=job, redis_url=redis_url) as news:
            live.refresh()
            while snapshot.status not in EXIT:
                batch = await news.batch(timeout=TICK)
                stale = stale or (batch is not None and bool(batch.events))
                begun = time.monotonic()
                if stale and (found := await latest(store, job)) is not None:
                    picture.snapshot, snapshot, stale = found, found, False
                live.refresh()
                # A job of 10,000 steps takes 0.2 s to read: then look less often, not all the time.
                await anyio.sleep(max(FRAME, SHARE * (time.monotonic() - begun)))
    show_snapshot(snapshot)
    return snapshot


async def watch_lines(store: EventStore, job: str, redis_url: str | None, *, wait: bool) -> JobSnapshot:
    """A line for each change of phase; the errors at the end."""
    from api.cli.phases import Phases

    snapshot = await first_look(store, job, redis_url, wait=wait)
    phases, stale = Phases(snapshot), False
    tell(phases.now())
    async with store.subscribe(after=snapshot.cursor, jobs=job, applied=True, redis_url=redis_url) as news:
        while snapshot.status not in EXIT:
            batch = await news.batch(timeout=TICK)
            for event in batch.events if batch is not None else ():
                if (line := phases.line(event)) is not None:
                    tell(line)
                stale = stale or phases.may_end(event)
            if stale and (found := await latest(store, job)) is not None:
                phases.snapshot, snapshot, stale = found, found, False
    tell(phases.end(snapshot))
    for heading, stack in errors_of(snapshot):
        tell(heading)
        if stack:
            tell(stack)
    return snapshot


def tell(line: str) -> None:
    """A line at once: who reads a log wants to see it while the job runs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
