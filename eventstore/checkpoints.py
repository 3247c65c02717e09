"""How far each named consumer of a log has come. One row each, beside the log, so it can commit with the effect.

with engine.begin() as conn:
    conn.execute(…)                          # the effect
    checkpoints.save_in(conn, "billing", cursor, expected=before)
"""

from __future__ import annotations

import re
from typing import Any, Final

import anyio.to_thread
import msgspec
import psycopg
import sqlalchemy as sa
from psycopg import pq
from psycopg.rows import tuple_row

from eventstore.cursor import Cursor, Where, format_cursor, parse_cursor
from eventstore.errors import CheckpointMoved, InvalidCursor, InvalidFilter, NoSuchConsumer
from eventstore.history import cursor_at, resolve
from eventstore.statements import Conn
from eventstore.store import EventStore

RELAY: Final = "relay:"
"""Names that begin so are the relay's: they are listed, and nobody else moves them."""
PROJECTION: Final = "projection:"
"""Names that begin so belong to tables that are filled up to there: moved by hand, events would count twice or not."""

_NAME: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f](?:[^\x00-\x1f\x7f-\x9f]{0,198}[^\s\x00-\x1f\x7f-\x9f])?")

_NO_TRANSACTION: Final = "save_in: open a transaction first, so that effect and checkpoint commit together"

READ: Final = "SELECT name, epoch, position, hash8, updated_at FROM checkpoints WHERE log_id = %s AND name = %s"
CREATE: Final = (
    "INSERT INTO checkpoints (log_id, name, position, hash8, epoch) VALUES (%s, %s, %s, %s, %s)"
    " ON CONFLICT (log_id, name) DO NOTHING"
)
ADVANCE: Final = (
    "INSERT INTO checkpoints AS c (log_id, name, position, hash8, epoch)"
    " VALUES (%(log_id)s, %(name)s, %(position)s, %(hash8)s, %(epoch)s)"
    " ON CONFLICT (log_id, name) DO UPDATE SET position = excluded.position, hash8 = excluded.hash8,"
    " epoch = excluded.epoch, updated_at = clock_timestamp()"
    " WHERE (c.epoch, c.position) < (excluded.epoch, excluded.position) RETURNING c.position"
)
COMPARE: Final = (
    "UPDATE checkpoints SET position = %(position)s, hash8 = %(hash8)s, epoch = %(epoch)s,"
    " updated_at = clock_timestamp()"
    " WHERE log_id = %(log_id)s AND name = %(name)s AND position = %(before)s AND hash8 = %(before8)s RETURNING 1"
)
MOVE: Final = (
    "UPDATE checkpoints SET position = %(position)s, hash8 = %(hash8)s, epoch = %(epoch)s,"
    " updated_at = clock_timestamp() WHERE log_id = %(log_id)s AND name = %(name)s RETURNING name"
)
DELETE: Final = "DELETE FROM checkpoints WHERE log_id = %s AND name = %s RETURNING name"
LIST: Final = (
    "SELECT c.name, c.epoch, c.position, c.hash8, c.updated_at, l.head,"
    " greatest(0, extract(epoch FROM statement_timestamp() - next.recorded_at) * 1000000)::bigint,"
    " CASE WHEN c.position = 0 THEN c.hash8 = '00000000'"
    " ELSE coalesce(left(encode(here.hash, 'hex'), 8) = c.hash8, false) END"
    " FROM checkpoints c JOIN logs l USING (log_id)"
    " LEFT JOIN events here ON here.log_id = c.log_id AND here.position = c.position"
    " LEFT JOIN events next ON next.log_id = c.log_id AND next.position = c.position + 1"
    " WHERE c.log_id = %s ORDER BY c.name"
)
"""Served by checkpoints_pkey and events_pkey: two rows of events for each consumer."""


