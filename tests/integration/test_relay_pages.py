"""Pages that a relay reads follow each other without a hole, whatever is appended while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest

from eventstore.events import NewEvent
from eventstore.publishers.memory import InMemory
from eventstore.relay_pages import PAGE, PAGES, Pages, _Asked, read_on, read_page
from eventstore.statements import Conn
from eventstore.store import EventStore
from tests.support.relays import append


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url) as made:
        made.create_log("default")
        yield made


class Interrupted:
    """A connection on which something happens after its n-th statement."""

    def __init__(self, conn: Conn, number: int, happens: Any) -> None:
        self._conn, self._left, self._happens = conn, number, happens

    def execute(self, *given: Any, **options: Any) -> psycopg.Cursor[Any]:
        result = self._conn.execute(*given, **options)
        self._left -= 1
        if self._left == 0:
            self._happens()
        return result


def positions(pages: Pages) -> list[int]:
    return [entry.position for entry in pages.entries]


def test_what_is_appended_between_two_pages_leaves_no_hole(store: EventStore) -> None:
    """Page 2 of 4 was short, then 30 events came, and page 3 was full: it must wait for its turn."""
    append(store, 15)
    with store.database.session() as conn:
        interrupted = cast(Conn, Interrupted(conn, 2, lambda: append(store, 30)))
        pages = _Asked(interrupted, store.log_id(), 0, PAGES, 10).encoded_by(InMemory())
    assert positions(pages) == list(range(1, 16))
    assert (pages.more, pages.hole, pages.head.position) == (True, None, 45)


def test_what_is_appended_before_the_head_is_read_is_not_missed(store: EventStore) -> None:
    with store.database.session() as conn:
        interrupted = cast(Conn, Interrupted(conn, PAGES, lambda: append(store, 3)))
        pages = _Asked(interrupted, store.log_id(), 0, PAGES, 10).encoded_by(InMemory())
    assert (positions(pages), pages.more, pages.hole) == ([1, 2, 3], False, None)


def test_reading_on_gives_everything_once_in_order_and_ends_at_the_head(store: EventStore) -> None:
    append(store, 1_000)
    groups = list(read_on(store, InMemory(), 7, 16))
    assert [n for group in groups for n in positions(group)] == list(range(8, 1_001))
    assert [group.more for group in groups] == [True] * (len(groups) - 1) + [False]


def test_reading_on_again_gives_what_came_meanwhile(store: EventStore) -> None:
    append(store, 100)
    seen: list[int] = []
    for _ in range(5):
        for group in read_on(store, InMemory(), len(seen), 16):
            seen += positions(group)
            append(store, 7)
    for group in read_on(store, InMemory(), len(seen)):
        seen += positions(group)
    assert seen == list(range(1, store.head().position + 1))


def test_an_empty_page_says_where_the_log_stands(store: EventStore) -> None:
    append(store, 5)
    pages = read_page(store, InMemory(), 5)
    assert (pages.entries, pages.more, pages.hole, pages.head.position) == ([], False, None, 5)
    assert len(list(read_on(store, InMemory(), 5))) == 1


def test_pages_of_large_events_get_smaller_and_grow_again(store: EventStore) -> None:
    large = NewEvent(type="job.noted", data={"level": "info", "message": "m", "detail": "x" * 40_000})
    store.append("job:1", [large] * 20)
    append(store, 20)
    first = read_page(store, InMemory(), 0, 20)
    assert 16 <= first.page < 200
    assert read_page(store, InMemory(), 20, first.page).page == PAGE


@pytest.mark.parametrize(("missing", "hole"), [([1], 1), ([4, 9], 4), ([10, 11], 10), ([40], None)])
def test_a_missing_row_is_named_and_read_over(store: EventStore, missing: list[int], hole: int | None) -> None:
    append(store, 40)
    with psycopg.connect(store.database.url, autocommit=True) as conn:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
        conn.execute("DELETE FROM events WHERE position = ANY(%s)", (missing,))
    groups: list[Pages] = []
    after = 0
    while not groups or (groups[-1].more and groups[-1].entries):
        groups += read_on(store, InMemory(), after, 10)
        after = groups[-1].entries[-1].position if groups[-1].entries else after
    seen = [n for group in groups for n in positions(group)]
    assert seen == [n for n in range(1, 41) if n not in missing]
    assert next((group.hole for group in groups if group.hole), None) == hole
