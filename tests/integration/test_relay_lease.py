"""The lease: one owner at a time by the database's clock, and a checkpoint that only the owner writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventstore import lease
from eventstore.connections import Database
from eventstore.lease import Published
from eventstore.statements import Conn
from eventstore.store import EventStore
from tests.support.relays import until

NAME = "relay:test"


@pytest.fixture
def conn(database_url: str) -> Iterator[Conn]:
    with EventStore(database_url) as store:
        store.create_log("default")
    with Database(database_url).connect() as made:
        yield made


def acquire(conn: Conn, owner: str, seconds: float = 60.0) -> Published | None:
    return lease.acquire(conn, 1, NAME, owner, seconds)


def test_the_first_who_asks_gets_it_with_an_empty_checkpoint(conn: Conn) -> None:
    assert acquire(conn, "a") == Published(0, "00000000", 1)


def test_nobody_else_gets_it_while_it_holds(conn: Conn) -> None:
    acquire(conn, "a")
    assert acquire(conn, "b") is None
    assert acquire(conn, "a") is not None


def test_it_is_free_after_its_deadline_and_after_its_release(conn: Conn) -> None:
    acquire(conn, "a", 0.01)
    until(lambda: acquire(conn, "b"))
    assert acquire(conn, "a") is None
    lease.release(conn, 1, NAME, "b")
    assert acquire(conn, "a") is not None


def test_only_the_owner_renews_and_writes_the_checkpoint(conn: Conn) -> None:
    acquire(conn, "a")
    assert lease.renew(conn, 1, NAME, "a", Published(7, "deadbeef", 2), 0.01)
    assert not lease.renew(conn, 1, NAME, "b", Published(9, "00000000", 1))
    assert until(lambda: acquire(conn, "b")) == Published(7, "deadbeef", 2)
    assert not lease.renew(conn, 1, NAME, "a", Published(8, "00000000", 1))


def test_who_lost_it_can_not_give_it_away(conn: Conn) -> None:
    acquire(conn, "a", 0.01)
    until(lambda: acquire(conn, "b"))
    lease.release(conn, 1, NAME, "a")
    assert acquire(conn, "c") is None


def test_owners_are_different() -> None:
    assert lease.new_owner() != lease.new_owner()
