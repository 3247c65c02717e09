"""What `doctor` says of the second wall: roles, row-level security, and whether this login may use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import psycopg

from api.cli.text import visible
from projections import wall as the_wall

if TYPE_CHECKING:
    from api.cli.checks import Finding

HIDDEN: Final = """
SELECT current_user::text, c.relname::text FROM pg_class c
 WHERE c.oid = to_regclass('events') AND row_security_active(c.oid)
   AND NOT EXISTS (SELECT FROM pg_policy p, unnest(p.polroles) r
                    WHERE p.polrelid = c.oid AND p.polname = 'headway_every_log' AND pg_has_role(r, 'USAGE'))
"""
"""The login, if row-level security hides every log from it."""


def wall(conn: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether PostgreSQL itself keeps logs apart when keys read."""
    from api.cli.checks import bad, ok, warn

    login = visible(str((conn.execute("SELECT current_user::text").fetchone() or ("?",))[0]))
    if not the_wall.stands(conn):
        missing = the_wall.missing_roles(conn)
        advice = "headway migrate"
        if missing:
            advice = f"somebody who may make roles runs: {'; '.join(the_wall.BY_HAND)}; then headway migrate"
        yield warn("row security", "not set up: keys alone keep logs apart", advice)
        return
    if conn.execute(HIDDEN).fetchone() is not None:
        yield bad(
            "row security", f"{login} owns no tables and has no role of Headway's, so it sees no events",
            f"GRANT headway_server TO {login}",
        )  # fmt: skip
    elif the_wall.may_enter(conn):
        yield ok("row security", "reads of a key see its log only")
    else:
        yield warn(
            "row security", f"{login} may not read as headway_reader: keys alone keep logs apart",
            f"GRANT headway_reader TO {login}",
        )  # fmt: skip
