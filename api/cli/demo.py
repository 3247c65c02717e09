"""`demo`: a real project initialisation, reported by a worker and watched live, and then the proof that it was so."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import click

from api.cli.failures import INTERRUPTED, Ended
from api.cli.jobs import steps_table
from api.cli.lines import event_line
from api.cli.output import on_terminal, print_table, span
from api.cli.session import Session, log_option, pass_session, say
from api.cli.text import visible
from api.cli.watch import watch_bars, watch_lines
from api.demo import proof, work
from api.demo.git import Git, GitFailed, Stopped

if TYPE_CHECKING:
    from api.wiring import Wiring
    from eventstore.events import RecordedEvent
    from eventstore.store import EventStore

END_SEEN: Final = 10.0  # seconds from the end of the work to the end of the job on the screen


@click.command()
@click.option("--keep", is_flag=True, help="Leave the project's folder there, and say where.")
@log_option
@pass_session
def demo(session: Session, keep: bool) -> None:
    """Initialise a real project in a temporary folder, report each step, and watch it live.

    A git repository, a template that is pushed, records in PostgreSQL, manifests that are pushed at the second attempt.
    One late and one regressing report are sent on purpose. Ends with 0 when all that it claims was found to be true.
    """
    from eventstore.relay import start_relay

    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="headway-demo-"))
    try:
        Git(folder)
        with session.wired(redis=True) as wiring, start_relay(wiring.relay()):
            job_id, name = names()
            say(f"job {job_id}, log {wiring.settings.log}, project in {folder}")
            result = run(wiring, job_id, name, folder)
            show_proof(wiring.store(), job_id, result, wiring.redis_url())
    finally:
        if keep:
            say(f"the project is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    click.echo(f"\ndone in {span(int((time.monotonic() - began) * 1_000_000))}. Look again:")
    click.echo(f"  headway show {job_id}\n  headway tail --job {job_id}")


def names() -> tuple[str, str]:
    """An id for the job and a name for the project that nobody had before."""
    mark = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return f"demo:{mark}", f"demo-{mark}"


def run(wiring: Wiring, job_id: str, name: str, folder: Path) -> work.Result:
    """Do the work in a thread and watch it here until the job has ended. Raises what the work raises."""
    import headway
    from api.wiring import bare_store

    store = wiring.store()
    stop = Event()
    own = bare_store(wiring.addresses().database_url, wiring.settings)  # a worker has connections of its own
    task = partial(
        work.initialise,
        job_id,
        name,
        folder,
        own,
        stop=stop,
        send_late=partial(send_late, store, job_id),
    )
    try:
        return anyio.run(watch, wiring, store, job_id, task, stop)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, Stopped):
            say(f"stopped: {job_id} was reported as cancelled, what it had made is removed")
            raise Ended(INTERRUPTED) from None
        if isinstance(error, GitFailed):
            raise proof.NotShown(str(error)) from error
        raise error from None
    finally:
        headway.close(2)
        own.close()


async def watch(wiring: Wiring, store: EventStore, job_id: str, task: partial[work.Result], stop: Event) -> work.Result:
    """Do what `headway watch` does, while the work is done in a thread."""
    results: list[work.Result] = []
    worked, seen = anyio.Event(), anyio.Event()

    async def do_work() -> None:
        results.append(await anyio.to_thread.run_sync(task))
        worked.set()
        with anyio.move_on_after(END_SEEN):
            await seen.wait()
            return
        raise proof.NotShown(f"the end of the job was not seen within {END_SEEN:.0f} s")

    async def stop_with_us() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stop.set()  # the thread of the work can't be cancelled, it looks at this

    follow = watch_bars if on_terminal() else watch_lines
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_with_us)
        tasks.start_soon(do_work)
        await follow(store, job_id, wiring.redis_url(), wait=True)
        seen.set()
        await worked.wait()
        tasks.cancel_scope.cancel()
    return results[0]


def send_late(store: EventStore, job_id: str) -> None:
    """On purpose: a report of push_template that arrives when that step has ended long since."""
    from eventstore.events import NewEvent

    data = {"percent": work.LATE_PERCENT, "message": "正在推送代码… (late, from a process that hung)"}
    store.append(job_id, [NewEvent(type="step.progressed", step="push_template", attempt=1, data=data)])


def show_proof(store: EventStore, job_id: str, result: work.Result, redis_url: str) -> None:
    """Print snapshot, history, audit and replay, each checked. Raises `NotShown`."""
    events = proof.read_history(store, job_id)
    job = proof.check_snapshot(store, job_id)
    if not on_terminal():  # there, what was watched has left it on the screen
        heading(f"Snapshot: the step table at cursor {job.cursor}")
        print_table(steps_table(job.steps))
        sys.stdout.flush()
    heading(f"History: {len(events)} events; these are the ones that are not plain progress")
    for event in milestones(events):
        click.echo(event_line(event))
    heading("Audit: reports that were kept and did not count, and why")
    for event in proof.check_rejected(events):
        click.echo(event_line(event))
    heading("Replay from a cursor in the middle of the job")
    replay = proof.check_replay(store, events, redis_url)
    click.echo(f"cursor      {replay.cursor}, up to position {replay.upto}")
    click.echo(f"Redis       {replay.events} events  sha256 {replay.digest[:32]}…  (XREAD)")
    click.echo(f"PostgreSQL  {replay.events} events  sha256 {replay.digest[:32]}…  (SELECT)")
    heading("What was checked")
    for text in (proof.check_work(result), proof.check_bar(events), "Redis and PostgreSQL gave the same events"):
        click.echo(f"✓ {visible(text)}")


def milestones(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    return [event for event in events if event.type != "step.progressed" or not event.applied]


def heading(text: str) -> None:
    click.echo()
    click.secho(text, bold=on_terminal() and "NO_COLOR" not in os.environ)
