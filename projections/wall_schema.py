"""The second wall around the read models: the same roles and policies as around the log (eventstore/wall_schema.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from psycopg import sql

from eventstore import wall_schema as log_wall

INLINE: Final = ("jobs", "steps", "attempts")
SHIPPED: Final = ("step_durations", "job_remaining", "step_clocks", "workers_seen", "activity_per_day", "failures")
SHIPPED_VIEWS: Final = ("step_duration_statistics",)

_READERS: Final = "headway_append, headway_relay, headway_reader, headway_audit, headway_server"
_OWN: Final = (
    f"GRANT SELECT ON jobs, steps, attempts, parked, projection_tables TO {_READERS}",
    "GRANT INSERT, UPDATE ON jobs, steps, attempts TO headway_append",
    "GRANT INSERT, UPDATE, DELETE ON parked, projection_tables TO headway_server",
)
_TABLE: Final = (
    "GRANT SELECT ON {table} TO headway_reader, headway_audit, headway_server",
    "GRANT INSERT, UPDATE, DELETE ON {table} TO headway_server",
)
# A view looks with its owner's eyes, above the wall, unless it is told to look with its reader's.
_VIEW: Final = (
    "ALTER VIEW {table} SET (security_invoker = true)",
    "GRANT SELECT ON {table} TO headway_reader, headway_audit, headway_server",
)


def protect(tables: Sequence[sql.Identifier], views: Sequence[sql.Identifier]) -> list[str]:
    """The statements that put the tables of a projection, with a column log_id, and its views behind the wall."""
    return [
        *(sql.SQL(grant).format(table=table).as_string(None) for table in tables for grant in _TABLE),
        *log_wall.protect(tables, relay=False),
        *(sql.SQL(statement).format(table=view).as_string(None) for view in views for statement in _VIEW),
    ]


def wall() -> list[str]:
    """The statements that build the wall around the step table and the framework's own tables."""
    return [*_OWN, *log_wall.protect([sql.Identifier(name) for name in (*INLINE, "parked")])]


def ddl() -> list[str]:
    """The statements that build all of it, in order."""
    return [*wall(), *protect([sql.Identifier(name) for name in SHIPPED], list(map(sql.Identifier, SHIPPED_VIEWS)))]
