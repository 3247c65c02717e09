"""The log's statements, whole and named, each a function of one psycopg connection.

They run on the driver's connection under SQLAlchemy's: at 400 µs per append the ORM layer would be a third of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg
from psycopg import pq
from psycopg.adapt import Loader

from eventstore import pgarray
from eventstore.batch import Head, Known
from eventstore.codec import Prepared
from eventstore.errors import NoSuchLog
from eventstore.events import RecordedEvent, to_datetime
from eventstore.pgarray import PG_EPOCH_US

Conn = psycopg.Connection[Any]

LOCK_TIMEOUT: Final = "2s"
"""How long an append waits for the log's row before it answers `StoreBusy`."""
_SQL: Final = Path(__file__).with_name("sql")


@cache
def append_sql(inline: str) -> str:
    """The append statement with the inline projection's CTEs in it: the one allowed composition of SQL text."""
    text = (_SQL / "append.sql").read_text("utf-8")
    return text.replace("/*inline*/", f", {inline}" if inline else "")


_HEAD: Final = (
    "SELECT log_id, name, epoch, head, head_hash, fold_version, system_id, timeline,"
    " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM logs"
)
HEAD_BY_NAME: Final = _HEAD + " WHERE name = %s"
HEAD_BY_ID: Final = _HEAD + " WHERE log_id = %s"
LOCK_HEAD: Final = _HEAD + " WHERE log_id = %s FOR UPDATE"
LIST_LOGS: Final = _HEAD + " ORDER BY log_id"

SYSTEM_ID: Final = "SELECT system_identifier::text FROM pg_control_system()"
TIMELINE: Final = (
    "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END"
)
"""A change of system id or timeline says that this may be another history."""
DURABILITY: Final = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')"
CREATE_LOG: Final = (
    "INSERT INTO logs (name, fold_version, system_id, timeline) VALUES (%s, %s, %s, %s)"
    " ON CONFLICT (name) DO NOTHING RETURNING log_id"
)
NEW_EPOCH: Final = (
    "INSERT INTO epochs (log_id, epoch, common_position, common_hash, system_id, timeline)"
    " SELECT log_id, epoch, head, head_hash, system_id, timeline FROM logs WHERE log_id = %s"
)
BEGIN_EPOCH: Final = "UPDATE logs SET epoch = epoch + 1, system_id = %s, timeline = %s WHERE log_id = %s"
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
    f"SELECT {COLUMNS} FROM events WHERE log_id = %(log_id)s AND job_id = %(job)s"  # noqa: S608
    " AND version > %(version)s AND position > %(after)s AND position <= %(upto)s ORDER BY version LIMIT %(limit)s"
)
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


def event_arrays(batch: Sequence[Prepared]) -> dict[str, Any]:
    """The `e_…` parameters of append.sql."""
    return {
        "e_position": pgarray.int8([e.position for e in batch]),
        "e_job_id": pgarray.text([e.job_id for e in batch]),
        "e_version": pgarray.int4([e.version for e in batch]),
        "e_event_id": pgarray.uuid([e.event_id for e in batch]),
        "e_type": pgarray.text([e.type for e in batch]),
        "e_step": pgarray.text([e.step for e in batch]),
        "e_attempt": pgarray.int4([e.attempt for e in batch]),
        "e_seq": pgarray.int4([e.seq for e in batch]),
        "e_data": pgarray.json([e.text for e in batch]),
        "e_salt": pgarray.bytea([e.salt for e in batch]),
        "e_applied": pgarray.bools([e.applied for e in batch]),
        "e_reason": pgarray.text([e.reason for e in batch]),
        "e_percent": pgarray.int4([e.ppm for e in batch]),
        "e_actor": pgarray.text([e.actor for e in batch]),
        "e_occurred_at": pgarray.times([e.occurred_us for e in batch]),
        "e_hash": pgarray.bytea([e.hash for e in batch]),
    }


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


def at_time(head: Head, now_us: int) -> Head:
    return msgspec.structs.replace(head, now_us=now_us)


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


def job_versions(conn: Conn, log_id: int, job_ids: Sequence[str]) -> dict[str, int]:
    """The version of each job; 0 for one without events."""
    if not job_ids:
        return {}
    return dict(conn.execute(JOB_VERSIONS, (log_id, pgarray.text(job_ids))).fetchall())


def append(
    conn: Conn, sql: str, head: Head, new: Head, fresh: Sequence[Prepared], rows: dict[str, Any]
) -> tuple[bool, int]:
    """Write a folded batch if the log is still at `head`. Whether it was, and the database's clock in µs."""
    row = conn.execute(
        sql,
        {
            "lock_timeout": LOCK_TIMEOUT,
            "log_id": head.log_id,
            "epoch": head.epoch,
            "fold_version": head.fold_version,
            "head": head.position,
            "head_hash": head.hash,
            "new_head": new.position,
            "new_hash": new.hash,
            "recorded_at": to_datetime(fresh[0].recorded_us),
            "notify": True,
            "hint": f"{head.log_id} {new.position}",
            **event_arrays(fresh),
            **rows,
        },
        binary=True,
        prepare=True,
    ).fetchone()
    assert row is not None
    return row[0] == 1, row[1]
