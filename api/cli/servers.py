"""`up`, `down`, `migrate`: the servers and their tables."""

from __future__ import annotations

import shlex

import click

from api.cli.output import print_json
from api.cli.session import Session, json_option, pass_session, say


@click.command()
@json_option
@pass_session
def up(session: Session, as_json: bool) -> None:
    """Start PostgreSQL and Valkey in the data folder and keep them until `headway down`.

    Prints their addresses as lines for a shell: eval "$(headway up)". Creates the tables and the log `default`. Doing
    it twice is no error. With DATABASE_URL set to a server of your own nothing is started.
    """
    from api import embedded
    from api.wiring import bare_store, points_here, prepare_database

    settings = session.settings
    database_url, redis_url = settings.database_url, settings.redis_url
    if settings.embeds_postgres or points_here(settings):
        servers = embedded.up(settings.data_dir or None, progress=say)
        database_url = servers.database_url
        redis_url = redis_url if redis_url and settings.embeds_postgres else servers.redis_url
        with bare_store(database_url, settings) as store:
            prepare_database(store, say)
        say(f"running in {servers.data_dir}; `headway down` stops them")
    else:
        say("DATABASE_URL is set to a server of your own, so nothing was started")
    addresses = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    if as_json:
        print_json(addresses)
        return
    for name, url in addresses.items():
        if url:
            click.echo(f"export {name}={shlex.quote(url)}")


@click.command()
@pass_session
def down(session: Session) -> None:
    """Stop the servers that `headway up` left behind, and wait until they have stopped.

    Servers that another process uses go on until that process ends. Data stays where it is.
    """
    from api import embedded

    stopped = embedded.down(session.settings.data_dir or None)
    say("stopped" if stopped else "nothing was up")


@click.command()
@json_option
@pass_session
def migrate(session: Session, as_json: bool) -> None:
    """Bring the database to this version's tables. Safe to run twice, and from two places at once.

    Creates the log `default` if there is no log yet.
    """
    from api.wiring import bare_store, ensure_log
    from eventstore.migrate import migrate as upgrade
    from projections import wall

    settings = session.settings
    with session.wired() as wiring:
        url = wiring.addresses().database_url
        before, after = upgrade(url, pgbouncer=settings.pgbouncer)
        with bare_store(url, settings) as store:
            with store.database.session() as conn, conn.transaction():
                walled = wall.build(conn)
            made = not store.logs() and ensure_log(store, "default")
    if as_json:
        print_json({"before": before, "after": after, "created_log": made, "row_security": walled})
    else:
        same = before == after
        click.echo(f"schema {after}, nothing to do" if same else f"schema {before or 'none'} → {after}")
        if made:
            click.echo("created the log default")
