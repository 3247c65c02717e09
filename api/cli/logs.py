"""`logs list` and `logs create`."""

from __future__ import annotations

import click

from api.cli.output import columns, print_json, print_table
from api.cli.session import Session, json_option, pass_session


@click.group()
def logs() -> None:
    """List and create logs. A log has an order, cursors and a hash chain of its own; one per tenant or shard."""


@logs.command("list")
@json_option
@pass_session
def list_logs(session: Session, as_json: bool) -> None:
    """All logs of the database, oldest first, with their last position and its cursor."""
    from eventstore.cursor import format_cursor

    with session.wired() as wiring:
        heads = wiring.store().logs()
    rows = [
        (head.name, head.position, head.epoch, format_cursor(head.epoch, head.position, head.hash[:4].hex()))
        for head in heads
    ]
    if as_json:
        print_json([dict(zip(("name", "events", "epoch", "cursor"), row, strict=True)) for row in rows])
        return
    table = columns("LOG", "EVENTS", "EPOCH", "CURSOR", right=("EVENTS", "EPOCH"), fold=("LOG",))
    for row in rows:
        table.add_row(*map(str, row))
    print_table(table)


@logs.command()
@click.argument("name")
@pass_session
def create(session: Session, name: str) -> None:
    """Create a log: 1 to 63 of a-z 0-9 _ -, beginning with a letter or digit. One that is there already is no error."""
    from api.wiring import ensure_log
    from eventstore.codec import check_log

    check_log(name)
    with session.wired() as wiring:
        made = ensure_log(wiring.store(), name)
    click.echo(f"created the log {name}" if made else f"the log {name} is there already")
