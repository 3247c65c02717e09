"""The log's statements, whole and named, each a function of one psycopg connection.

They run on the driver's connection under SQLAlchemy's: at 400 µs per append the ORM layer would be a third of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import Loader

from eventstore import pgarray
from eventstore.batch import Head, Known
from eventstore.errors import NoSuchLog
from eventstore.events import RecordedEvent
from eventstore.pgarray import PG_EPOCH_US

Conn = psycopg.Connection[Any]

LOCK_TIMEOUT: Final = "2s"
"""How long an append waits for the log's row before it answers `StoreBusy`."""


_HEAD: Final = (
    "SELECT log_id, name, epoch, head, head_hash, fold_version, system_id, timeline,"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM logs"
)
HEAD_BY_NAME: Final = _HEAD + " WHERE name = %s"
HEAD_BY_ID: Final = _HEAD + " WHERE log_id = %s"
LOCK_HEAD: Final = _HEAD + " WHERE log_id = %s FOR NO KEY UPDATE"
LIST_LOGS: Final = _HEAD + " ORDER BY log_id"

SYSTEM_ID: Final = "SELECT system_identifier::text FROM pg_control_system()"
TIMELINE: Final = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
)
"""A change of system id or timeline says that this may be another history."""
DURABILITY: Final = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')"
CREATE_LOG: Final = (
    "INSERT INTO logs (name, fold_version, system_id, timeline) SELECT %(name)s, %(fold)s, %(system)s, %(timeline)s"
    " WHERE NOT EXISTS (SELECT FROM logs WHERE name = %(name)s) ON CONFLICT (name) DO NOTHING RETURNING log_id"
)
NEW_EPOCH: Final = (
    "INSERT INTO epochs (log_id, epoch, common_position, common_hash, system_id, timeline)"
    " SELECT log_id, epoch, head, head_hash, system_id, timeline FROM logs WHERE log_id = %s"
)
BEGIN_EPOCH: Final = "UPDATE logs SET epoch = epoch + 1, system_id = %s, timeline = %s WHERE log_id = %s"
SET_FOLD: Final = "UPDATE logs SET fold_version = %s WHERE log_id = %s"
FOLD_CHANGES: Final = (
    "SELECT position, data FROM events WHERE log_id = %s AND job_id = 'headway.log' AND type = 'log.fold_changed'"
    " ORDER BY version"
)
"""Served by events_log_id_job_id_version_key."""
EPOCHS: Final = "SELECT epoch, common_position, common_hash FROM epochs WHERE log_id = %s ORDER BY epoch"

COLUMNS: Final = (
    "position, job_id, version, event_id, type, step, attempt, seq, data, applied, reason, percent, actor,"
    " occurred_at, recorded_at, hash"
)
READ_LOG: Final = (
    f"SELECT {COLUMNS} FROM events WHERE log_id = %s AND position > %s AND position <= %s ORDER BY position LIMIT %s"  # noqa: S608
)
"""Served by events_pkey."""
READ_JOB: Final = (
    f"SELECT {COLUMNS} FROM events WHERE log_id = %s AND job_id = %s AND version > %s AND position <= %s"  # noqa: S608
    " ORDER BY version LIMIT %s"
)
"""Served by events_log_id_job_id_version_key."""
READ_JOB_AFTER_POSITION: Final = (
    f"SELECT {COLUMNS} FROM events WHERE log_id = %s AND job_id = %s AND position > %s AND position <= %s"  # noqa: S608
    " ORDER BY version LIMIT %s"
)
"""Served by events_log_id_job_id_version_key; skips the job's events up to the position. For a first page."""
FIND_IDS: Final = (
    "SELECT event_id, position, version, job_id, type, step, attempt, seq, data, salt, applied, reason, percent, hash,"
    " occurred_at FROM events WHERE log_id = %s AND event_id = ANY(%s)"
)
"""Served by events_log_id_event_id_key."""
JOB_VERSIONS: Final = (
    "SELECT w.job_id, coalesce((SELECT e.version FROM events e WHERE e.log_id = %s AND e.job_id = w.job_id"
    " ORDER BY e.version DESC LIMIT 1), 0) FROM unnest(%s) AS w(job_id)"
)
"""Served by events_log_id_job_id_version_key, read backwards."""
NOTIFY: Final = "SELECT pg_notify('headway', %s)"
HASH_AT: Final = "SELECT hash FROM events WHERE log_id = %s AND position = %s"


class _BytesLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)


class _MicrosLoader(Loader):
    format = pq.Format.BINARY

    def load(self, data: Any) -> int:
        # infinity is the largest int64: it passes as a far number instead of raising, so a poisoned row stops nobody
        return int.from_bytes(data, "big", signed=True) + PG_EPOCH_US


def adapt(conn: Conn) -> Conn:
    """Make a connection read uuid, json and time columns as bytes and integers, and send packed arrays."""
    pgarray.register(conn)
    for name in ("uuid", "json", "bytea"):
        conn.adapters.register_loader(name, _BytesLoader)
    conn.adapters.register_loader("timestamptz", _MicrosLoader)
    return conn


def recorded(cursor: psycopg.Cursor[Any]) -> list[RecordedEvent]:
    """All rows of a cursor over `COLUMNS` as events."""
    return [RecordedEvent(*row) for row in cursor.fetchall()]


def read_head(conn: Conn, log_id: int) -> Head:
    """The log's row now. Raises `NoSuchLog`."""
    return _head(conn.execute(HEAD_BY_ID, (log_id,), binary=True), str(log_id))


def find_log(conn: Conn, name: str) -> Head:
    """The log's row by its name. Raises `NoSuchLog`."""
    return _head(conn.execute(HEAD_BY_NAME, (name,), binary=True), name)


def list_logs(conn: Conn) -> list[Head]:
    return [Head(*row) for row in conn.execute(LIST_LOGS, binary=True).fetchall()]


def _head(cursor: psycopg.Cursor[Any], log: str) -> Head:
    row = cursor.fetchone()
    if row is None:
        raise NoSuchLog(log)
    return Head(*row)


def lock_log(
    conn: Conn, log_id: int, event_ids: Sequence[bytes], job_ids: Sequence[str]
) -> tuple[Head, dict[bytes, Known], dict[str, int]]:
    """Take the log's turn: until commit nobody else gets a position. Also reads the known ones of these ids, and the
    versions of these jobs, as they are under the lock.

    One round trip: each statement has its own snapshot, so what follows the lock sees what was committed before it.
    """
    with conn.pipeline():
        conn.execute("SELECT set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
        locked = conn.execute(LOCK_HEAD, (log_id,), binary=True)
        found = conn.execute(FIND_IDS, (log_id, pgarray.uuid(event_ids)), binary=True)
        versions = conn.execute(JOB_VERSIONS, (log_id, pgarray.text(job_ids))) if job_ids else None
    known = {row[0]: Known(*row) for row in found.fetchall()}
    return _head(locked, str(log_id)), known, dict(versions.fetchall()) if versions else {}
