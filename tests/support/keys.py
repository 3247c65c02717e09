"""Keys for tests of the HTTP API, and databases with several tenants."""

from __future__ import annotations

from collections.abc import Iterable

from api import key_table
from api.auth import Scope
from api.wiring import ensure_log
from eventstore.connections import Database
from eventstore.store import EventStore
from projections.progress import Progress

ALL = tuple(Scope)


def make_logs(database_url: str, *logs: str) -> None:
    """Logs as `headway logs create` makes them."""
    with EventStore(database_url, projection=Progress(), pool_size=1) as store:
        for log in logs:
            ensure_log(store, log)


def make_key(
    database_url: str,
    log: str = "default",
    *,
    scopes: Iterable[Scope | str] = ALL,
    prefix: str = "",
    lasts: float | None = None,
) -> str:
    """A new key for a log that is there."""
    database = Database(database_url, pool_size=1)
    try:
        with database.session() as conn:
            (log_id,) = conn.execute("SELECT log_id FROM logs WHERE name = %s", (log,)).fetchone() or (None,)
            assert log_id is not None, f"there is no log {log}"
            wanted = [Scope(scope) for scope in scopes]
            return key_table.create(conn, log_id, scopes=wanted, prefix=prefix, lasts=lasts)
    finally:
        database.dispose()


def revoke_key(database_url: str, key: str) -> None:
    """End a key, by its text or its id."""
    database = Database(database_url, pool_size=1)
    try:
        with database.session() as conn:
            key_table.revoke(conn, id_of(key))
    finally:
        database.dispose()


def id_of(key: str) -> str:
    return key.split("_")[1] if key.startswith("hw_") else key


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def wrong_secret(key: str) -> str:
    """The same id with another secret."""
    return key[:-1] + ("a" if key[-1] != "a" else "b")
