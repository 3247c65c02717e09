"""The tables of the inline projection: jobs, steps, attempts. One function makes them, for the migration and for the
shadow tables of a rebuild.

No index holds a column that changes with progress, and pages are filled to 70 %, so updates stay on their page (HOT).
`percent` is in parts per million, `weight` and `span_start` in parts per million of a weight or of one percent. `state`
holds what only the fold reads: a few integers of the row itself, never the plan.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

# No foreign keys: the three are written in one statement with the log's row, and dropping a table that refers to logs
# would lock logs against appends, which a rebuild must not do.
TABLES: Final = (
    """
CREATE TABLE {jobs} (
    log_id         smallint NOT NULL,
    job_id         text NOT NULL,
    first_position bigint NOT NULL,
    position       bigint NOT NULL,
    version        int NOT NULL,
    status         text NOT NULL,
    percent        int NOT NULL CHECK (percent BETWEEN 0 AND 1000000),
    plan_version   int NOT NULL,
    steps_named    int NOT NULL,
    steps_total    int NOT NULL,
    steps_open     int NOT NULL,
    steps_done     int NOT NULL,
    steps_failed   int NOT NULL,
    rejected       int NOT NULL,
    created_at     timestamptz NOT NULL,
    started_at     timestamptz,
    updated_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    until_at       timestamptz,
    title          text,
    kind           text,
    continues      text,
    current_step   text,
    message        text,
    reason         text,
    metadata       json,
    error          json,
    error_stack    text,
    state          json NOT NULL,
    PRIMARY KEY (log_id, job_id)
) WITH (fillfactor = 70)
""",
    """
CREATE TABLE {steps} (
    log_id      smallint NOT NULL,
    job_id      text NOT NULL,
    step        text NOT NULL,
    parent      text,
    ordinal     int NOT NULL,
    label       text,
    weight      bigint NOT NULL,
    span_start  bigint,
    status      text NOT NULL,
    percent     int NOT NULL CHECK (percent BETWEEN 0 AND 1000000),
    done        bigint,
    total       bigint,
    unit        text,
    attempt     int NOT NULL,
    seq         int,
    rejected    int NOT NULL,
    started_at  timestamptz,
    updated_at  timestamptz,
    ended_at    timestamptz,
    until_at    timestamptz,
    message     text,
    reason      text,
    metadata    json,
    error       json,
    error_stack text,
    state       json,
    PRIMARY KEY (log_id, job_id, step)
) WITH (fillfactor = 70)
""",
    """
CREATE TABLE {attempts} (
    log_id      smallint NOT NULL,
    job_id      text NOT NULL,
    step        text NOT NULL,
    attempt     int NOT NULL,
    status      text NOT NULL,
    percent     int NOT NULL CHECK (percent BETWEEN 0 AND 1000000),
    worker      text,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    error       json,
    error_stack text,
    PRIMARY KEY (log_id, job_id, step, attempt)
) WITH (fillfactor = 70)
""",
    # For lists of jobs, newest first; both columns never change.
    "CREATE INDEX {jobs_first_position} ON {jobs} (log_id, first_position)",
)
NAMES: Final = ("jobs", "steps", "attempts")


def ddl(suffix: str = "") -> list[str]:
    """The statements that make the tables, in order; `suffix` is put behind every name, for shadow tables."""
    names = {name: sql.Identifier(name + suffix) for name in (*NAMES, "jobs_first_position")}
    return [sql.SQL(statement).format(**names).as_string(None) for statement in TABLES]


def drops(suffix: str = "") -> list[str]:
    """The statements that take the tables away."""
    return [sql.SQL("DROP TABLE {}").format(sql.Identifier(name + suffix)).as_string(None) for name in NAMES[::-1]]
