"""Bring a database to this version's schema. Alembic's revisions live in migrations/, in the wheel below here."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

from eventstore.connections import Database
from eventstore.database_errors import unavailable
from eventstore.statements import Conn

_LOCK: Final = 7_016_996_765_293_437_281  # any constant: one migration at a time


def migrations_folder() -> Path:
    """The folder of the revisions: beside this package in a checkout, inside it in an installed wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_migrations", here.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise FileNotFoundError(f"no migrations in or beside {here}: install headway again")


def migrate(url: str, revision: str = "head", *, pgbouncer: bool = False) -> tuple[str | None, str]:
    """Upgrade to `revision`; returns the revisions before and after. Safe to call twice and from two processes."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    engine = Database(url, pgbouncer=pgbouncer).engine.execution_options(isolation_level="READ COMMITTED")
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            before = _revision(connection)
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            after = _revision(connection)
    except sa.exc.OperationalError as error:
        raise unavailable(error.orig or error) from error
    finally:
        engine.dispose()
    return before, after or ""


def current_revision(conn: Conn) -> str | None:
    """The revision of the database; None if it was never migrated."""
    (there,) = conn.execute("SELECT to_regclass('alembic_version')::text").fetchone() or (None,)
    row = conn.execute("SELECT version_num FROM alembic_version").fetchone() if there else None
    return row[0] if row else None


def _revision(connection: sa.Connection) -> str | None:
    if connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None:
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found
