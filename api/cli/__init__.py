"""The command line. This module knows the commands by name only: each is imported when it is asked for.

So `headway --help` costs what Python and click cost, and imports no database driver. A command module holds one group
of commands and uses `session` (settings, servers, store), `output` (people and programs) and `failures` (exit codes).
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click

from api.cli.failures import ReaderGone, guarded

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "demo": ("demo", "demo", "A real project initialisation, reported step by step and watched live."),
    "up": ("servers", "up", "Start the embedded servers and keep them; print their addresses."),
    "down": ("servers", "down", "Stop the servers that `up` left behind."),
    "serve": ("serve", "serve", "The HTTP API and live streams, with relay and projections, in one process."),
    "migrate": ("servers", "migrate", "Bring the database to this version's tables."),
    "keys": ("keys", "keys", "Who may use the HTTP API: make, list and revoke keys."),
    "logs": ("logs", "logs", "List and create logs."),
    "jobs": ("jobs", "jobs", "List jobs: status, percentage, age."),
    "show": ("jobs", "show", "One job: its steps, attempts and errors."),
    "watch": ("watch", "watch", "Follow one job live until it ends."),
    "tail": ("tail", "tail", "Read events from any cursor; --follow goes on live."),
    "audit": ("audit", "audit", "Who reported what when: search the whole history."),
    "diff": ("time_travel", "diff", "What changed in a job between two moments."),
    "curve": ("time_travel", "curve", "How a job's percentage went, as a small chart."),
    "append": ("append", "append", "Append one event to a job."),
    "consumers": ("consumers", "consumers", "Named consumers: list, lag, reset, delete."),
    "import": ("importing", "import_", "Import a history: XES, NDJSON, CSV, or an export."),
    "export": ("export", "export", "Write events to a file: NDJSON, CSV, XES."),
    "relay": ("relay", "relay", "Publish every event to Redis Streams until stopped."),
    "project": ("project", "project", "Keep projections up to date with the log until stopped."),
    "parked": ("parked", "parked", "Reports that a projection could not take: list, retry, skip."),
    "rebuild": ("rebuild", "rebuild", "Make the step table anew from the log, while appends go on."),
    "verify": ("verify", "verify", "Recompute the hash chain and name the first bad position."),
    "config": ("config", "config", "Show the effective settings and where each comes from."),
    "doctor": ("doctor", "doctor", "Say what is wrong with the set-up and what to do."),
}
"""Name → module, attribute, what it does. The order is that of the help."""

EPILOG: Final = """\b
Exit codes:
  0    ok
  1    what was asked about is bad or failed
  2    wrong usage, or input that breaks a rule
  3    there is no such job, log or consumer
  4    a server can't be reached or is busy: try again
  70   a fault of Headway's own
  130  Ctrl-C

\b
Environment:
  DATABASE_URL, REDIS_URL  servers of your own; without them some are started here
  HEADWAY_LOG              the log to work on (default: default)
  HEADWAY_DATA_DIR         where the embedded servers keep their data
  HEADWAY_CONFIG           a TOML file with settings, else ./headway.toml; `headway config` lists all
  HEADWAY_DEBUG=1          show tracebacks
  NO_COLOR=1               no colours
"""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is run, not when help lists it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"api.cli.{module}"), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise ReaderGone from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, _, purpose) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"headway {version('headway')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="A durable, replayable progress log: workers report steps, PostgreSQL keeps every report, the bar never goes"
    " back.",
)
@click.option("--log", metavar="NAME", help="The log to work on (HEADWAY_LOG).")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(ctx: click.Context, log: str | None) -> None:
    from api.cli.session import Session

    ctx.obj = Session(log=log)


def run(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Prints what went wrong as one line, never a traceback."""
    return guarded(cli, sys.argv[1:] if args is None else args)
