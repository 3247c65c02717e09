"""`doctor`: looks at everything Headway stands on, and says what is wrong and what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from api.cli.failures import BAD, Ended, judge
from api.cli.output import console, print_json
from api.cli.session import Session, json_option, log_option, pass_session
from api.cli.text import visible_block
from api.settings import SettingsError, hide, unknown_variables

if TYPE_CHECKING:
    from api.cli.checks import Finding
    from api.wiring import Wiring

LITTLE: Final = 2**30  # bytes free on the disk of the embedded servers
MARKS: Final = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "bad": ("✗", "bold red")}


@click.command()
@log_option
@json_option
@pass_session
def doctor(session: Session, as_json: bool) -> None:
    """Say what is wrong with the set-up and what to do about it.

    Changes nothing on servers of yours. Embedded servers are started, as by every command, to look at them.

    Exit code 1 if something does not work or puts data in danger (✗). Warnings (!) are no failure.
    """
    findings = list(examine(session))
    wrong = any(finding.level == "bad" for finding in findings)
    if as_json:
        print_json({"ok": not wrong, "findings": findings})
    else:
        show(findings)
    if wrong:
        raise Ended(BAD)


def examine(session: Session) -> Iterator[Finding]:
    """All findings. What can't be looked at, because something before it fails, is left out."""
    from api.cli.checks import bad, ok, warn
    from api.wiring import wired

    try:
        settings = session.settings
    except SettingsError as error:
        yield bad("settings", str(error), "correct the variable, or take it out of the environment")
        return
    unknown = unknown_variables()
    for name in unknown:
        yield warn("settings", f"{name} is set and means nothing to this version", "look for a slip of the pen")
    if not unknown:
        yield ok("settings", f"log {settings.log}")
    with wired(settings, redis=True) as wiring:
        try:
            where = wiring.addresses()
        except Exception as error:
            yield bad("embedded servers", judge(error)[1], "see above, or set DATABASE_URL to a server of your own")
            return
        if where.embedded:
            yield from embedded_servers(wiring)
        yield from database(wiring)
        if where.redis_url:
            yield from redis_at(where.redis_url)
        else:
            yield warn(
                "redis", "REDIS_URL is not set: live readers poll PostgreSQL", "set REDIS_URL and run headway relay"
            )


def embedded_servers(wiring: Wiring) -> Iterator[Finding]:
    """Where the embedded servers keep their data, and how much room is left there."""
    from api.cli.checks import bad, ok

    folder = Path(wiring.data_dir())
    yield ok("embedded servers", f"running in {folder}")
    try:
        wiring.store()
    except Exception as error:
        yield bad("embedded servers", judge(error)[1], "the checks below may say more")
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:,.1f} GiB free on the disk of {folder}"
    yield ok("disk", text) if free > LITTLE else bad("disk", text, "make room: a full disk stops every append")


def database(wiring: Wiring) -> Iterator[Finding]:
    """PostgreSQL: reached or not, then one check after the other."""
    import psycopg

    from api.cli import checks
    from api.cli.wall import wall as checks_of_the_wall
    from api.wiring import bare_store, points_here

    settings, where = wiring.settings, wiring.addresses()
    with bare_store(where.database_url, settings) as store:
        try:
            conn = store.database.connect()
        except psycopg.Error as error:
            advice = "is it running, is the address right, may this machine reach it?"
            if "unsupported startup parameter" in str(error):
                advice = "this looks like PgBouncer: set HEADWAY_PGBOUNCER=1"
            if points_here(settings):
                advice = "these are the embedded servers and they are down: headway up"
            yield checks.bad("postgresql", f"{hide(where.database_url)}: {one_line(error)}", advice)
            return
        with conn:
            yield checks.ok("postgresql", f"reached at {hide(where.database_url)}")
            steps: list[Callable[[], Iterable[Finding]]] = [
                lambda: checks.durability(conn),
                lambda: checks.locale(conn),
                lambda: checks.clock(conn),
                lambda: checks.transactions(conn),
            ]
            yield from guarded(steps)
            found = list(guarded([lambda: checks.schema(conn)]))
            yield from found
            if all(finding.level != "bad" or finding.check != "schema" for finding in found):
                yield from guarded(
                    [
                        lambda: checks_of_the_wall(conn),
                        lambda: checks.log(conn, settings.log, store.projection.fold_version),
                    ]
                )


def guarded(steps: Iterable[Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    """Run checks; one that fails is a finding of its own, and the others go on."""
    import psycopg

    from api.cli.checks import warn

    for step in steps:
        try:
            yield from list(step())
        except psycopg.Error as error:
            yield warn(
                "postgresql", f"a check was refused: {one_line(error)}", "give this user more rights, or ask who has"
            )


def redis_at(url: str) -> Iterator[Finding]:
    import redis

    from api.cli.checks import bad, ok, redis_server

    try:
        with redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.ping()
            yield ok("redis", f"reached at {hide(url)}")
            yield from redis_server(client)
    except (redis.RedisError, OSError, ValueError) as error:
        yield bad("redis", f"{hide(url)}: {one_line(error)}", "is it running, are address and password right?")


def one_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def show(findings: list[Finding]) -> None:
    from rich.text import Text

    out = console()
    wide = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = MARKS[finding.level]
        out.print(
            Text.assemble((mark, style), f" {finding.check:<{wide}}  ", visible_block(finding.text)), soft_wrap=True
        )
        if finding.advice:
            out.print(Text.assemble(" " * (wide + 4), ("→ ", style), visible_block(finding.advice)), soft_wrap=True)
    counts: dict[str, Any] = {level: sum(f.level == level for f in findings) for level in MARKS}
    verdict = (
        "all is well" if counts["bad"] == counts["warn"] == 0 else f"{counts['bad']} wrong, {counts['warn']} to look at"
    )
    out.print(Text(f"\n{verdict}", style="bold"))
