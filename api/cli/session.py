"""What every command gets as `ctx.obj`: the settings, and the store when it asks for it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from api.cli.text import visible
from api.settings import Settings
from api.variables import VARIABLES

if TYPE_CHECKING:
    from api.wiring import Wiring
    from eventstore.store import EventStore

F = TypeVar("F", bound=Callable[..., Any])


class Session:
    """One run of the command line. Settings are read on first use, so that `--help` works whatever they are."""

    def __init__(self, *, log: str | None = None) -> None:
        self.log = log
        self._changed: dict[str, Any] = {}
        self._settings: Settings | None = None
        self._origins: dict[str, str] = {}

    def change(self, **changed: Any) -> None:
        """Let options of a command stand before the environment's settings."""
        self._changed |= changed
        self._settings = None

    @property
    def settings(self) -> Settings:
        """Raises `SettingsError`, and click's usage error for a name that no log can have."""
        if self._settings is None:
            loaded, self._origins = Settings.load_with_origins()
            settings = msgspec.structs.replace(loaded, **self._changed)
            if self.log is not None:
                variable = VARIABLES["HEADWAY_LOG"]
                try:
                    settings = msgspec.structs.replace(settings, log=variable.parse(self.log))
                except ValueError:
                    raise click.BadParameter(f"{visible(self.log)!r}: {variable.rule}", param_hint="--log") from None
            self._settings = settings
        return self._settings

    @property
    def origins(self) -> dict[str, str]:
        """Where each setting that is no default comes from: a variable's name, or the configuration file's path."""
        _ = self.settings
        return self._origins

    @contextmanager
    def wired(self, *, redis: bool = False) -> Iterator[Wiring]:
        """Everything that a command needs, closed at its end; see `api.wiring.wired`."""
        from api.cli.journal import log_to_stderr
        from api.wiring import wired

        if not logging.getLogger().handlers:
            log_to_stderr(self.settings)
        with wired(self.settings, redis=redis, progress=say if sys.stderr.isatty() else None) as wiring:
            yield wiring

    @contextmanager
    def store(self, *, redis: bool = False) -> Iterator[EventStore]:
        """The store of the log; raises `NoSuchLog` when it was never created."""
        with self.wired(redis=redis) as wiring:
            store = wiring.store()
            store.log_id()
            yield store


def say(text: str) -> None:
    """A line for people, beside what the command prints."""
    click.echo(visible(text), err=True)


def _use_log(ctx: click.Context, _: click.Parameter, name: str | None) -> None:
    session = ctx.find_object(Session)
    if name is not None and session is not None:
        session.log = name


def log_option(command: F) -> F:
    """`--log` after the command's name, as well as before it."""
    return click.option(
        "--log", metavar="NAME", expose_value=False, callback=_use_log, help="The log to work on (HEADWAY_LOG)."
    )(command)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="JSON for programs.")(command)


pass_session = click.make_pass_decorator(Session)
