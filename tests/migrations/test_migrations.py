"""A migrated database is the schema that the code describes: tables, indexes, guards, functions, options."""

from __future__ import annotations

import importlib
import pkgutil
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import eventstore
import projections
from eventstore import schema as log_schema
from eventstore.errors import StoreUnavailable
from eventstore.migrate import current_revision, migrate
from tests.conftest import with_database
from tests.support.sessions import Doing, Watcher

CATALOG = {
    "columns": "SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
    " a.attidentity, a.attgenerated, a.attstorage, a.attcompression, pg_get_expr(d.adbin, d.adrelid), col.collname"
    " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
    " LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum"
    " LEFT JOIN pg_collation col ON col.oid = a.attcollation"
    " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped",
    "tables": "SELECT relname, relkind, relpersistence, reloptions, relrowsecurity, relforcerowsecurity,"
    " relacl, relreplident"
    " FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
    "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid)"
    " FROM pg_trigger WHERE NOT tgisinternal",
    "functions": "SELECT proname, pg_get_functiondef(oid), proacl FROM pg_proc"
    " WHERE pronamespace = 'public'::regnamespace",
    "policies": "SELECT tablename, policyname, cmd, qual, with_check FROM pg_policies",
}  # fmt: skip


@pytest.fixture
def empty(servers: tuple[str, str]) -> Iterator[str]:
    """An empty database."""
    name = f"headway_empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')
        yield with_database(servers[0], name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def catalog(url: str) -> dict[str, set[Any]]:
    """All that the schema is, without Alembic's own table."""
    with psycopg.connect(url) as conn:
        found = {
            kind: {tuple(map(str, row)) for row in conn.execute(query).fetchall()} for kind, query in CATALOG.items()
        }
    return {kind: {row for row in rows if "alembic" not in row[0] + row[1]} for kind, rows in found.items()}


def schemas() -> list[Any]:
    """All modules that make tables: the log's, then the read models'."""
    return [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for package in (eventstore, projections)
        for module in pkgutil.iter_modules(package.__path__)
        if module.name.endswith("schema")
    ]


def test_a_migrated_database_is_the_schema(empty, database_url):
    with psycopg.connect(empty, autocommit=True) as conn:
        for schema in schemas():
            for statement in schema.ddl():
                conn.execute(statement)
    ours, migrated = catalog(empty), catalog(database_url)
    for kind in CATALOG:
        assert migrated[kind] == ours[kind], kind
    assert {"logs", "epochs", "events", "checkpoints", "jobs", "steps", "attempts", "parked"} <= {
        row[0] for row in ours["tables"]
    }


def test_the_guards_always_fire(database_url):
    assert {row[1:3] for row in catalog(database_url)["triggers"]} == {
        ("events_immutable", "A"),
        ("events_not_truncated", "A"),
    }


def test_the_schema_says_which_revision_it_is(database_url):
    with psycopg.connect(database_url, autocommit=True) as conn:
        assert current_revision(conn) == log_schema.SCHEMA_VERSION


def test_migrating_twice_changes_nothing(empty):
    before, after = migrate(empty)
    first = catalog(empty)
    assert (before, after) == (None, log_schema.SCHEMA_VERSION)
    assert migrate(empty) == (after, after)
    assert catalog(empty) == first


def test_a_database_that_was_never_migrated_has_no_revision(empty):
    with psycopg.connect(empty, autocommit=True) as conn:
        assert current_revision(conn) is None


def test_two_migrations_at_once_are_one_after_the_other(empty):
    watcher = Watcher(empty)
    with psycopg.connect(empty) as holder:
        holder.execute("CREATE TABLE logs (n int)")  # the first waits for this name, the second for the first
        doing = [Doing(lambda: migrate(empty)) for _ in range(2)]
        watcher.until_waiting(2)
        holder.rollback()
    results = {d.result() for d in doing}
    assert results == {(None, log_schema.SCHEMA_VERSION), (log_schema.SCHEMA_VERSION, log_schema.SCHEMA_VERSION)}
    watcher.close()


def test_a_migration_that_fails_leaves_nothing_behind(empty):
    with psycopg.connect(empty, autocommit=True) as conn:
        conn.execute("CREATE TABLE checkpoints (n int)")
        with pytest.raises(Exception, match="checkpoints"):
            migrate(empty)
        assert conn.execute("SELECT to_regclass('events')").fetchone() == (None,)
        assert current_revision(conn) is None
        conn.execute("DROP TABLE checkpoints")
    assert migrate(empty)[1] == log_schema.SCHEMA_VERSION


def test_a_server_that_is_away_is_unavailable():
    with pytest.raises(StoreUnavailable):
        migrate("postgresql://nobody@127.0.0.1:1/none")
