"""Keys, and the second wall: database roles that may do less than whoever logs in, and row-level security by log.

    headway_append   appends: SELECT and INSERT on events, never UPDATE, DELETE, TRUNCATE; the step table; the log's row
    headway_relay    reads every log; keeps the relay's own checkpoints
    headway_reader   reads one log: the one that `SET LOCAL headway.log_id` names, none without it
    headway_audit    reads every log, and no secret
    headway_server   what `headway serve` needs: append, relay and reader together, keys, projections
    headway_owner    may own the tables, so that nobody who can log in does

None of them can log in. A role of yours gets one by GRANT; the owner of the tables and superusers stand above the wall.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from psycopg import sql

APPEND: Final = "headway_append"
RELAY: Final = "headway_relay"
READER: Final = "headway_reader"
AUDIT: Final = "headway_audit"
SERVER: Final = "headway_server"
OWNER: Final = "headway_owner"
ROLES: Final = (APPEND, RELAY, READER, AUDIT, SERVER, OWNER)

TABLES: Final = (
    """
CREATE TABLE api_keys (
    id         text PRIMARY KEY CHECK (id ~ '^[a-z0-9]+$' AND length(id) <= 32),
    sha256     bytea NOT NULL CHECK (length(sha256) = 32),
    log_id     smallint NOT NULL REFERENCES logs,
    name       text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    scopes     text[] NOT NULL CHECK (cardinality(scopes) > 0),
    prefix     text NOT NULL DEFAULT '' CHECK (length(prefix) <= 200),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
)
""",
    """
CREATE TABLE signing_keys (
    id         text PRIMARY KEY CHECK (length(id) <= 32),
    secret     bytea NOT NULL CHECK (length(secret) >= 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
)

# Roles belong to the cluster, not to the database: another database may be making them at this moment, and then this
# one waits for its commit. Both errors mean that the role is there.
MAKE_ROLES: Final = """
DO $$
DECLARE role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['headway_append', 'headway_relay', 'headway_reader', 'headway_audit', 'headway_server',
                                'headway_owner'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
    FOREACH role IN ARRAY ARRAY['headway_append', 'headway_relay', 'headway_reader'] LOOP
        IF NOT pg_has_role('headway_server', role, 'MEMBER') THEN
            BEGIN
                EXECUTE format('GRANT %I TO headway_server', role);
            EXCEPTION WHEN unique_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END
$$
"""
"""Raises insufficient_privilege if a role is missing and this user may not make roles."""

_READERS: Final = "headway_append, headway_relay, headway_reader, headway_audit, headway_server"
GRANTS: Final = (
    f"GRANT SELECT ON logs, epochs, events, checkpoints TO {_READERS}",
    "GRANT UPDATE (epoch, head, head_hash, fold_version, system_id, timeline) ON logs TO headway_append",
    "GRANT INSERT ON epochs, events TO headway_append",
    "GRANT INSERT, UPDATE ON checkpoints TO headway_relay",
    "GRANT INSERT, UPDATE, DELETE ON checkpoints TO headway_server",
    "GRANT SELECT (id, log_id, name, scopes, prefix, created_at, expires_at, revoked_at) ON api_keys"
    " TO headway_reader, headway_audit",
    "GRANT SELECT ON api_keys TO headway_server",
    "GRANT SELECT, INSERT ON signing_keys TO headway_server",
)
RELAYS_OWN: Final = (
    "CREATE POLICY headway_relay_reads ON checkpoints FOR SELECT TO headway_relay USING (true)",
    "CREATE POLICY headway_relay_adds ON checkpoints FOR INSERT TO headway_relay"
    " WITH CHECK (starts_with(name, 'relay:'))",
    "CREATE POLICY headway_relay_moves ON checkpoints FOR UPDATE TO headway_relay"
    " USING (starts_with(name, 'relay:')) WITH CHECK (starts_with(name, 'relay:'))",
)

EVERY_LOG: Final = (
    "CREATE POLICY headway_every_log ON {table} TO headway_append, headway_audit, headway_server{relay}"
    " USING (true) WITH CHECK (true)"
)
# The scalar SELECT is asked once per statement; the bare function would be once per row. After a transaction that had
# it the setting is '' and not NULL.
ONE_LOG: Final = (
    "CREATE POLICY headway_one_log ON {table} FOR SELECT TO headway_reader"
    " USING (log_id = (SELECT nullif(current_setting('headway.log_id', true), '')::smallint))"
)
PROTECTED: Final = ("logs", "epochs", "events", "checkpoints", "api_keys")


def protect(tables: Iterable[sql.Identifier], *, relay: bool = True) -> list[str]:
    """The statements that put tables with a column log_id behind the wall; what each role may do there, grants say."""
    names = {"relay": sql.SQL(", headway_relay") if relay else sql.SQL("")}
    return [
        sql.SQL(statement).format(table=table, **names).as_string(None)
        for table in tables
        for statement in ("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY", EVERY_LOG, ONE_LOG)
    ]


def wall() -> list[str]:
    """The statements that build the wall around the log's own tables; the roles must be there."""
    return [
        *GRANTS,
        *protect([sql.Identifier(name) for name in PROTECTED if name != "checkpoints"]),
        *protect([sql.Identifier("checkpoints")], relay=False),
        *RELAYS_OWN,
    ]


def ddl() -> list[str]:
    """The statements that make all of this, in order."""
    return [*TABLES, MAKE_ROLES, *wall()]
