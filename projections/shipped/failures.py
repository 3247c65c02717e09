"""Failures by fingerprint: each fault once, with how often, since when, and where it was seen last."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from eventstore.events import RecordedEvent, to_datetime
from projections.projection import Events, Projection
from projections.shipped.fingerprint import fingerprint

_ADD: Final = sa.text("""
INSERT INTO failures AS f (log_id, fingerprint, type, message, stack, count, first_seen, last_seen, first_position,
                           last_position, last_job, last_step)
VALUES (:log_id, :fingerprint, :type, :message, :stack, :count, :first, :last, :first_position, :last_position, :job,
        :step)
ON CONFLICT (log_id, fingerprint) DO UPDATE
   SET count = f.count + excluded.count, first_seen = least(f.first_seen, excluded.first_seen),
       last_seen = greatest(f.last_seen, excluded.last_seen), type = excluded.type, message = excluded.message,
       stack = excluded.stack, last_position = excluded.last_position, last_job = excluded.last_job,
       last_step = excluded.last_step
""")


class Failures(Projection):
    """`failures`: one row per log and fingerprint; message, stack, job and step are those of the last one.

    Counts each `step.failed` and `job.failed` that applied, also one that is to be retried. `first_seen` and
    `last_seen` are when it happened: the worker's time, else the log's.
    """

    name = "failures"
    version = 1
    applied_only = True
    tables = (
        """
        CREATE TABLE failures (
            log_id         smallint NOT NULL,
            fingerprint    text NOT NULL,
            type           text,
            message        text,
            stack          text,
            count          bigint NOT NULL,
            first_seen     timestamptz NOT NULL,
            last_seen      timestamptz NOT NULL,
            first_position bigint NOT NULL,
            last_position  bigint NOT NULL,
            last_job       text NOT NULL,
            last_step      text,
            PRIMARY KEY (log_id, fingerprint)
        ) WITH (fillfactor = 70)
        """,
    )

    def handle(self, conn: sa.Connection, events: Events) -> None:
        found: dict[str, dict[str, Any]] = {}
        for event in events:
            if event.type in ("step.failed", "job.failed"):
                _add(found, events.log_id, event)
        if found:
            conn.execute(_ADD, [found[key] for key in sorted(found)])


def _add(found: dict[str, dict[str, Any]], log_id: int, event: RecordedEvent) -> None:
    error = event.data.get("error")
    error = error if isinstance(error, dict) else {"message": error}
    key = fingerprint(error)
    at = to_datetime(event.recorded_us if event.occurred_us is None else event.occurred_us)
    row = found.setdefault(
        key,
        {"log_id": log_id, "fingerprint": key, "count": 0, "first": at, "last": at, "first_position": event.position},
    )
    row["count"] += 1
    row["first"], row["last"] = min(row["first"], at), max(row["last"], at)
    row |= {name: _text(error.get(name)) for name in ("type", "message", "stack")}
    row |= {"last_position": event.position, "job": event.job_id, "step": event.step}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
