"""What an error of PostgreSQL means to who asked: the one place that decides it, by SQLSTATE."""

from __future__ import annotations

from typing import Final

import psycopg

from eventstore.errors import StorageFull, StoreUnavailable

_WHAT: Final = {
    "25006": "PostgreSQL is read-only here, connect to the primary",
    "53200": "PostgreSQL has no memory left",
    "53300": "PostgreSQL takes no more connections (max_connections)",
    "57014": "PostgreSQL gave the statement up (statement_timeout, or cancelled by hand)",
    "57P01": "PostgreSQL ended the session",
    "57P03": "PostgreSQL is starting or stopping",
}
_FULL: Final = "53100"
_OF_THE_SERVER: Final = ("53", "57", "58")
"""Classes that speak of the server and not of the statement: no resources, intervention, the system around it."""


def unavailable(error: BaseException) -> StoreUnavailable:
    """Why the database did not do it; nothing was written. The text of libpq names host and reason, no password."""
    text = str(error).strip() or type(error).__name__
    state = getattr(error, "sqlstate", None)
    if state is None:
        if "unsupported startup parameter" in text:
            text += (
                "\n  if there is a PgBouncer in between, set HEADWAY_PGBOUNCER=1 (in code: EventStore(pgbouncer=True))"
            )
        return StoreUnavailable(f"PostgreSQL can't be reached: {text}")
    text = text.partition("\n")[0]
    if state == _FULL:
        return StorageFull(f"PostgreSQL has no space left on its disk ({text}): free some, then try again")
    return StoreUnavailable(f"{_WHAT.get(state, 'PostgreSQL refused')}: {text}")


def tells_of_the_server(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed when the server is well again."""
    return (error.sqlstate or "")[:2] in _OF_THE_SERVER
