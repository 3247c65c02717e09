"""Where the tables of a projection are: `live` among all others, `new` and `old` each in a schema of its own.

Handlers name their tables without a schema; the search path of the transaction decides which set they mean. So a
rebuild is the same handler on another set, and taking its place is ALTER TABLE … SET SCHEMA.
Each function takes a connection inside a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import psycopg
from psycopg import errors as pg
from psycopg import sql

from eventstore.statements import Conn
from projections import wall
from projections.projection import Projection, ProjectionError, checkpoint_of

LIVE: Final = "live"
NEW: Final = "new"
OLD: Final = "old"

ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(7016996765293437283)"
FIND: Final = "SELECT name, role, version, schema, tables, source FROM projection_tables WHERE name = %s AND role = %s"
"""Served by projection_tables_pkey."""
PUT: Final = """
INSERT INTO projection_tables (name, role, version, schema, tables, source) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (name, role) DO UPDATE
   SET version = excluded.version, schema = excluded.schema, tables = excluded.tables,
       source = excluded.source, lease_owner = NULL, lease_deadline = NULL, changed_at = clock_timestamp()
"""
REMOVE: Final = "DELETE FROM projection_tables WHERE name = %s AND role = %s"
LOOK_IN: Final = "SELECT set_config('search_path', quote_ident(%s) || ', ' || current_setting('search_path'), true)"
"""Names without a schema mean this schema first, until the end of the transaction."""
RELATIONS: Final = """
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
 ORDER BY 1
"""
"""The tables and views of a schema; sequences that belong to a column go where their table goes."""


class Place(msgspec.Struct, frozen=True):
    """One set of a projection's tables: their schema and their names; `source` tells which code fills it."""

    name: str
    role: str
    version: int
    schema: str
    tables: list[str]
    source: str = ""

    @property
    def checkpoint(self) -> str:
        return checkpoint_of(self.name, self.version, self.role)


def find(conn: Conn, name: str, role: str = LIVE) -> Place | None:
    """The set of tables in this role, if there is one."""
    row = conn.execute(FIND, (name, role)).fetchone()
    return None if row is None else Place(*row)


def ensure(conn: Conn, projection: Projection) -> Place:
    """The live tables of the projection; made now if it has none of any version."""
    live = find(conn, projection.name)
    if live is not None:
        return live
    conn.execute(ONE_AT_A_TIME)
    live = find(conn, projection.name)
    if live is not None:
        return live
    made = create(conn, projection)
    row = conn.execute("SELECT current_schema()").fetchone()
    schema = str(row[0]) if row is not None and row[0] else "public"
    _move(conn, made, schema)
    live = _put(conn, msgspec.structs.replace(made, role=LIVE, schema=schema))
    conn.execute(REMOVE, (projection.name, NEW))
    return live


def create(conn: Conn, projection: Projection, source: str = "") -> Place:
    """Empty tables in the role NEW; what was there in that role is gone."""
    name = projection.name
    discard(conn, name, NEW)
    schema = _schema(name, NEW)
    try:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    except pg.InsufficientPrivilege:
        raise ProjectionError(
            f"projection {name}: this role may not create the schema {schema}: run it once with a role that may, or"
            " GRANT CREATE ON DATABASE to this one"
        ) from None
    before = conn.execute("SELECT current_setting('search_path')").fetchone()
    conn.execute(LOOK_IN, (schema,))
    for statement in projection.tables:
        try:
            conn.execute(statement)
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            raise ProjectionError(
                f"projection {name}: one of its statements fails: {error}: {' '.join(statement.split())[:80]}"
            ) from None
    conn.execute("SELECT set_config('search_path', %s, true)", before)
    tables = [str(row[0]) for row in conn.execute(RELATIONS, (schema,)).fetchall()]
    if not tables:
        raise ProjectionError(f"projection {name}: its statements made no table; names must not have a schema")
    wall.protect(conn, schema, tables)
    return _put(conn, Place(name, NEW, projection.version, schema, tables, source))


