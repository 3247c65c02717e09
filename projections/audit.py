"""The audit: every question about what was reported, answered from the log itself, page by page or as a stream.

    wanted = audit_filter(applied=False, since=monday)
    page = find(store, wanted, limit=50)
    page.events                                      # in the order of the log
    find(store, wanted, after=page.cursor)           # the next page; `page.complete` says that there is none

    for events in stream(store, audit_filter(text="推送")): ...      # all of it, in constant memory

A job, a recorded time and `applied=False` are served by an index. Everything else is looked for in a bounded piece of
the log per request: a page may hold fewer events than asked for, or none, and `scanned_to` says how far it is complete.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from eventstore.batch import Head
from eventstore.cursor import Cursor, Where, parse_cursor
from eventstore.errors import InvalidFilter
from eventstore.events import RecordedEvent
from eventstore.history import cursor_at
from eventstore.store import EventStore
from projections.audit_filter import AuditFilter, Clock, audit_filter
from projections.audit_search import Search

MAX_PAGE: Final = 1_000  # events
SCAN: Final = 500_000
"""Events that a request looks at, at most: of the log, of the job, or of the rejected ones."""
BUDGET: Final = 0.08  # seconds, after which a request looks at no further piece

EVERYTHING: Final = AuditFilter()
Place = str | int | Cursor | Where | None
Progress = Callable[[int, int], None]


class Order(enum.Enum):
    """Which end a search begins at, and the order of its events."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """`events` are all that pass from where the search began up to the position `scanned_to`, inclusive.

    `cursor` is that place: the next page begins `after` it, with the newest first `before` it. `complete` says that
    there was nothing more in this direction when the search began.
    """

    events: list[RecordedEvent]
    epoch: int
    scanned_to: int
    cursor: str
    complete: bool


def find(
    store: EventStore,
    wanted: AuditFilter = EVERYTHING,
    *,
    after: Place = None,
    before: Place = None,
    order: Order = Order.OLDEST_FIRST,
    limit: int = 100,
    scan: int = SCAN,
    budget: float = BUDGET,
) -> Page:
    """One page: at most `limit` events (1 to 1,000) after one place and before another, both exclusive.

    Looks at no more than `scan` events and begins nothing new after `budget` seconds, so it answers in bounded time
    however long the log is. Raises `InvalidFilter`, `InvalidCursor`, and `LogDiverged` for a place that is not on this
    log's history.
    """
    for field, given, most in (("limit", limit, MAX_PAGE), ("scan", scan, 2**53)):
        if type(given) is not int or not 1 <= given <= most:
            raise InvalidFilter(field, given, f"an integer from 1 to {most:,}")
    deadline = time.monotonic() + budget
    head, low, high = _range(store, after, before)
    with store.database.session() as conn:
        search = Search(conn, head.log_id, wanted, low, high, backwards=order is Order.NEWEST_FIRST)
        events = search.page(conn, limit, scan, deadline)
        scanned_to = search.scanned_to(conn)
        return Page(
            events=events,
            epoch=head.epoch,
            scanned_to=scanned_to,
            cursor=cursor_at(conn, head, scanned_to),
            complete=search.complete,
        )


def stream(
    store: EventStore,
    wanted: AuditFilter = EVERYTHING,
    *,
    after: Place = None,
    before: Place = None,
    order: Order = Order.OLDEST_FIRST,
    progress: Progress | None = None,
    beat: bool = False,
) -> Iterator[list[RecordedEvent]]:
    """Every event that passes, up to the head as it stands now, in lists of 1 to 1,000. Errors as of `find`.

    No connection and no transaction is held while the caller works. `progress` gets (looked at, to look at), in events.
    `beat`: empty lists too, after about `BUDGET` seconds without a hit, so that the caller may stop.
    """
    head, low, high = _range(store, after, before)
    with store.database.session() as conn:
        search = Search(conn, head.log_id, wanted, low, high, backwards=order is Order.NEWEST_FIRST)
    while not search.complete:
        with store.database.session() as conn:
            events = search.page(conn, MAX_PAGE, SCAN, time.monotonic() + BUDGET)
        if progress is not None:
            progress(search.done, search.total)
        if events or beat:
            yield events


def _range(store: EventStore, after: Place, before: Place) -> tuple[Head, int, int]:
    """The head, and the positions between two places: from the first (exclusive) to the second (inclusive)."""
    head, low = store.resolve(after)
    if parse_cursor(before) in (Where.START, Where.NOW):
        return head, low, head.position
    return head, low, max(low, store.resolve(before)[1] - 1)


__all__ = ["EVERYTHING", "AuditFilter", "Clock", "Order", "Page", "audit_filter", "find", "stream"]
