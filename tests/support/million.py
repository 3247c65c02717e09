"""A log of a million events, made by the database itself in some seconds: 10,000 jobs, one report of 20 rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import psycopg

EVENTS = 1_000_000
JOBS = 10_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
"""One event a second from here on; `occurred_at` is five seconds earlier."""

FILL = """
INSERT INTO events (log_id, position, job_id, version, event_id, type, step, attempt, data, salt, applied, reason,
                    percent, actor, occurred_at, recorded_at, hash)
SELECT %(log_id)s, n, 'build:' || n %% %(jobs)s, 1 + (n - 1) / %(jobs)s,
       (lpad(to_hex(%(log_id)s::int), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       CASE n %% 50 WHEN 0 THEN 'step.failed' WHEN 1 THEN 'step.started' WHEN 2 THEN 'step.completed'
                    ELSE 'step.progressed' END,
       'step-' || n %% 7, 1,
       (CASE n %% 50 WHEN 0 THEN
           '{"error":{"message":"Connection reset by peer ' || n || '","stack":"Traceback (most recent call last):\\n'
           '  File \\"/srv/build/push.py\\", line 42, in push\\nConnectionResetError","type":"ConnectionResetError"}}'
         ELSE '{"done":' || n %% 100 || ',"message":"正在推送代码 object ' || n || '","total":100,"unit":"files"}'
        END)::json,
       decode(repeat('00', 16), 'hex'), n %% 20 > 0, CASE WHEN n %% 20 = 0 THEN 'regression' END, n %% 1000000,
       CASE WHEN n %% 3 = 0 THEN 'ci' END, %(began)s + n * interval '1 s' - interval '5 s',
       %(began)s + n * interval '1 s', sha256(n::text::bytea)
  FROM generate_series(1, %(events)s) n
"""


def fill(conn: psycopg.Connection[Any], log: str, events: int = EVENTS) -> int:
    """Make the log and its events, and what autovacuum would make of them; returns the id of the log."""
    row = conn.execute(
        "INSERT INTO logs (name, fold_version, system_id, timeline, head) VALUES (%s, 1, 's', 't', %s)"
        " RETURNING log_id",
        (log, events),
    ).fetchone()
    assert row is not None
    conn.execute(FILL, {"log_id": row[0], "jobs": JOBS, "began": BEGAN, "events": events})
    conn.execute("VACUUM ANALYZE events")
    return int(row[0])
