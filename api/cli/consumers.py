"""`consumers`: how far each named consumer of the log has come, and how to put one elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from api.cli.failures import BAD, Ended
from api.cli.output import columns, print_json, print_table, span
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible

if TYPE_CHECKING:
    from eventstore.checkpoints import Lag


@click.group()
def consumers() -> None:
    """Named consumers keep their checkpoint beside the log. The relay's are listed too (relay:…)."""


@consumers.command("list")
@log_option
@json_option
@pass_session
def list_consumers(session: Session, as_json: bool) -> None:
    """All consumers of the log, with the cursor after the last event that each has processed."""
    from eventstore.checkpoints import Checkpoints

    with session.store() as store:
        found = Checkpoints(store).list()
    if as_json:
        print_json([as_fields(consumer) for consumer in found])
        return
    if not found:
        click.echo("no consumers", err=True)
        return
    table = columns("CONSUMER", "CURSOR", "BEHIND", "MOVED", "", right=("BEHIND", "MOVED"), fold=("CONSUMER", ""))
    now = time.time_ns() // 1_000
    for consumer in found:
        ago = span(now - consumer.checkpoint.updated_us)
        state = "" if consumer.on_history else "not on this log's history: reset it"
        table.add_row(visible(consumer.name), consumer.checkpoint.cursor, f"{consumer.behind:,}", f"{ago} ago", state)
    print_table(table)


@consumers.command()
@click.argument("name", required=False)
@click.option("--max", "most", type=click.IntRange(min=0), metavar="N", help="End with 1 if one is more than N behind.")
@log_option
@json_option
@pass_session
def lag(session: Session, name: str | None, most: int | None, as_json: bool) -> None:
    """How far each consumer, or NAME, is behind: in events, and in time since the oldest one not yet processed.

    Exit code 1 if one is not on the log's history, or further behind than --max.
    """
    from eventstore.checkpoints import Checkpoints, check_name
    from eventstore.errors import NoSuchConsumer

    if name is not None:
        check_name(name)
    with session.store() as store:
        found = [consumer for consumer in Checkpoints(store).list() if name in (None, consumer.name)]
    if name is not None and not found:
        raise NoSuchConsumer(name)
    if as_json:
        print_json([as_fields(consumer) for consumer in found])
    else:
        table = columns("CONSUMER", "BEHIND", "SINCE", right=("BEHIND", "SINCE"), fold=("CONSUMER",))
        for consumer in found:
            since = span(int(consumer.seconds * 1_000_000)) if consumer.behind else ""
            table.add_row(visible(consumer.name), f"{consumer.behind:,}", since)
        print_table(table)
    if any(not consumer.on_history or (most is not None and consumer.behind > most) for consumer in found):
        raise Ended(BAD)


@consumers.command()
@click.argument("name")
@click.option("--to", "cursor", required=True, metavar="CURSOR", help="A cursor, a position, -1 (the start) or now.")
@log_option
@pass_session
def reset(session: Session, name: str, cursor: str) -> None:
    """Put a consumer to a cursor, forwards or back. A process that runs under this name ends with an error."""
    from eventstore.checkpoints import Checkpoints
    from eventstore.cursor import parse_cursor

    parse_cursor(cursor)
    with session.store() as store:
        place = Checkpoints(store).reset(name, cursor)
    click.echo(f"{visible(name)} is at {place.cursor}")


@consumers.command()
@click.argument("name")
@log_option
@pass_session
def delete(session: Session, name: str) -> None:
    """Forget a consumer: it begins anew when it comes back."""
    from eventstore.checkpoints import Checkpoints

    with session.store() as store:
        Checkpoints(store).delete(name)
    click.echo(f"deleted {visible(name)}")


def as_fields(consumer: Lag) -> dict[str, Any]:
    return {
        "name": consumer.name,
        "cursor": consumer.checkpoint.cursor,
        "position": consumer.checkpoint.position,
        "head": consumer.head,
        "behind": consumer.behind,
        "seconds": consumer.seconds,
        "on_history": consumer.on_history,
        "relay": consumer.is_relay,
    }
