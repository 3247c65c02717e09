"""What becomes of an error of PostgreSQL: its cause is told, what can be tried again is told apart from what can't."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from eventstore.append_call import AppendCall
from eventstore.database_errors import unavailable
from eventstore.errors import AppendRefused, StorageFull, StoreUnavailable
from eventstore.events import NewEvent
from eventstore.migrate import migrate
from eventstore.store import EventStore
from tests.conftest import with_database
from tests.support.sessions import Doing, Watcher, holding_log


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


@pytest.fixture
def latin(servers: tuple[str, str]) -> Iterator[str]:
    """A migrated database whose encoding has no Chinese."""
    name = f"headway_latin_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(servers[0], autocommit=True) as conn:
        conn.execute(
            f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"  # type: ignore[arg-type]
        )
        migrate(with_database(servers[0], name))
        yield with_database(servers[0], name)
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[arg-type]


def full_disk(conn: psycopg.Connection[Any]) -> None:
    """Let this server say at each append what it says when its disk is full."""
    conn.execute(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
        " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    conn.execute("CREATE TRIGGER no_room BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION no_room()")


def test_p6_a_full_disk_is_told_as_such_and_appends_go_on_when_there_is_room(database_url):
    with EventStore(database_url, pool_size=1) as store, psycopg.connect(database_url, autocommit=True) as conn:
        store.create_log()
        full_disk(conn)
        with pytest.raises(StorageFull, match="no space left") as caught:
            store.append("a", [noted()])
        assert (caught.value.code, caught.value.retryable) == ("storage_full", True)
        assert "can't be reached" not in str(caught.value)
        assert store.head().position == 0
        conn.execute("DROP TRIGGER no_room ON events")
        assert store.append("a", [noted()])[0].position == 1


def test_a_statement_that_was_given_up_is_told_as_such(database_url):
    with EventStore(database_url, pool_size=1) as store:
        store.create_log()
        with pytest.raises(StoreUnavailable, match="gave the statement up"), store.database.session() as conn:
            conn.execute("SET statement_timeout = '1ms'")
            conn.execute("SELECT pg_sleep(10)")


def test_what_speaks_of_the_statement_goes_up_as_it_is(database_url):
    with EventStore(database_url, pool_size=1) as store:
        with pytest.raises(pg.DivisionByZero), store.database.session() as conn:
            conn.execute("SELECT 1/0")
        with pytest.raises(pg.LockNotAvailable), store.database.session() as conn:
            conn.execute("DO $$ BEGIN RAISE 'busy' USING ERRCODE = 'lock_not_available'; END $$")


def test_a_text_that_the_database_cannot_hold_fails_for_itself_only_and_is_not_tried_again(latin):
    watcher = Watcher(latin)
    with EventStore(latin, pool_size=1) as store:
        store.create_log()
        store.append("before", [noted()])
        with holding_log(latin, store.log):
            first = Doing(lambda: store.append("first", [noted()]))
            watcher.until_waiting()
            calls: list[AppendCall] = [
                store.submit(store.prepare(name, [noted(text)]))
                for name, text in (("left", "x"), ("bad", "正在"), ("right", "y"))
            ]
        assert first.result()[0].position == 2
        assert calls[0].wait()[0].position == 3
        with pytest.raises(AppendRefused, match="LATIN1") as caught:
            calls[1].wait()
        assert not caught.value.retryable
        assert calls[2].wait()[0].position == 4
    watcher.close()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (psycopg.OperationalError("connection refused"), "can't be reached: connection refused"),
        (psycopg.OperationalError("FATAL:  unsupported startup parameter: options"), "set HEADWAY_PGBOUNCER=1"),
        (pg.TooManyConnections("sorry, too many clients already"), "takes no more connections"),
        (pg.CannotConnectNow("the database system is starting up"), "starting or stopping"),
        (pg.ReadOnlySqlTransaction("cannot execute INSERT"), "connect to the primary"),
        (pg.InsufficientPrivilege("permission denied for table events"), "refused: permission denied"),
    ],
)
def test_the_cause_is_named(error, text):
    assert text in str(unavailable(error))
