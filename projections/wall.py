"""Building the second wall, and carrying it over when tables take the place of others.

Each function takes a connection inside a transaction, unless it says otherwise.
"""

from __future__ import annotations

import logging
from typing import Final

from psycopg import errors as pg
from psycopg import sql

from eventstore import wall_schema as log_wall
from eventstore.statements import Conn
from projections import wall_schema

logger = logging.getLogger("headway.wall")

STANDS: Final = (
    "SELECT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass('events') AND polname = 'headway_one_log')"
)
MISSING: Final = "SELECT r FROM unnest(%s::text[]) r WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r)"
LIVE: Final = "SELECT schema, tables FROM projection_tables WHERE role = 'live' ORDER BY name"
KINDS: Final = """
SELECT c.relname::text, c.relkind::text,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'log_id' AND a.attnum > 0)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v') ORDER BY 1
"""
GRANTS: Final = """
SELECT a.privilege_type, ''::text, a.grantee::regrole::text, a.grantee, a.is_grantable, 0 AS attnum, n
  FROM pg_class c, aclexplode(c.relacl) WITH ORDINALITY a (grantor, grantee, privilege_type, is_grantable, n)
 WHERE c.oid = %(table)s::regclass AND c.relkind <> 'S' AND a.grantee <> c.relowner
UNION ALL
SELECT a.privilege_type, t.attname::text, a.grantee::regrole::text, a.grantee, a.is_grantable, t.attnum, n
  FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid,
       aclexplode(t.attacl) WITH ORDINALITY a (grantor, grantee, privilege_type, is_grantable, n)
 WHERE c.oid = %(table)s::regclass AND t.attnum > 0 AND NOT t.attisdropped AND a.grantee <> c.relowner
 ORDER BY attnum, n
"""
"""In the order in which they stand in the catalog, so that it looks as before."""
ROW_SECURITY: Final = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
POLICIES: Final = """
SELECT p.polname::text, p.polpermissive,
       CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                     ELSE 'ALL' END,
       (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ') FROM unnest(p.polroles) r),
       pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
  FROM pg_policy p WHERE p.polrelid = %(old)s::regclass
   AND NOT EXISTS (SELECT FROM pg_policy n WHERE n.polrelid = %(new)s::regclass AND n.polname = p.polname)
 ORDER BY p.polname
"""
TRY: Final = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(log_wall.READER))

BY_HAND: Final = (
    *(f"CREATE ROLE {role} NOLOGIN" for role in log_wall.ROLES),
    f"GRANT {log_wall.APPEND}, {log_wall.RELAY}, {log_wall.READER} TO {log_wall.SERVER}",
)
"""What somebody with CREATEROLE has to run where the migrating user may not; then `headway migrate` builds the wall."""


def stands(conn: Conn) -> bool:
    """Whether the wall was built in this database. Needs no transaction."""
    row = conn.execute(STANDS).fetchone()
    return row is not None and bool(row[0])


def missing_roles(conn: Conn) -> list[str]:
    """The roles that the cluster does not have. Needs no transaction."""
    return [str(row[0]) for row in conn.execute(MISSING, (list(log_wall.ROLES),)).fetchall()]


def may_enter(conn: Conn) -> bool:
    """Whether this login may read as `headway_reader`. Needs no transaction."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(TRY)
    except (pg.InsufficientPrivilege, pg.UndefinedObject, pg.InvalidParameterValue):
        return False
    return True


def build(conn: Conn) -> bool:
    """Build the wall around everything that there is, if this user may; whether it stands.

    Without the right to make roles, and without the roles, nothing happens but a warning that says what to do.
    """
    if stands(conn):
        return True
    try:
        with conn.transaction():
            conn.execute(log_wall.MAKE_ROLES)
    except pg.InsufficientPrivilege:
        logger.warning(
            "row-level security is not set up: this database user may not make roles. `headway doctor` shows what"
            " somebody who may has to run; everything else works without"
        )
        return False
    for statement in [*log_wall.wall(), *wall_schema.wall()]:
        conn.execute(statement)
    conn.execute("GRANT SELECT ON alembic_version TO headway_append, headway_relay, headway_audit, headway_server")
    for schema, tables in conn.execute(LIVE).fetchall():
        protect(conn, schema, tables)
    if not may_enter(conn):
        try:
            with conn.transaction():
                conn.execute("GRANT headway_reader TO CURRENT_USER")
        except (pg.InsufficientPrivilege, pg.UniqueViolation, pg.InternalError_):
            logger.warning("this database user is no member of headway_reader: see `headway doctor`")
    return True


def protect(conn: Conn, schema: str, names: list[str]) -> None:
    """Put a projection's tables and views behind the wall, if it stands.

    A table without a column log_id, and a view over one, can't be told apart by log: nobody gets a grant on it here.
    """
    if not stands(conn):
        return
    tables, views, every = [], [], True
    for name, kind, has_log in conn.execute(KINDS, (schema, names)).fetchall():
        place = sql.Identifier(schema, name)
        if kind == "v":
            views.append(place)
        elif has_log:
            tables.append(place)
        else:
            every = False
    for statement in wall_schema.protect(tables, views if every else []):
        conn.execute(statement)


def carry(conn: Conn, old: sql.Identifier, new: sql.Identifier) -> None:
    """Give a table that takes another one's place its row-level security, policies and grants, whoever made them."""
    names = {"old": old.as_string(conn), "new": new.as_string(conn)}
    for name, permissive, command, roles, using, check in conn.execute(POLICIES, names).fetchall():
        text = "CREATE POLICY {name} ON {table} AS " + ("PERMISSIVE" if permissive else "RESTRICTIVE")
        text += f" FOR {command} TO {{roles}}"
        text += "" if using is None else " USING ({using})"
        text += "" if check is None else " WITH CHECK ({check})"
        conn.execute(
            sql.SQL(text).format(
                name=sql.Identifier(name), table=new, roles=sql.SQL(roles), using=sql.SQL(using or ""),
                check=sql.SQL(check or ""),
            )
        )  # fmt: skip
    secured, forced = conn.execute(ROW_SECURITY, (names["old"],)).fetchone() or (False, False)
    if secured:
        conn.execute(sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(new))
    if forced:
        conn.execute(sql.SQL("ALTER TABLE {} FORCE ROW LEVEL SECURITY").format(new))
    for privilege, column, role, number, grantable, _, _ in conn.execute(GRANTS, {"table": names["old"]}).fetchall():
        text = "GRANT {privilege}{column} ON {table} TO {role}" + (" WITH GRANT OPTION" if grantable else "")
        conn.execute(
            sql.SQL(text).format(
                privilege=sql.SQL(privilege),
                column=sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL(""),
                table=new,
                role=sql.SQL(role) if number else sql.SQL("PUBLIC"),
            )
        )
