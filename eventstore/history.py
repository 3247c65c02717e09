"""Is a cursor on this log's history? The one place that decides it, for every kind of consumer and store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from eventstore import statements
from eventstore.batch import Head
from eventstore.chain import GENESIS
from eventstore.cursor import Cursor, Where, format_cursor, parse_cursor
from eventstore.errors import LogDiverged
from eventstore.statements import Conn


def resolve(conn: Conn, log_id: int, given: str | int | Cursor | Where | None) -> tuple[Head, int]:
    """The log's head and the position that a cursor means. Raises `InvalidCursor` or `LogDiverged`; see `locate`."""
    cursor = parse_cursor(given)
    head = statements.read_head(conn, log_id)

    def commons() -> list[tuple[int, int]]:
        return [(row[0], row[1]) for row in conn.execute(statements.EPOCHS, (log_id,)).fetchall()]

    return head, locate(cursor, head, commons, partial(_read_hash, conn, log_id))


def locate(
    cursor: Cursor | Where,
    head: Head,
    commons: Callable[[], Iterable[tuple[int, int]]],
    hash_at: Callable[[int], bytes],
) -> int:
    """The position that a cursor means in a log that stands at `head`. Raises `LogDiverged`.

    `commons` gives each ended epoch with the last position that it has in common with the next one. A cursor of an
    older epoch is good if its position is not above that, and its hash is the one that stands there. A bare position
    is only checked against the head.
    """
    match cursor:
        case Where.START:
            return 0
        case Where.NOW:
            return head.position
        case Cursor():
            pass
    limit, reason = head.position, "ahead"
    if cursor.epoch is not None and cursor.epoch != head.epoch:
        limits = [common for epoch, common in commons() if epoch >= cursor.epoch]
        limit, reason = min(limits, default=0), "epoch"
    if cursor.position > limit:
        raise LogDiverged(str(cursor), reason, _at(head, limit, hash_at))
    if cursor.hash8 is not None and _hash8(head, cursor.position, hash_at) != cursor.hash8:
        raise LogDiverged(str(cursor), "hash", format_cursor(head.epoch, 0, GENESIS[:4].hex()))
    return cursor.position


def _at(head: Head, position: int, hash_at: Callable[[int], bytes]) -> str:
    return format_cursor(head.epoch, position, _hash8(head, position, hash_at))


def _hash8(head: Head, position: int, hash_at: Callable[[int], bytes]) -> str:
    if position == 0:
        return GENESIS[:4].hex()
    return (head.hash if position == head.position else hash_at(position))[:4].hex()


def cursor_at(conn: Conn, head: Head, position: int) -> str:
    """The cursor of a position up to the head."""
    return _at(head, position, partial(_read_hash, conn, head.log_id))


def _read_hash(conn: Conn, log_id: int, position: int) -> bytes:
    row = conn.execute(statements.HASH_AT, (log_id, position), binary=True).fetchone()
    return row[0] if row else b""
