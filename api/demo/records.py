"""The records of a new project: tables in a schema of its own, filled, indexed and counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from api.demo.template import ENVIRONMENTS, SERVICES

ROWS: Final = 30_000
BATCH: Final = 500

_TABLES: Final[tuple[LiteralString, ...]] = (
    "CREATE TABLE projects (project_id int PRIMARY KEY, name text NOT NULL UNIQUE,"
    " created_at timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE environments (project_id int NOT NULL REFERENCES projects, name text NOT NULL,"
    " PRIMARY KEY (project_id, name))",
    "CREATE TABLE services (service_id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, project_id int NOT NULL"
    " REFERENCES projects, name text NOT NULL, UNIQUE (project_id, name))",
    "CREATE TABLE settings (service text NOT NULL, environment text NOT NULL, number int NOT NULL, value text NOT NULL,"
    " PRIMARY KEY (service, environment, number))",
)
_INDEXES: Final[tuple[LiteralString, ...]] = ("CREATE INDEX settings_value ON settings (value)", "ANALYZE settings")

OnRows = Callable[[int, int], None]


@contextmanager
def own_schema(url: str, name: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose tables are made in a new schema of this name; the schema is dropped at the end."""
    schema = sql.Identifier(name)
    with psycopg.connect(url, autocommit=True, application_name="headway-demo") as conn:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        conn.execute(sql.SQL("SET search_path TO {}").format(schema))
        try:
            yield conn
        finally:
            drop_schema(url, name)


def drop_schema(url: str, name: str) -> None:
    """Remove the schema with all that is in it, over a connection of its own: another may be broken."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("SET client_min_messages TO warning")
        conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def create_tables(conn: psycopg.Connection[Any], project: str) -> None:
    """The tables, and the few rows that all others refer to."""
    with conn.transaction():
        for statement in _TABLES:
            conn.execute(statement)
        conn.execute("INSERT INTO projects (project_id, name) VALUES (1, %s)", (project,))
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO environments VALUES (1, %s)", [(name,) for name in ENVIRONMENTS])
            cursor.executemany("INSERT INTO services (project_id, name) VALUES (1, %s)", [(name,) for name in SERVICES])


def fill_settings(conn: psycopg.Connection[Any], on_rows: OnRows, rows: int = ROWS) -> int:
    """Insert the settings batch by batch, each in a transaction of its own; returns how many rows there are."""
    rng = random.Random(1)  # noqa: S311 - content, not a secret
    places = [(service, environment) for service in SERVICES for environment in ENVIRONMENTS]
    for start in range(0, rows, BATCH):
        batch = [
            (*places[number % len(places)], number // len(places), f"{rng.getrandbits(64):016x}")
            for number in range(start, min(start + BATCH, rows))
        ]
        with conn.transaction(), conn.cursor() as cursor:
            cursor.executemany("INSERT INTO settings VALUES (%s, %s, %s, %s)", batch)
        on_rows(start + len(batch), rows)
    for statement in _INDEXES:
        conn.execute(statement)
    return count_settings(conn)


def count_settings(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("SELECT count(*) FROM settings").fetchone()
    return int(found[0]) if found else 0
