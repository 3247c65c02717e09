"""`rebuild`: read models made anew from the log, while appends go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
import msgspec

from api.cli.failures import BAD, Ended
from api.cli.output import console, print_json
from api.cli.session import Session, json_option, pass_session, say
from api.cli.text import visible_block

if TYPE_CHECKING:
    import headway
    from eventstore.store import EventStore
    from projections.projection import Projection
    from projections.rebuild import Rebuilt, Step


STEP_TABLE: Final = "progress"


@click.command()
@click.argument("names", metavar="[NAME]…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="The step table and every projection that is installed.")
@click.option("--verify", is_flag=True, help="Compare every row with the live tables first; stop if one differs.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that fold.")
@click.option("--rollback", is_flag=True, help="Put the tables of before the last rebuild back, caught up.")
@click.option("--discard", is_flag=True, help="Drop what an unfinished rebuild left, and do nothing else.")
@json_option
@pass_session
def rebuild(
    session: Session, names: tuple[str, ...], everything: bool, verify: bool, processes: int, rollback: bool,
    discard: bool, as_json: bool,
) -> None:  # fmt: skip
    """Rebuild read models of all logs from their events, then swap the tables. NAME is progress (jobs, steps and
    attempts; the default) or the name of a projection.

    Appends and readers go on meanwhile and wait only for the moment of the swap. A rebuild that was ended goes on where
    it was. The tables that were live are kept for --rollback until the next rebuild. Reports its own progress as the
    job headway.rebuild:TIME. Exit code 1 if --verify found a difference.
    """
    from projections.known import known, load

    chosen = [STEP_TABLE, *known()] if everything else list(names) or [STEP_TABLE]
    projections = {name: load([name])[0] for name in chosen if name != STEP_TABLE}
    with session.store() as store:
        if discard:
            for name in chosen:
                _discard(store, projections.get(name))
            say("what an unfinished rebuild left is gone; the live tables are as they were")
            return
        with reported(store, chosen) as job:
            for name in chosen:
                with job.step(name) as step, told(step) as progress:
                    done = _run(store, projections.get(name), progress, verify, processes, rollback, as_json)
                _show(name, done, rollback=rollback, as_json=as_json)


def _discard(store: EventStore, projection: Projection | None) -> None:
    from projections.rebuild import discard
    from projections.rebuild_projection import discard_rebuild

    discard(store) if projection is None else discard_rebuild(store, projection)


def _run(
    store: EventStore, projection: Projection | None, progress: Callable[[Step], None], verify: bool, processes: int,
    rollback: bool, as_json: bool,
) -> Rebuilt:  # fmt: skip
    from projections import rebuild as step_table
    from projections import rebuild_projection as others

    try:
        if rollback:
            if projection is None:
                return step_table.roll_back(store, progress=progress)
            return others.roll_back_projection(store, projection, progress=progress)
        if projection is None:
            return step_table.rebuild(store, processes=processes, verify=verify, progress=progress)
        return others.rebuild_projection(store, projection, verify=verify, progress=progress)
    except step_table.RebuildDiffers as differs:
        if as_json:
            print_json({"ok": False, "differences": msgspec.to_builtins(differs.differences)})
        else:
            console(stderr=True).print(visible_block(str(differs)), style="bold red", soft_wrap=True)
        raise Ended(BAD) from None


def _show(name: str, done: Rebuilt, *, rollback: bool, as_json: bool) -> None:
    if as_json:
        print_json({"ok": True, "name": name, **msgspec.to_builtins(done)})
        return
    rate = (done.events - done.resumed) / done.seconds if done.seconds else 0
    what = "rolled back" if rollback else "rebuilt and verified" if done.verified else "rebuilt"
    again = f", {done.resumed:,} of them folded by an earlier run" if done.resumed else ""
    click.echo(
        f"{name} {what}: {done.events:,} events in {done.seconds:.1f} s ({rate:,.0f}/s){again};"
        f" appends waited {done.blocked * 1000:.0f} ms"
    )


@contextmanager
def reported(store: object, names: list[str]) -> Iterator[headway.Job]:
    """The rebuild as a job in the log, a step for each read model."""
    from datetime import UTC, datetime

    import headway

    headway.connect(store)
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    title = "Rebuild of read models"
    with headway.job(f"headway.rebuild:{stamp}", title=title, kind="headway.rebuild", plan=names) as job:
        yield job
    headway.flush()


@contextmanager
def told(job: headway.Step) -> Iterator[Callable[[Step], None]]:
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
            if step.phase in ("fold", "fill") and step.total:
                job.progress(done=step.done, total=step.total, unit="events", message=f"{step.rate:,.0f} events/s")
            if step.phase != phase:
                phase = step.phase
                job.note(phase)
                if not terminal:
                    say(f"{phase}: {step.done:,} of {step.total:,} events" if step.total else phase)

        yield tell
