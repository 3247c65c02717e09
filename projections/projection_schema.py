"""The tables of the projection framework: where the tables of each projection are, and which events are parked.

`projection_tables` has up to three rows per projection: the set of tables that is `live`, the one that is being filled
(`new`) and the one of before the last rebuild (`old`). `parked` keeps the events that a handler could not take, the
later events of their jobs, and those that were skipped.
"""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    """
CREATE TABLE projection_tables (
    name           text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]*$' AND length(name) <= 40),
    role           text NOT NULL CHECK (role IN ('live', 'new', 'old')),
    version        int NOT NULL CHECK (version >= 1),
    schema         text NOT NULL,
    tables         text[] NOT NULL,
    source         text NOT NULL DEFAULT '',
    lease_owner    text,
    lease_deadline timestamptz,
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, role)
)
""",
    """
CREATE TABLE parked (
    log_id      smallint NOT NULL REFERENCES logs,
    checkpoint  text NOT NULL,
    job_id      text NOT NULL,
    position    bigint NOT NULL CHECK (position >= 1),
    error       text,
    error_stack text,
    tries       int NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    skipped_at  timestamptz,
    PRIMARY KEY (log_id, checkpoint, job_id, position)
)
""",
)

DROPS: Final = ("DROP TABLE parked, projection_tables",)


def ddl() -> list[str]:
    """The statements that make the tables, in order."""
    return list(TABLES)
