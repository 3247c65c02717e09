"""`keys`: who may use the HTTP API. A key belongs to one log and is shown once, when it is made."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from api.auth import Scope
from api.cli.moments import UNITS
from api.cli.output import columns, print_json, print_table
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible

if TYPE_CHECKING:
    from api.key_table import Key

LONGEST = 100 * 365 * 86_400  # seconds


class Lasts(click.ParamType):  # type: ignore[type-arg]
    """How long: 90d, 12h, 30m; in seconds."""

    name = "time"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return value
        given = re.fullmatch(r"([0-9]{1,9})([smhdw])", value)
        if given is None or not 0 < (seconds := int(given[1]) * UNITS[given[2]]) <= LONGEST:
            self.fail(f"{visible(value)!r}: give a time as 30m, 12h, 90d or 4w, at most 100 years", param, ctx)
        return float(seconds)


@click.group()
def keys() -> None:
    """Keys of the HTTP API: Authorization: Bearer hw_ID_SECRET."""


@keys.command()
@click.option("--name", default="", metavar="TEXT", help="For whom or what it is, for people.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in Scope]),
    help="What it may do; may be repeated.  [default: append, read]",
)  # fmt: skip
@click.option("--prefix", default="", metavar="TEXT", help="Only jobs whose id begins with this exist for it.")
@click.option("--expires", "lasts", type=Lasts(), help="When it ends: 12h, 90d, 52w from now.  [default: never]")
@log_option
@json_option
@pass_session
def create(
    session: Session, name: str, scopes: tuple[str, ...], prefix: str, lasts: float | None, as_json: bool
) -> None:
    """Make a key for the log and print it. Nobody can show it again: only its SHA-256 is kept.

    Running servers know it at once. `act-as` may set the actor of an event, `audit` reads the history, `admin`
    reads the metrics.
    """
    from api import key_table

    if len(name) > key_table.MAX_TEXT or not name.isprintable():
        raise click.BadParameter("at most 200 characters, none of them a control", param_hint="--name")
    if key_table.PREFIX.fullmatch(prefix) is None:
        raise click.BadParameter("the beginning of a job's id: letters, digits and . _ : @ -", param_hint="--prefix")
    wanted = [Scope(scope) for scope in scopes] or list(key_table.DEFAULT_SCOPES)
    with session.store() as store, store.database.session() as conn:
        key = key_table.create(conn, store.log_id(), scopes=wanted, name=name, prefix=prefix, lasts=lasts)
        (row,) = [made for made in key_table.list_keys(conn) if made.id == key.split("_")[1]]
    if as_json:
        told = as_fields(row)
        names = ("log", "name", "scopes", "prefix", "expires_at")
        print_json({"id": row.id, "key": key, **{name: told[name] for name in names}})
        return
    click.echo(key)
    click.echo("this is the only time that it is shown", err=True)


@keys.command("list")
@log_option
@json_option
@pass_session
def list_keys(session: Session, as_json: bool) -> None:
    """All keys of all logs, or of --log, without their secrets; those that ended too."""
    from api.key_table import list_keys as read

    with session.wired() as wiring, wiring.store().database.session() as conn:
        found = [key for key in read(conn) if session.log in (None, key.log)]
    if as_json:
        print_json([as_fields(key) for key in found])
        return
    if not found:
        click.echo("no keys", err=True)
        return
    table = columns("ID", "LOG", "SCOPES", "PREFIX", "NAME", "STATE", fold=("NAME", "SCOPES"))
    for key in found:
        table.add_row(key.id, key.log, " ".join(key.scopes), visible(key.prefix), visible(key.name), state_of(key))
    print_table(table)


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
@pass_session
def revoke(session: Session, key_id: str, as_json: bool) -> None:
    """End a key for ever. Requests with it are refused within 10 s, its streams end within 30 s."""
    from api.key_table import revoke as end

    with session.wired() as wiring, wiring.store().database.session() as conn:
        moment = end(conn, key_id)
    if as_json:
        print_json({"id": key_id, "revoked_at": moment})
    else:
        click.echo(f"revoked {visible(key_id)}")


def as_fields(key: Key) -> dict[str, Any]:
    """What programs get of a key: no digest of its secret."""
    names = ("id", "log", "name", "scopes", "prefix", "created_at", "expires_at", "revoked_at")
    return {name: getattr(key, name) for name in names}


def state_of(key: Key, now: datetime | None = None) -> str:
    """For people: whether it may be used."""
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z"
    if key.expires_at is None:
        return "good"
    over = (now or datetime.now(tz=key.expires_at.tzinfo)) >= key.expires_at
    return f"{'expired' if over else 'good until'} {key.expires_at:%Y-%m-%d %H:%M}Z"
