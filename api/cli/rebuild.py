"""`rebuild`: read models made anew from the log, while appends go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from api.cli.failures import BAD, Ended
from api.cli.output import console, print_json
from api.cli.session import Session, json_option, pass_session, say
from api.cli.text import visible_block

if TYPE_CHECKING:
    import headway
    from projections.rebuild import Rebuilt, Step


@click.command()
@click.option("--verify", is_flag=True, help="Compare every row with the live tables first; stop if one differs.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that fold.")
@click.option("--rollback", is_flag=True, help="Put the tables of before the last rebuild back, caught up.")
@click.option("--discard", is_flag=True, help="Drop what an unfinished rebuild left, and do nothing else.")
@json_option
@pass_session
def rebuild(session: Session, verify: bool, processes: int, rollback: bool, discard: bool, as_json: bool) -> None:
    """Rebuild jobs, steps and attempts of all logs from their events, then swap the tables.

    Appends go on meanwhile and wait only for the moment of the swap. A rebuild that was ended goes on where it was. The
    tables that were live are kept as jobs_old, steps_old and attempts_old until the next rebuild.
    Reports its own progress as the job headway.rebuild:TIME. Exit code 1 if --verify found a difference.
    """
    from projections import rebuild as rebuilding

    with session.store() as store:
        if discard:
            rebuilding.discard(store)
            say("what an unfinished rebuild left is gone; the live tables are as they were")
            return
        with reported(store) as job, told(job) as progress:
            try:
                if rollback:
                    done = rebuilding.roll_back(store, progress=progress)
                else:
                    done = rebuilding.rebuild(store, processes=processes, verify=verify, progress=progress)
            except rebuilding.RebuildDiffers as differs:
                if as_json:
                    print_json({"ok": False, "differences": msgspec.to_builtins(differs.differences)})
                else:
                    console(stderr=True).print(visible_block(str(differs)), style="bold red", soft_wrap=True)
                raise Ended(BAD) from None
    _show(done, rollback=rollback, as_json=as_json)


def _show(done: Rebuilt, *, rollback: bool, as_json: bool) -> None:
    if as_json:
        print_json({"ok": True, **msgspec.to_builtins(done)})
        return
    rate = (done.events - done.resumed) / done.seconds if done.seconds else 0
    what = "rolled back" if rollback else "rebuilt and verified" if done.verified else "rebuilt"
    again = f", {done.resumed:,} of them folded by an earlier run" if done.resumed else ""
    click.echo(
        f"{what}: {done.events:,} events in {done.seconds:.1f} s ({rate:,.0f}/s){again};"
        f" appends waited {done.blocked * 1000:.0f} ms"
    )


@contextmanager
def reported(store: object) -> Iterator[headway.Job]:
    """The rebuild as a job in the log."""
    from datetime import UTC, datetime

    import headway

    headway.connect(store)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    with headway.job(f"headway.rebuild:{stamp}", title="Rebuild of the step table", kind="headway.rebuild") as job:
        yield job
    headway.flush()


@contextmanager
def told(job: headway.Job) -> Iterator[Callable[[Step], None]]:
    """Progress for the log, and on stderr: a bar with rate and time left on a terminal, else a line per phase."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = sys.stderr.isatty()
    phase = ""
    with Progress(
        TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.percentage:>5.1f} %  {task.fields[rate]}"),
        TimeElapsedColumn(), console=console(stderr=True), transient=True, disable=not terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("plan", total=None, rate="")

        def tell(step: Step) -> None:
            nonlocal phase
            left = "" if step.eta is None or step.done >= step.total else f", {step.eta:.0f} s left"
            bar.update(
                task, description=step.phase, completed=step.done, total=step.total or None,
                rate=f"{step.rate:,.0f}/s{left}",
            )  # fmt: skip
            if step.phase == "fold" and step.total:
                job.progress(min(99.0, round(step.percent, 2)), message=f"{step.rate:,.0f} events/s")
            if step.phase != phase:
                phase = step.phase
                job.note(phase)
                if not terminal:
                    say(f"{phase}: {step.done:,} of {step.total:,} events" if step.total else phase)

        yield tell
