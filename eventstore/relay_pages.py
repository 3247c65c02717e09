"""What a relay reads from PostgreSQL: pages of events that follow a position, and the head, asked for ahead."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

import msgspec
import psycopg

from eventstore import statements
from eventstore.batch import Head
from eventstore.events import RecordedEvent
from eventstore.publishers import Entry, Publisher
from eventstore.statements import Conn
from eventstore.store import EventStore

PAGE: Final = 1_000  # events
PAGES: Final = 4  # pages that are published together
IN_FLIGHT: Final = 2  # groups of pages that are asked for at once
PAGE_BYTES: Final = 4 * 1024 * 1024  # about


class Pages(msgspec.Struct, frozen=True):
    """Entries ready to be published. `head` was read after the events: its epoch is theirs or a later one."""

    head: Head
    entries: list[Entry]
    more: bool
    hole: int | None
    """The first position that the log does not have, if rows are missing in it."""
    page: int
    """The size for the next page, so that one stays near 4 MiB."""


def read_page(store: EventStore, publisher: Publisher, after: int, page: int = PAGE) -> Pages:
    """What follows `after`, at most `page` events, encoded. Blocking."""
    log_id = store.log_id()
    with store.database.session() as conn, conn.pipeline():
        return _Asked(conn, log_id, after, 1, page).encoded_by(publisher)


def read_on(store: EventStore, publisher: Publisher, after: int, page: int = PAGE) -> Generator[Pages]:
    """Everything that follows `after` up to the head, in groups of pages. Blocking.

    The next groups are asked for before one is given out, so the database works while the caller does.
    """
    log_id = store.log_id()
    with store.database.session() as conn, conn.pipeline():
        asked: list[_Asked] = []
        while True:
            while len(asked) < IN_FLIGHT:
                group = _Asked(conn, log_id, after, PAGES, page)
                asked.append(group)
                after = group.upto
            group = asked.pop(0)
            pages = group.encoded_by(publisher)
            yield pages
            if not pages.more:
                return
            page = pages.page
            if pages.entries[-1].position != group.upto:  # short, and yet not the end: go on where it ended
                asked, after = [], pages.entries[-1].position


class _Asked:
    """A group of pages and the head after them, on the way."""

    def __init__(self, conn: Conn, log_id: int, after: int, pages: int, page: int) -> None:
        self._conn, self._log_id, self._after, self._page = conn, log_id, after, page
        self.upto = after + pages * page
        self._pages = [self._read(lower, lower + page) for lower in range(after, self.upto, page)]
        self._head = conn.execute(statements.HEAD_BY_ID, (log_id,), binary=True, prepare=True)

    def _read(self, lower: int, upper: int) -> psycopg.Cursor[Any]:
        given = (self._log_id, lower, upper, self._page)
        return self._conn.execute(statements.READ_LOG, given, binary=True, prepare=True)

    def encoded_by(self, publisher: Publisher) -> Pages:
        events = statements.recorded(self._pages[0])
        for page in self._pages[1:]:
            found = statements.recorded(page)
            # A page is of its own moment: what was appended in between leaves a hole before it, not in the log.
            if found and events and found[0].position == events[-1].position + 1:
                events += found
        head = Head(*self._head.fetchone() or ())
        if not events and head.position > self._after:
            # Appended just now, or all rows of this range are missing.
            events = statements.recorded(self._read(self._after, head.position))
        more = bool(events) and head.position > events[-1].position
        hole = _hole(events, self._after)
        return Pages(head, publisher.encode(events, head.epoch), more, hole, _next_page(events, self._page))


def _hole(events: list[RecordedEvent], after: int) -> int | None:
    if not events or events[-1].position == after + len(events):
        return None
    return next(n for n, event in enumerate(events, after + 1) if event.position != n)


def _next_page(events: list[RecordedEvent], page: int) -> int:
    if not events:
        return page
    average = sum([len(event.data_json) for event in events]) // len(events) + 200
    return min(max(PAGE_BYTES // average, 16), PAGE)
