"""Prepared statements of our own beside psycopg's: what one forgets must not take the other's."""

from __future__ import annotations

import psycopg
import pytest

from eventstore import hot, statements
from eventstore.connections import Database
from eventstore.errors import StoreBusy
from eventstore.events import NewEvent
from eventstore.hot import HotStatement, int8, read_int
from eventstore.store import EventStore
from projections.progress import Progress
from tests.support.sessions import holding_log

NOTE = NewEvent(type="job.noted", data={"level": "info", "message": "好"})


def test_appends_go_on_after_a_rollback_on_the_committers_connection(database_url: str) -> None:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
        store.append("job", [NOTE])
        for _ in range(8):
            store.committer()._writer.calm = 0  # in turn, often enough for psycopg to want to prepare its statements
            store.append("job", [NOTE])
        store.committer()._writer.calm = 0
        with holding_log(database_url, "default"), pytest.raises(StoreBusy):
            store.append("job", [NOTE])
        assert [store.append("job", [NOTE])[0].position for _ in range(10)] == list(range(10, 20))


def test_a_statement_that_somebody_deallocated_is_prepared_again(database_url: str) -> None:
    statement = HotStatement("SELECT %(a)s::int8 + %(b)s::int8 * %(a)s::int8")
    conn = Database(database_url).connect(hot=True)
    for _ in range(2):
        assert read_int(statement.execute(conn, {"a": int8(2), "b": int8(3)}), 0) == 8
        conn.execute("DEALLOCATE ALL")
    conn.close()


def test_a_transaction_that_lost_its_statement_is_told(database_url: str) -> None:
    statement = HotStatement("SELECT %(a)s::int8")
    conn = Database(database_url).connect(hot=True)
    statement.execute(conn, {"a": int8(1)})
    with pytest.raises(psycopg.errors.InvalidSqlStatementName), conn.transaction():
        conn.execute("DEALLOCATE ALL")
        statement.execute(conn, {"a": int8(1)})
    assert read_int(statement.execute(conn, {"a": int8(7)}), 0) == 7
    conn.close()


def test_behind_a_pooler_nothing_is_prepared(database_url: str) -> None:
    with EventStore(database_url, projection=Progress(), pgbouncer=True) as store:
        store.create_log()
        store.append("job", [NOTE])
        conn = Database(database_url, pgbouncer=True).connect()
        assert conn in hot._pooled
        store.append("job", [NOTE])
        HotStatement("SELECT %(a)s::int8").execute(conn, {"a": int8(1)})
        prepared = conn.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
        assert prepared == (0,)
        assert statements.find_log(conn, "default").position == 2
        conn.close()
