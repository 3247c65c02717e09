"""A log's turn in two round trips: BEGIN, the lock and what others wrote meanwhile; then the write and COMMIT.

Who contends for a log holds its row for one round trip and the fold, and needs no look at known ids or versions under
it: a state is a function of its job's events, so one that nobody touched is current, and a known id or a version that
is taken breaks a unique index, which writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from psycopg import pq

from eventstore import hot
from eventstore.batch import Head
from eventstore.errors import NoSuchLog
from eventstore.hot import HotStatement, read_int
from eventstore.statements import LOCK_TIMEOUT, Conn

FAR: Final = 2_000
"""Events of others that are looked at under the lock; after more of them, all states are suspects."""

_BEGIN: Final = HotStatement("BEGIN ISOLATION LEVEL READ COMMITTED")
_PATIENCE: Final = HotStatement("SELECT set_config('lock_timeout', %(lock_timeout)s, true)")
_LOCK: Final = HotStatement(
    "SELECT name, epoch, head, head_hash, fold_version, system_id, timeline,"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM logs WHERE log_id = %(log_id)s FOR NO KEY UPDATE"
)
TOUCHED: Final = (
    "SELECT job_id FROM events WHERE log_id = %(log_id)s AND position > %(since)s ORDER BY position LIMIT %(far)s"
)
"""Served by events_pkey. A snapshot of its own: it sees what was committed before the lock was had."""
_TOUCHED: Final = HotStatement(TOUCHED)
COMMIT: Final = HotStatement("COMMIT")


def begin(conn: Conn, log_id: int, since: int) -> tuple[Head, list[str]]:
    """Take the log's turn. The head, and the jobs of the events after `since`, one for each, at most `FAR`.

    Inside `ended`. Raises `LockNotAvailable` after 2 s, and `NoSuchLog`.
    """
    number = hot.int8(log_id)
    _, _, locked, touched = hot.together(
        conn,
        (_BEGIN, {}),
        (_PATIENCE, {"lock_timeout": hot.text(LOCK_TIMEOUT)}),
        (_LOCK, {"log_id": number}),
        (_TOUCHED, {"log_id": number, "since": hot.int8(since), "far": hot.int8(FAR)}),
    )
    if locked.ntuples == 0:
        raise NoSuchLog(str(log_id))
    name, system_id, timeline = (str(hot.read_text(locked, column)) for column in (0, 5, 6))
    head = Head(
        log_id, name, read_int(locked, 1), read_int(locked, 2), locked.get_value(0, 3) or b"", read_int(locked, 4),
        system_id, timeline, read_int(locked, 7),
    )  # fmt: skip
    return head, [str(job_id) for (job_id,) in hot.rows_of_text(touched)]


@contextmanager
def ended(conn: Conn) -> Iterator[None]:
    """Whatever of a transaction is left at the end of the block is rolled back."""
    try:
        yield
    finally:
        if not conn.closed and conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