class Checkpoint(msgspec.Struct, frozen=True):
    """`updated_us`: the database's clock when it was saved, microseconds since 1970."""

    name: str
    epoch: int
    position: int
    hash8: str
    updated_us: int

    @property
    def cursor(self) -> str:
        return format_cursor(self.epoch, self.position, self.hash8)


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint against the log's head. `behind`: events; `seconds`: age of the oldest event not yet processed.

    `on_history` is false when the log at that position is not the one that was processed: it needs a reset.
    """

    checkpoint: Checkpoint
    head: int
    seconds: float
    on_history: bool

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def behind(self) -> int:
        return max(0, self.head - self.checkpoint.position)

    @property
    def is_relay(self) -> bool:
        return self.checkpoint.name.startswith(RELAY)


class Checkpoints:
    """The checkpoints of one log. Blocking; safe to share between threads.

    A name is 1 to 200 characters of any language, without control characters and without a blank at either end; else
    `InvalidFilter`. All methods raise `StoreUnavailable` and `NoSuchLog` as the store does.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def read(self, name: str) -> Checkpoint | None:
        """Where the consumer is; None if it never was here."""
        log_id = self._store.log_id()
        with self._store.database.session() as conn:
            return _read(conn, log_id, check_name(name))

    def create(self, name: str, at: str | int | Cursor | Where | None = None) -> Checkpoint:
        """The consumer's checkpoint; made at a cursor (default: the start) if there is none yet.

        Raises `InvalidCursor`, and `LogDiverged` for a cursor that is not on the log's history.
        """
        log_id = self._store.log_id()
        check_own_name(name)
        with self._store.database.session() as conn:
            found = _read(conn, log_id, name)
            if found is None:
                place = self._place(conn, log_id, at)
                conn.execute(CREATE, (log_id, name, place.position, place.hash8, place.epoch))
                found = _read(conn, log_id, name)
        if found is None:
            raise NoSuchConsumer(name)
        return found

    def save(self, name: str, cursor: str | Cursor) -> bool:
        """Move the checkpoint forwards, or make it. False, and nothing happens, if it is there or further already."""
        log_id = self._store.log_id()
        with self._store.database.session() as conn:
            return conn.execute(ADVANCE, _to(log_id, check_own_name(name), cursor)).fetchone() is not None

    def save_in(
        self, conn: psycopg.Connection[Any] | sa.Connection, name: str, cursor: str | Cursor, *, expected: str | Cursor
    ) -> None:
        """Move the checkpoint from `expected` to `cursor` in the caller's transaction: with the effect, or not at all.

        Raises `CheckpointMoved` if it is not at `expected`; the caller rolls back, so no effect is there twice, even
        with two processes of one name. Raises ValueError when no transaction is open on the connection. Until the
        transaction ends, another process of this name waits.
        """
        driver = _driver(conn)
        log_id = self._store.log_id()
        params = _compare(log_id, check_own_name(name), cursor, expected)
        with driver.cursor(row_factory=tuple_row) as here:
            if here.execute(COMPARE, params).fetchone() is None:
                raise _moved(name, params, here.execute(READ, (log_id, name)).fetchone())

    async def save_in_async(
        self, conn: psycopg.AsyncConnection[Any], name: str, cursor: str | Cursor, *, expected: str | Cursor
    ) -> None:
        """`save_in` on an asynchronous connection of psycopg."""
        _in_transaction(conn)
        log_id = await anyio.to_thread.run_sync(self._store.log_id)
        params = _compare(log_id, check_own_name(name), cursor, expected)
        async with conn.cursor(row_factory=tuple_row) as here:
            await here.execute(COMPARE, params)
            if await here.fetchone() is None:
                await here.execute(READ, (log_id, name))
                raise _moved(name, params, await here.fetchone())

    def move(self, name: str, cursor: str | Cursor, *, expected: str | Cursor) -> None:
        """`save_in` in a transaction of its own."""
        log_id = self._store.log_id()
        params = _compare(log_id, check_own_name(name), cursor, expected)
        with self._store.database.session() as conn:
            if conn.execute(COMPARE, params).fetchone() is None:
                raise _moved(name, params, conn.execute(READ, (log_id, name)).fetchone())

    def list(self) -> list[Lag]:
        """All consumers of the log by name, relays too, with their lag."""
        log_id = self._store.log_id()
        with self._store.database.session() as conn:
            rows = conn.execute(LIST, (log_id,), binary=True).fetchall()
        return [
            Lag(checkpoint=Checkpoint(*row[:5]), head=row[5], seconds=(row[6] or 0) / 1e6, on_history=row[7])
            for row in rows
        ]

    def reset(self, name: str, to: str | int | Cursor | Where | None) -> Checkpoint:
        """Put the consumer to a cursor, forwards or back; a process that runs under this name hears `CheckpointMoved`.

        Raises `NoSuchConsumer`, `InvalidCursor`, and `LogDiverged` for a cursor that is not on the log's history.
        """
        log_id = self._store.log_id()
        check_own_name(name)
        with self._store.database.session() as conn:
            place = self._place(conn, log_id, to)
            if conn.execute(MOVE, _to(log_id, name, place)).fetchone() is None:
                raise NoSuchConsumer(name)
            found = _read(conn, log_id, name)
        if found is None:
            raise NoSuchConsumer(name)
        return found

    def delete(self, name: str) -> None:
        """Forget the consumer. Raises `NoSuchConsumer`."""
        log_id = self._store.log_id()
        with self._store.database.session() as conn:
            if conn.execute(DELETE, (log_id, check_own_name(name))).fetchone() is None:
                raise NoSuchConsumer(name)

    @staticmethod
    def _place(conn: Conn, log_id: int, at: str | int | Cursor | Where | None) -> Cursor:
        head, position = resolve(conn, log_id, at)
        place = parse_cursor(cursor_at(conn, head, position))
        assert isinstance(place, Cursor)
        return place


