"""What a command ends with: one line on stderr that says what to do, and an exit code that means something.

0 ok · 1 what was asked about is bad or failed · 2 wrong usage, or input that breaks a rule · 3 there is no such thing ·
4 a server can't be reached or is busy · 70 a fault of our own · 130 Ctrl-C. A reader that closes the pipe early
(`headway tail | head`) is no failure.
"""

from __future__ import annotations

import os
import sys
from io import StringIO
from typing import Final

import click

from api.cli.text import visible_block
from api.settings import Settings, SettingsError, wants_tracebacks

OK: Final = 0
BAD: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
UNAVAILABLE: Final = 4
FAULT: Final = 70
INTERRUPTED: Final = 130

_BY_CODE: Final = {
    "invalid_event": USAGE,
    "invalid_cursor": USAGE,
    "invalid_filter": USAGE,
    "invalid_setting": USAGE,
    "no_redis": USAGE,
    "no_keys": USAGE,
    "no_such_key": NOT_FOUND,
    "no_such_log": NOT_FOUND,
    "no_such_consumer": NOT_FOUND,
    "no_such_projection": NOT_FOUND,
    "not_parked": NOT_FOUND,
    "not_migrated": UNAVAILABLE,
    "unsafe_durability": UNAVAILABLE,
}


class Ended(Exception):
    """The command has said all it had to say and ends with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class NotFound(Exception):
    """There is no such job, log or consumer."""

    code = "not_found"
    retryable = False


class ReaderGone(Exception):
    """Nobody reads our output any more."""


def guarded(cli: click.Command, args: list[str]) -> int:
    """Run the command line and turn whatever it raises into a line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _guarded(cli, args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        code, text = judge(error)
        print(f"headway: {text}", file=sys.stderr)
    return code


def _guarded(cli: click.Command, args: list[str]) -> int:
    try:
        code = cli.main(args, prog_name="headway", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except Ended as end:
        return end.code
    except ReaderGone:
        _drop_output()
        return OK
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except click.ClickException as error:
        shown = StringIO()
        error.show(shown)
        print(visible_block(shown.getvalue()), end="", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if wants_tracebacks():
            raise
        if isinstance(error, OSError):
            _drop_output()
        code, text = judge(error)
        print(f"headway: {visible_block(_without_secrets(text))}", file=sys.stderr)
        return code


def judge(error: BaseException) -> tuple[int, str]:
    """The exit code for an error, and what to tell people."""
    if isinstance(error, BaseExceptionGroup):
        return judge(error.exceptions[0])
    text = str(error).strip()
    if isinstance(error, NotFound):
        return NOT_FOUND, text
    code = getattr(error, "code", None)
    if isinstance(code, str) and hasattr(error, "retryable"):
        if code == "store_unavailable":
            text += "\n  `headway doctor` says what can't be reached and why"
        exit_code = _BY_CODE.get(code, UNAVAILABLE if error.retryable or code.startswith("embedded_") else BAD)
        return exit_code, text
    if isinstance(error, OSError):
        what = "the output can't be written" if error.filename is None else str(error.filename)
        return BAD, f"{what}: {error.strerror or text}"
    package = type(error).__module__.partition(".")[0]
    if package == "psycopg" and type(error).__name__ in ("UndefinedTable", "UndefinedColumn", "UndefinedFunction"):
        return (
            UNAVAILABLE,
            f"the database's tables are not of this version ({_first_line(text)}): run `headway migrate`",
        )
    if package == "psycopg":
        return UNAVAILABLE, f"PostgreSQL refused: {_first_line(text)}\n  `headway doctor` says more"
    if package == "redis":
        return UNAVAILABLE, f"Redis can't be used: {_first_line(text)}\n  `headway doctor` says more"
    return FAULT, (
        f"a fault of Headway's own, please report it: {type(error).__name__}: {text}\n"
        "  HEADWAY_DEBUG=1 shows where it happened"
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _without_secrets(text: str) -> str:
    try:
        return Settings.load().hide(text)
    except SettingsError:
        return text


def _drop_output() -> None:
    """Let the interpreter's last flush go nowhere instead of failing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
