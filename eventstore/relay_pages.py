"""What a relay reads from PostgreSQL: pages of events that follow a position, and the head, in one round trip."""

from __future__ import annotations

from typing import Final

import msgspec

from eventstore import statements
from eventstore.batch import Head
from eventstore.events import RecordedEvent
from eventstore.publishers import Entry, Publisher
from eventstore.store import EventStore

PAGE: Final = 1_000  # events
PAGES: Final = 4  # pages that are asked for at once
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


def read_pages(store: EventStore, publisher: Publisher, after: int, pages: int = PAGES, page: int = PAGE) -> Pages:
    """Read what follows `after`, at most `pages` × `page` events, and encode it. Blocking."""
    log_id = store.log_id()
    with store.database.session() as conn:
        with conn.pipeline():
            asked = [
                conn.execute(statements.READ_LOG, (log_id, lower, lower + page, page), binary=True, prepare=True)
                for lower in range(after, after + pages * page, page)
            ]
            events = statements.recorded(asked[0])
            for further in asked[1:]:
                found = statements.recorded(further)
                # A page is of its own moment: what was appended in between leaves a hole before it, not in the log.
                if found and events and found[0].position == events[-1].position + 1:
                    events += found
        head = statements.read_head(conn, log_id)
    if not events and head.position > after:
        # Appended just now, or all rows of this range are missing.
        events = store.read_log(after, upto=head.position, limit=page)
    more = bool(events) and head.position > events[-1].position
    return Pages(head, publisher.encode(events, head.epoch), more, _hole(events, after), _next_page(events, page))


def _hole(events: list[RecordedEvent], after: int) -> int | None:
    if not events or events[-1].position == after + len(events):
        return None
    return next(n for n, event in enumerate(events, after + 1) if event.position != n)


def _next_page(events: list[RecordedEvent], page: int) -> int:
    if not events:
        return page
    average = sum([len(event.data_json) for event in events]) // len(events) + 200
    return min(max(PAGE_BYTES // average, 16), PAGE)
