"""Answers without an end in sight, piece by piece: in constant memory, as fast as the other side reads.

The end of a whole answer is the end of its chunks; what is broken off (the database went away, the server stops, nobody
reads) ends with the connection, so that a part is never taken for the whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

import anyio
import psycopg

from api.answers import NO_STORE, Packer, packs
from api.problems import ApiError
from api.protocol import CONNECTION, Connection
from api.requests import Exchange
from api.services import Services, Tenant
from eventstore.errors import EventStoreError
from eventstore.events import RecordedEvent
from eventstore.wire import encode_event
from projections.exporting.table import table_rows

logger = logging.getLogger("headway.http")

NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
UNREAD: Final = 30.0  # seconds for which nothing is read before the download is broken off
GRACE: Final = 5.0  # seconds that a stopping server gives a download
PIECE: Final = 256 * 1024  # bytes that are handed to the connection at once, about

Pages = Iterator[list[RecordedEvent]]


def as_ndjson(pages: Pages, epoch: int) -> Iterator[bytes]:
    """A line for each event. A page of large events is several pieces; one without events is an empty piece."""
    for events in pages:
        lines: list[bytes] = []
        size = 0
        for event in events:
            line = encode_event(event, epoch)
            lines.append(line)
            size += len(line)
            if size >= PIECE:
                yield b"\n".join([*lines, b""])
                lines.clear()
                size = 0
        yield b"\n".join([*lines, b""]) if lines else b""


def as_csv(pages: Pages, *, formulas: bool) -> Iterator[bytes]:
    """A header and a row for each event, see `projections.exporting.table`."""
    return table_rows(pages, formulas=formulas, bom=True)


async def download(
    services: Services, exchange: Exchange, tenant: Tenant, pieces: Iterator[bytes], kind: str, *, name: str
) -> None:
    """Send all pieces; each is made in a thread, none before the one before it was taken. Raises what the first one
    does."""
    pack = Packer() if packs(exchange) else None
    headers = [
        (b"content-type", f"{kind}; charset=utf-8".encode() if kind == CSV else kind.encode()),
        (b"cache-control", NO_STORE.encode()),
        (b"vary", b"accept, accept-encoding, authorization"),
        (b"x-accel-buffering", b"no"),
    ]
    if kind == CSV:
        headers.append((b"content-disposition", f'attachment; filename="{name}"'.encode()))
    if pack is not None:
        headers.append((b"content-encoding", b"gzip"))
    if exchange.method == "HEAD":
        await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": b""})
        return

    def piece() -> bytes | None:
        made = next(pieces, None)
        if made is None:
            return None
        return made if pack is None else pack.add(made)

    whole, failed = False, None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_gone, exchange, tasks.cancel_scope)
        tasks.start_soon(_until_stopped, services, tasks.cancel_scope)
        try:
            made = await tenant.reads.run(piece)
            await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
            while made is not None:
                if made:
                    with anyio.fail_after(UNREAD):
                        await exchange.send({"type": "http.response.body", "body": made, "more_body": True})
                made = await tenant.reads.run(piece)
            end = b"" if pack is None else pack.end()
            await exchange.send({"type": "http.response.body", "body": end, "more_body": False})
            whole = True
        except (EventStoreError, ApiError, psycopg.Error, TimeoutError) as error:
            failed = error
        tasks.cancel_scope.cancel()
    if failed is not None:
        if not exchange.answered:
            raise failed  # from within, the task group would wrap it
        logger.warning("request %s: a download was broken off: %s", exchange.request_id, failed)
    if not whole:
        _break_off(exchange)


async def _until_gone(exchange: Exchange, scope: anyio.CancelScope) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _until_stopped(services: Services, scope: anyio.CancelScope) -> None:
    await services.stopping.wait()
    await anyio.sleep(GRACE)
    scope.cancel()


def _break_off(exchange: Exchange) -> None:
    connection: Connection | None = exchange.scope.get(CONNECTION)
    if connection is not None:
        connection.abort()
