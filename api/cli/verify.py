"""`verify`: the hash chain, recomputed from what is stored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from api.cli.failures import BAD, Ended
from api.cli.output import console, print_json
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible


@click.command()
@click.option("--after", metavar="CURSOR", default="", help="Begin after it; it is checked to be on the log's history.")
@log_option
@json_option
@pass_session
def verify(session: Session, after: str, as_json: bool) -> None:
    """Recompute the hash chain of the log and name the first position that was edited, inserted, deleted or swapped.

    A history that was rewritten as a whole shows only to whoever kept a cursor from before: give it to --after.
    Exit code 1 if something is not what was appended.
    """
    from eventstore.cursor import format_cursor
    from eventstore.errors import ChainBroken
    from eventstore.verify import verify as recompute

    with session.store() as store:
        _, position = store.resolve(after)
        try:
            with progress_bar() as progress:
                done = recompute(store, after=position, progress=progress)
        except ChainBroken as broken:
            if as_json:
                print_json({"ok": False, "position": broken.position, "reason": broken.what})
            else:
                console(stderr=True).print(visible(str(broken)), style="bold red", soft_wrap=True)
            raise Ended(BAD) from None
    cursor = format_cursor(done.head.epoch, done.head.position, done.head.hash[:4].hex())
    if as_json:
        print_json({"ok": True, "events": done.events, "cursor": cursor, "seconds": done.seconds})
    else:
        rate = done.events / done.seconds if done.seconds else 0
        click.echo(
            f"{done.events:,} events are what was appended, up to {cursor} ({done.seconds:.1f} s, {rate:,.0f}/s)"
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar with rate and remaining time on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s", style="dim")

    with Progress(
        BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), console=console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("verify", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