def check_name(name: str) -> str:
    """The name, or `InvalidFilter`."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        rule = "1 to 200 characters, no control characters, no blank at either end"
        raise InvalidFilter("consumer", name, rule)
    return name


def check_own_name(name: str) -> str:
    """The name, or `InvalidFilter`, also for the relay's and those of projections."""
    if check_name(name).startswith(RELAY):
        raise InvalidFilter("consumer", name, f"a name that does not begin with {RELAY}, those are the relay's")
    if name.startswith(PROJECTION):
        rule = f"a name that does not begin with {PROJECTION}, those go with tables: `headway rebuild` makes them anew"
        raise InvalidFilter("consumer", name, rule)
    return name


def _read(conn: Conn, log_id: int, name: str) -> Checkpoint | None:
    row = conn.execute(READ, (log_id, name), binary=True).fetchone()
    return Checkpoint(*row) if row is not None else None


def _full(cursor: str | Cursor) -> Cursor:
    place = parse_cursor(cursor)
    if not isinstance(place, Cursor) or place.epoch is None or place.hash8 is None:
        raise InvalidCursor(cursor)
    return place


def _to(log_id: int, name: str, cursor: str | Cursor) -> dict[str, Any]:
    place = _full(cursor)
    return {
        "log_id": log_id, "name": name, "position": place.position, "hash8": place.hash8, "epoch": place.epoch
    }  # fmt: skip


def _compare(log_id: int, name: str, cursor: str | Cursor, expected: str | Cursor) -> dict[str, Any]:
    before = _full(expected)
    return {**_to(log_id, name, cursor), "before": before.position, "before8": before.hash8}


def _moved(name: str, params: dict[str, Any], row: Any) -> CheckpointMoved:
    return CheckpointMoved(name, params["before"], row[2] if row is not None else None)


def _driver(conn: psycopg.Connection[Any] | sa.Connection) -> psycopg.Connection[Any]:
    if not isinstance(conn, sa.Connection):
        _in_transaction(conn)
        return conn
    driver = conn.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("save_in: the connection must be one of psycopg 3 (postgresql+psycopg://)")
    if not conn.in_transaction() or driver.autocommit:
        raise ValueError(_NO_TRANSACTION)
    return driver


def _in_transaction(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if conn.autocommit and conn.info.transaction_status != pq.TransactionStatus.INTRANS:
        raise ValueError(_NO_TRANSACTION)


__all__ = ["RELAY", "Checkpoint", "Checkpoints", "Lag", "check_name"]
