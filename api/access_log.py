"""The access log: one line per answered request on stderr, JSON or text as the other lines there.

    {"time":"2026-11-21T21:30:22.432Z","level":"info","logger":"headway.access","request_id":"…","method":"POST",
     "route":"/v1/jobs/{job}/events","path":"/v1/jobs/build:7/events","status":201,"ms":1.9,"bytes":512,
     "key":"k1","log":"default","client":"10.0.0.7"}

The path is as it came, percent-encoded, so nothing in it can end a line (CWE-117); of the query nothing is written,
because tokens and searches stand there. A stream is written at its end, with the number of events that it sent.
A request costs its thread one tuple; lines are made and written in batches, in a thread of their own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from api.cli.text import visible
from api.requests import Exchange

EVERY: Final = 0.25  # seconds between batches
MOST: Final = 100_000  # lines that wait; more are counted and left out


class _Entry(NamedTuple):
    at: float
    request_id: str
    method: str
    route: str
    path: bytes
    status: int
    seconds: float
    sent: int
    key: str | None
    log: str | None
    client: str | None
    events: int | None


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request. `status` is null if the client left before the answer began; `events` only of streams."""

    time: datetime
    level: str
    logger: str
    request_id: str
    method: str
    route: str
    path: str
    status: int | None
    ms: float
    bytes: int
    key: str | None
    log: str | None
    client: str | None
    events: int | None = None


def _write_to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class AccessLog:
    """Takes requests from the event loop; `run` writes them. `as_json`: else text for people."""

    def __init__(self, *, as_json: bool, write: Callable[[str], None] = _write_to_stderr) -> None:
        self._make = _json if as_json else _text
        self._write = write
        self._waiting: list[_Entry] = []
        self._dropped = 0

    def add(self, exchange: Exchange, seconds: float) -> None:
        """An exchange is over; never fails, never waits."""
        if len(self._waiting) >= MOST:
            self._dropped += 1
            return
        scope, who = exchange.scope, exchange.known
        client = scope["client"]
        self._waiting.append(
            _Entry(
                time.time(), exchange.request_id, scope["method"], exchange.route, scope["raw_path"], exchange.status,
                seconds, exchange.sent, None if who is None else who.key_id, None if who is None else who.log,
                None if client is None else client[0], exchange.events,
            )
        )  # fmt: skip

    def refused(self, status: int, client: tuple[str, int] | None) -> None:
        """A connection was refused before its request could be read: nothing of it is written."""
        if len(self._waiting) < MOST:
            host = None if client is None else client[0]
            self._waiting.append(_Entry(time.time(), "-", "-", "-", b"-", status, 0, 0, None, None, host, None))

    async def run(self) -> None:
        """Write until cancelled, then what is left. An stderr that nobody reads costs lines, not requests."""
        try:
            while True:
                await anyio.sleep(EVERY)
                if self._waiting:
                    await anyio.to_thread.run_sync(self.flush, abandon_on_cancel=True)
        finally:
            with anyio.move_on_after(1, shield=True):
                await anyio.to_thread.run_sync(self.flush, abandon_on_cancel=True)

    def flush(self) -> None:
        """Write what waits. Blocking."""
        entries, self._waiting = self._waiting, []
        dropped, self._dropped = self._dropped, 0
        text = "".join([self._make(entry) for entry in entries])
        if dropped:
            left_out = b"%d lines left out" % dropped
            text += self._make(_Entry(time.time(), "-", "-", "-", left_out, 0, 0, 0, None, None, None, None))
        try:
            self._write(text)
        except (OSError, ValueError):
            pass  # stderr is closed


def _json(entry: _Entry) -> str:
    line = Line(
        datetime.fromtimestamp(entry.at, UTC), "info", "headway.access", entry.request_id, entry.method, entry.route,
        entry.path.decode("latin-1"), entry.status or None, round(entry.seconds * 1000, 3), entry.sent, entry.key,
        entry.log, entry.client, entry.events,
    )  # fmt: skip
    return visible(msgspec.json.encode(line).decode()) + "\n"


def _text(entry: _Entry) -> str:
    moment = datetime.fromtimestamp(entry.at, UTC).astimezone()
    line = (
        f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} access  {entry.method}"
        f" {entry.path.decode('latin-1')} {entry.status or '-'} {entry.seconds * 1000:.1f}ms {entry.sent}B"
        f" id={entry.request_id}"
    )
    for name, value in (("key", entry.key), ("log", entry.log), ("client", entry.client), ("events", entry.events)):
        if value is not None:
            line += f" {name}={value}"
    return visible(line) + "\n"