def discard(conn: Conn, name: str, role: str) -> None:
    """Drop the tables in this role with their checkpoints and parked events; no error if there are none."""
    place = find(conn, name, role)
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(_schema(name, role))))
    if place is not None:
        conn.execute("DELETE FROM checkpoints WHERE name = %s", (place.checkpoint,))
        conn.execute("DELETE FROM parked WHERE checkpoint = %s", (place.checkpoint,))
        conn.execute(REMOVE, (name, role))


def swap(conn: Conn, live: Place, incoming: Place) -> None:
    """Make `incoming` (NEW or OLD) the live set and the live one OLD, with their checkpoints and parked events.

    The caller holds the checkpoints of `live` and its tables, both against everybody.
    """
    aside = msgspec.structs.replace(live, role=OLD, schema=_schema(live.name, OLD))
    to_come = msgspec.structs.replace(incoming, role=LIVE, schema=live.schema)
    if incoming.role == OLD:
        # Both want the schema of OLD: what comes from there waits in the one of NEW.
        discard(conn, live.name, NEW)
        via = _schema(live.name, NEW)
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(via)))
        _move(conn, incoming, via)
        incoming = msgspec.structs.replace(incoming, schema=via)
    else:
        discard(conn, live.name, OLD)
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(aside.schema)))
    _move(conn, live, aside.schema, leave=True)
    _move(conn, incoming, to_come.schema)
    for table in sorted({*live.tables} & {*to_come.tables}):
        wall.carry(conn, sql.Identifier(aside.schema, table), sql.Identifier(to_come.schema, table))
    waiting = checkpoint_of(live.name, incoming.version, "swap")
    for old, new in (
        (incoming.checkpoint, waiting),
        (live.checkpoint, aside.checkpoint),
        (waiting, to_come.checkpoint),
    ):
        for table, column in (("parked", "checkpoint"), ("checkpoints", "name")):
            names = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
            conn.execute(sql.SQL("DELETE FROM {table} WHERE {column} = %s").format(**names), (new,))
            rename = sql.SQL("UPDATE {table} SET {column} = %s WHERE {column} = %s").format(**names)
            conn.execute(rename, (new, old))
    conn.execute(REMOVE, (live.name, incoming.role))
    _put(conn, aside)
    _put(conn, to_come)


def lock_tables(conn: Conn, place: Place) -> None:
    """Hold the set's tables against everybody until the end of the transaction."""
    names = [sql.Identifier(place.schema, table) for table in _only_tables(conn, place)]
    conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(names)))


def _only_tables(conn: Conn, place: Place) -> Iterable[str]:
    rows = conn.execute(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p') ORDER BY 1",
        (place.schema, place.tables),
    )
    return [row[0] for row in rows.fetchall()]


def _schema(name: str, role: str) -> str:
    return f"headway_{role}_{name}"


def _put(conn: Conn, place: Place) -> Place:
    conn.execute(PUT, (place.name, place.role, place.version, place.schema, place.tables, place.source))
    return place


def _move(conn: Conn, place: Place, to: str, *, leave: bool = False) -> None:
    """Move the set to another schema; the one that it leaves is dropped, unless it is everybody's."""
    for table in place.tables:
        move = sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(place.schema, table), sql.Identifier(to))
        try:
            conn.execute(move)
        except pg.DuplicateTable:
            raise ProjectionError(
                f"projection {place.name}: there is a table {table} in the schema {to} already, which is not its own:"
                " give the projection's table another name"
            ) from None
    if not leave:
        try:
            conn.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(place.schema)))
        except pg.DependentObjectsStillExist as error:
            raise ProjectionError(
                f"projection {place.name}: its statements may make tables, indexes and views, nothing else:"
                f" {error.diag.message_detail}"
            ) from None
