"""Recompute the hash chain from the stored rows and name the first position that is not what was appended.

The rows come as binary COPY, whose format is that of the leaf: each field with its length before it, -1 for none. So
what is hashed is what the database sent, and `chain.leaf` is checked against a second source. Bounded pages: no
snapshot is held for longer than one of them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
import psycopg
from psycopg import sql

from eventstore.batch import Head
from eventstore.chain import GENESIS
from eventstore.database_errors import unavailable
from eventstore.errors import ChainBroken
from eventstore.statements import HASH_AT, Conn, find_log
from eventstore.store import EventStore

PAGE: Final = 50_000  # positions in one COPY
HEAD: Final = (
    "SELECT head, head_hash, (SELECT max(position) FROM events WHERE log_id = l.log_id) FROM logs l WHERE log_id = %s"
)
"""Head and last row as one snapshot sees them. Served by events_pkey, read backwards."""
ROWS: Final = sql.SQL(
    "COPY (SELECT e.salt, e.data, l.name, e.position, e.job_id, e.version::bigint, e.event_id, e.type, e.step,"
    " e.attempt::bigint, e.seq::bigint, e.applied, e.reason, e.percent::bigint, e.actor,"
    " CASE WHEN isfinite(e.occurred_at) THEN (extract(epoch FROM e.occurred_at) * 1000000)::bigint"
    " WHEN e.occurred_at IS NOT NULL THEN -1::bigint << 63 END,"  # infinity: a time that no event has
    " CASE WHEN isfinite(e.recorded_at) THEN (extract(epoch FROM e.recorded_at) * 1000000)::bigint END, e.hash"
    " FROM logs l JOIN events e ON e.log_id = l.log_id"
    " WHERE l.log_id = {log_id} AND e.position > {after} AND e.position <= {upto} ORDER BY e.position)"
    " TO STDOUT (FORMAT BINARY)"
)
"""Salt and text, then the leaf's fields in its order, then the hash. Served by events_pkey."""

_SIGNATURE: Final = 19  # bytes before the first row
_SALT: Final = slice(6, 22)
_TEXT: Final = 26  # where the text begins
_LENGTH: Final = struct.Struct(">i").unpack_from
_POSITION: Final = struct.Struct(">qi").unpack_from
_VERSION: Final = struct.Struct(">q").unpack_from
_DIGEST: Final = b"\x00\x00\x00\x20"  # the length of the leaf's last field


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The chain is whole from `after` to `head`: so many events, checked in so many seconds."""

    head: Head
    events: int
    seconds: float


def verify(store: EventStore, *, after: int = 0, progress: Callable[[int, int], None] | None = None) -> Verified:
    """Check every event of the log after a position, up to the head at the start; raises `ChainBroken` at the first
    that was edited, inserted, deleted or swapped, or where the log's row disagrees with the last event.

    With `after` above 0 the hash stored there is believed. `progress(done, total)` is called page by page. Says
    nothing of a history that was rewritten as a whole: that shows only to whoever holds an older cursor.
    """
    begun = time.monotonic()
    try:
        conn = store.database.connect()
    except psycopg.OperationalError as error:
        raise unavailable(error) from error
    with conn:
        head = find_log(conn, store.log)
        position, head_hash, last = conn.execute(HEAD, (head.log_id,), binary=True).fetchone() or (0, GENESIS, None)
        head = msgspec.structs.replace(head, position=position, hash=head_hash)
        walk = _Walk(head, after, _hash_at(conn, head.log_id, after))
        while walk.position < position:
            walk.page(conn, min(walk.position + PAGE, position))
            if progress is not None:
                progress(walk.position - after, position - after)
        if walk.hash != head_hash:
            raise ChainBroken(position, "the log's row holds another hash than its last event")
        if (last or 0) > position:
            raise ChainBroken(position + 1, "an event stands after the head of the log")
    return Verified(head=head, events=max(position - after, 0), seconds=time.monotonic() - begun)


def _hash_at(conn: Conn, log_id: int, position: int) -> bytes:
    if position == 0:
        return GENESIS
    row = conn.execute(HASH_AT, (log_id, position), binary=True).fetchone()
    if row is None:
        raise ChainBroken(position, "the event is missing")
    return bytes(row[0])


class _Walk:
    """How far the check has come: the last position that was right, its hash, and the version of each job."""

    def __init__(self, head: Head, after: int, start: bytes) -> None:
        self._log_id = head.log_id
        self._name = 4 + len(head.name.encode()) + 4  # bytes of a leaf before the position
        self._from_start = after == 0
        self._versions: dict[bytes, int] = {}
        self.position, self.hash = after, start

    def page(self, conn: Conn, upto: int) -> None:
        query = ROWS.format(log_id=sql.Literal(self._log_id), after=sql.Literal(self.position), upto=sql.Literal(upto))
        try:
            with conn.cursor() as cursor, cursor.copy(query) as rows:
                start = _SIGNATURE
                for row in rows:
                    if len(row) - start > 2:  # less is the end mark
                        self._row(bytes(row[start:]))
                    start = 0
        except psycopg.OperationalError as error:
            raise unavailable(error) from error
        except psycopg.DatabaseError as unreadable:
            raise ChainBroken(self.position + 1, f"the event can't be read: {unreadable}") from unreadable
        if self.position != upto:
            raise ChainBroken(self.position + 1, "the event is missing")

    def _row(self, row: bytes) -> None:
        expected = self.position + 1
        front = _TEXT + _LENGTH(row, 22)[0]
        position, length = _POSITION(row, front + self._name)
        if position != expected:
            raise ChainBroken(expected, "the event is missing")
        digest = sha256(row[_SALT] + row[_TEXT:front]).digest()
        link = sha256(self.hash + row[front:-36] + _DIGEST + digest).digest()
        if link != row[-32:]:
            raise ChainBroken(expected, "the event is not the one that was appended here")
        at = front + self._name + 12
        job = row[at : at + length]
        version = _VERSION(row, at + length + 4)[0]
        before = self._versions.get(job)
        if version != (before or 0) + 1 and (before is not None or self._from_start):
            raise ChainBroken(expected, f"version {version} of its job follows version {before or 0}")
        self._versions[job] = version
        self.position, self.hash = expected, link
