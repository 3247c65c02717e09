"""Lists of jobs, page by page: `jobs_page(store, status="running", text="deploy", limit=50)`.

A page goes along one index, jobs_first_position, from either end, and looks at a bounded number of jobs: one that finds
less than asked for says where the next one begins. By the time of their last report jobs can't be ordered: an index on
what changes with every report would cost each append more than the list is worth.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import msgspec

from eventstore.errors import InvalidFilter
from eventstore.store import EventStore
from projections.audit_text import character_pairs, check_text
from projections.snapshots import JOB_COLUMNS, MAX_LIST, JobSummary, job_fields

SCAN: Final = 20_000
"""Jobs that a page looks at, at most."""
FAR: Final = 2**62


class Order(enum.Enum):
    """By the position of a job's first event."""

    NEWEST = "newest"
    OLDEST = "oldest"


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """`place` is where the next page begins; None if there is none."""

    jobs: list[JobSummary]
    place: int | None


_PAGE: Final = """
SELECT {columns}
  FROM (SELECT * FROM jobs
         WHERE log_id = %(log_id)s AND first_position > %(low)s AND first_position < %(high)s
         ORDER BY first_position {order} LIMIT %(scan)s) j
 WHERE (%(status)s::text IS NULL OR status = %(status)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)
   AND (%(prefix)s::text IS NULL OR starts_with(job_id, %(prefix)s))
   AND (%(text)s::text IS NULL OR title ~ %(text)s OR job_id ~ %(text)s OR message ~ %(text)s)
 ORDER BY first_position {order} LIMIT %(limit)s
"""
_END: Final = (
    "SELECT first_position FROM jobs WHERE log_id = %(log_id)s AND first_position > %(low)s"
    " AND first_position < %(high)s ORDER BY first_position {order} OFFSET %(scan)s - 1 LIMIT 1"
)
"""The last job that a page looked at. Both are served by jobs_first_position."""
PAGE: Final = {
    Order.NEWEST: _PAGE.format(columns=JOB_COLUMNS, order="DESC"),
    Order.OLDEST: _PAGE.format(columns=JOB_COLUMNS, order="ASC"),
}
END: Final = {Order.NEWEST: _END.format(order="DESC"), Order.OLDEST: _END.format(order="ASC")}


def jobs_page(
    store: EventStore,
    *,
    status: str | None = None,
    kind: str | None = None,
    prefix: str | None = None,
    text: str | None = None,
    order: Order = Order.NEWEST,
    place: int | None = None,
    limit: int = 50,
    scan: int = SCAN,
) -> JobPage:
    """At most `limit` jobs (1 to 1,000) beyond a place. `text` stands in the title, the id or the message, whatever
    the case of its letters. Raises `InvalidFilter`.
    """
    if not 1 <= limit <= MAX_LIST:
        raise InvalidFilter("limit", limit, f"an integer from 1 to {MAX_LIST:,}")
    pattern = None if text is None else character_pairs(check_text(text))
    # What begins while we look comes after the head: the two statements see the same jobs.
    end = store.head().position + 1
    low, high = 0, end
    if place is not None:
        low, high = (0, min(place, end)) if order is Order.NEWEST else (place, end)
    given: dict[str, Any] = {
        "log_id": store.log_id(), "low": low, "high": high, "status": status, "kind": kind, "prefix": prefix,
        "text": pattern, "limit": limit + 1, "scan": scan,
    }  # fmt: skip
    with store.database.session() as conn:
        rows = conn.execute(PAGE[order], given, binary=True).fetchall()
        jobs = [JobSummary(**job_fields(row)) for row in rows[:limit]]
        if len(rows) > limit:
            return JobPage(jobs=jobs, place=jobs[-1].first_position)
        last = conn.execute(END[order], given, binary=True).fetchone()
        return JobPage(jobs=jobs, place=None if last is None else int(last[0]))
