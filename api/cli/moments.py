"""Moments as people type them: a time, how long ago, a position of the log, a cursor, or now."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from api.cli.text import visible

if TYPE_CHECKING:
    from eventstore.store import EventStore

F = TypeVar("F", bound=Callable[..., Any])

TIMES: Final = "2026-01-31, 2026-01-31T12:00 (local time unless a zone follows), or 90s, 15m, 2h, 3d, 1w ago"
UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_PLACE: Final = re.compile(r"[0-9]+|[0-9]+_[0-9]+_[0-9a-f]+")


def parse_time(text: str) -> datetime:
    """A time with a zone. Raises ValueError with what may be given."""
    try:
        if text == "now":
            return _now()
        if ago := _AGO.fullmatch(text):
            return _now() - timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
        if len(text) >= len("2026-01-31"):
            return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"give a time as {TIMES}")


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), tz=UTC)


class TimeType(click.ParamType):  # type: ignore[type-arg]
    """A time, parsed when the command line is."""

    name = "time"

    def convert(self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(f"{visible(value)!r}: {error}", param, ctx)


class MomentType(click.ParamType):  # type: ignore[type-arg]
    """A position or cursor (as it was typed), or a time."""

    name = "moment"

    def convert(
        self, value: str | datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | datetime:
        if isinstance(value, datetime) or _PLACE.fullmatch(value):
            return value
        try:
            return parse_time(value)
        except ValueError as error:
            self.fail(f"{visible(value)!r}: {error}; or a position or cursor of the log", param, ctx)


TIME: Final = TimeType()
MOMENT: Final = MomentType()


def at_options(command: F) -> F:
    """`--at` and `--occurred`, for commands that can look at the past."""
    command = click.option("--occurred", is_flag=True, help="The time of --at is the workers' own.")(command)
    return click.option(
        "--at", type=MOMENT, help="As of a position, a cursor, or a time like 2026-01-31T12:00Z or 2h."
    )(command)


def at_of(store: EventStore, moment: str | datetime) -> int | datetime:
    """What time travel takes: a position, checked to be on the log's history, or a time."""
    return moment if isinstance(moment, datetime) else store.resolve(moment)[1]


def check_occurred(occurred: bool, *moments: str | datetime | None) -> None:
    """Raise a usage error for --occurred without a time: positions are in the order of the log only."""
    if occurred and not any(isinstance(moment, datetime) for moment in moments):
        raise click.UsageError("--occurred is about times: give one, positions are in the order of the log")
