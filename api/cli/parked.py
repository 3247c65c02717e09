"""`parked`: the reports that a projection could not take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import msgspec

from api.cli.failures import BAD, Ended
from api.cli.output import columns, console, print_json, print_table, span
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import shortened, visible, visible_block
from eventstore.events import to_us

if TYPE_CHECKING:
    from projections.parked import Parked, Retried


@click.group()
def parked() -> None:
    """Reports that a projection could not take, and the later ones of their jobs: list, retry, skip."""


@parked.command("list")
@click.argument("name", required=False)
@click.option("--job", metavar="JOB", help="Only of this job.")
@click.option("--all", "everything", is_flag=True, help="Also those that wait behind one, and skipped ones.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@log_option
@json_option
@pass_session
def list_them(session: Session, name: str | None, job: str | None, everything: bool, limit: int, as_json: bool) -> None:
    """What failed, why, how often it was tried, and how many reports of the same job wait behind it."""
    from projections.parked import list_parked

    with session.store() as store:
        found = list_parked(store, name, job=job, everything=everything, limit=limit)
    if as_json:
        for item in found:
            print_json(msgspec.to_builtins(item))
        return
    if not found:
        click.echo("nothing is parked", err=True)
        return
    show(found)


@parked.command()
@click.argument("name")
@click.option("--job", metavar="JOB", help="Only this job.")
@log_option
@json_option
@pass_session
def retry(session: Session, name: str, job: str | None, as_json: bool) -> None:
    """Give the parked reports to projection NAME again, each job in order. Exit code 1 if one fails again."""
    from projections.known import load
    from projections.parked import retry as try_again

    (projection,) = load([name])
    with session.store() as store:
        done = try_again(store, projection, job=job)
    tell(done, as_json=as_json)


@parked.command()
@click.argument("name")
@click.argument("position", type=click.IntRange(min=1))
@log_option
@json_option
@pass_session
def skip(session: Session, name: str, position: int, as_json: bool) -> None:
    """Give up the report at POSITION for projection NAME, then try the rest of its job again."""
    from projections.known import load
    from projections.parked import skip as give_up

    (projection,) = load([name])
    with session.store() as store:
        done = give_up(store, projection, position)
    tell(done, as_json=as_json)


def tell(done: Retried, *, as_json: bool) -> None:
    """Say what trying again did; ends with exit code 1 if something failed again."""
    if as_json:
        print_json(msgspec.to_builtins(done))
    else:
        jobs = f", {len(done.freed)} jobs go on" if done.freed else ""
        click.echo(f"{done.taken} reports taken{jobs}, {len(done.failed)} failed again")
        if done.failed:
            show(done.failed)
    if done.failed:
        raise Ended(BAD)


def show(found: list[Parked]) -> None:
    """A table; the stack of the last error below, if there is only one."""
    table = columns(
        "PROJECTION", "POSITION", "JOB", "TRIES", "WAITING", "PARKED", "ERROR",
        right=("POSITION", "TRIES", "WAITING", "PARKED"), fold=("JOB", "ERROR"),
    )  # fmt: skip
    now = time.time_ns() // 1_000
    for item in found:
        state = "skipped: " if item.skipped_at is not None else ""
        table.add_row(
            f"{item.projection} v{item.version}",
            str(item.position),
            visible(item.job_id),
            str(item.tries) if item.tries else "",
            str(item.waiting) if item.waiting else "",
            span(now - to_us(item.parked_at)),
            shortened(state + visible(item.error or "waits behind another one"), 200),
        )
    print_table(table)
    if len(found) == 1 and found[0].error_stack:
        console().print(visible_block(found[0].error_stack).rstrip(), soft_wrap=True)
