"""Scripting races: sessions that hold a lock, and waiting until PostgreSQL says that somebody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import psycopg

T = TypeVar("T")
PATIENCE = 15.0  # seconds


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Ask until it is true; fails after 15 s."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s until {what}"
        time.sleep(0.002)
    return found


@contextmanager
def holding_log(url: str, log: str) -> Iterator[psycopg.Connection[Any]]:
    """A session that holds the log's row, idle in its transaction, until the block ends."""
    with psycopg.connect(url, application_name="holder") as holder:
        holder.execute("SELECT 1 FROM logs WHERE name = %s FOR UPDATE", (log,))
        yield holder
        if not holder.closed:
            holder.rollback()


class Watcher:
    """Looks at the other sessions of a database."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url, autocommit=True, application_name="watcher")

    def waiting(self, number: int = 1) -> list[int]:
        """The sessions of stores that wait for a lock, when there are so many."""
        rows = self._conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'headway%'"
            " AND wait_event_type = 'Lock' AND state = 'active'"
        ).fetchall()
        return [pid for (pid,) in rows] if len(rows) >= number else []

    def until_waiting(self, number: int = 1) -> list[int]:
        found: list[int] = wait_until(lambda: self.waiting(number), f"{number} appends wait for the log's row")
        return found

    def kill(self, pid: int) -> None:
        """End a session and wait until it is gone."""
        self._conn.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))

    def kill_writers(self) -> int:
        """End the sessions of all committers and pools of this database."""
        row = self._conn.execute(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'headway%'"
        ).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        self._conn.close()


class Doing(Generic[T]):
    """A call in a thread, with its result or its error."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait for the call. Raises what it raised."""
        self._thread.join(PATIENCE)
        assert self.done, "the call never came back"
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]
