"""Is a cursor on this log's history? The one place that decides it, for every kind of consumer."""

from __future__ import annotations

from eventstore import statements
from eventstore.batch import Head
from eventstore.chain import GENESIS
from eventstore.cursor import Cursor, Where, format_cursor, parse_cursor
from eventstore.errors import LogDiverged
from eventstore.statements import Conn


def resolve(conn: Conn, log_id: int, given: str | int | Cursor | Where | None) -> tuple[Head, int]:
    """The log's head and the position that a cursor means. Raises `InvalidCursor` or `LogDiverged`.

    A cursor of an older epoch is good if its position is not above what that epoch has in common with the next, and
    its hash is the one that stands there. A bare position is only checked against the head.
    """
    cursor = parse_cursor(given)
    head = statements.read_head(conn, log_id)
    match cursor:
        case Where.START:
            return head, 0
        case Where.NOW:
            return head, head.position
        case Cursor():
            pass
    limit, reason = head.position, "ahead"
    if cursor.epoch is not None and cursor.epoch != head.epoch:
        limits = [row[1] for row in conn.execute(statements.EPOCHS, (log_id,)).fetchall() if row[0] >= cursor.epoch]
        limit, reason = min(limits, default=0), "epoch"
    if cursor.position > limit:
        raise LogDiverged(str(cursor), reason, _at(conn, head, limit))
    if cursor.hash8 is not None and _hash8(conn, head, cursor.position) != cursor.hash8:
        raise LogDiverged(str(cursor), "hash", format_cursor(head.epoch, 0, GENESIS[:4].hex()))
    return head, cursor.position


def cursor_at(conn: Conn, head: Head, position: int) -> str:
    """The cursor of a position up to the head."""
    return _at(conn, head, position)


def _at(conn: Conn, head: Head, position: int) -> str:
    return format_cursor(head.epoch, position, _hash8(conn, head, position))


def _hash8(conn: Conn, head: Head, position: int) -> str:
    if position == 0:
        return GENESIS[:4].hex()
    if position == head.position:
        return head.hash[:4].hex()
    row = conn.execute(statements.HASH_AT, (head.log_id, position), binary=True).fetchone()
    return row[0][:4].hex() if row else ""
