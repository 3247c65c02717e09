"""Which events, and how they are read: in the order of the log, or job by job."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, Final

import msgspec

from eventstore import pgarray, statements
from eventstore.events import RecordedEvent
from eventstore.filters import make_filter
from eventstore.store import FAR, EventStore

PAGE: Final = 1_000  # events
Page = tuple[int, list[RecordedEvent]]

_JOBS: Final = (
    "SELECT job_id, version, first_position FROM jobs WHERE log_id = %s AND first_position > %s AND position > %s"
    " AND first_position <= %s AND (%s::text[] IS NULL OR job_id = ANY(%s::text[])) AND starts_with(job_id, %s)"
    " ORDER BY first_position LIMIT 1000"
)
"""Served by jobs_first_position."""
_OF_JOBS: Final = (
    f"SELECT {statements.COLUMNS} FROM events WHERE log_id = %s AND job_id = ANY(%s) AND position > %s"  # noqa: S608
    " AND position <= %s ORDER BY job_id, version"
)
"""Served by events_log_id_job_id_version_key."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Events after one position (exclusive) up to another (inclusive), of these jobs or of those that begin so.

    `jobs` None: any. Raises `InvalidFilter`, on use, for ids that no job can have.
    """

    jobs: tuple[str, ...] | None = None
    prefix: str = ""
    after: int = 0
    upto: int = FAR

    @property
    def size(self) -> int:
        """How many positions it spans."""
        return max(self.upto - self.after, 0)

    def at(self, head: int) -> Selection:
        """The same, ending at the head."""
        return msgspec.structs.replace(self, upto=min(self.upto, head))


def in_order(store: EventStore, chosen: Selection) -> Iterator[Page]:
    """Pages of the selected events in the order of the log, each with how many positions are behind it."""
    names = chosen.jobs if chosen.jobs is not None else (f"{chosen.prefix}*",) if chosen.prefix else None
    wanted = make_filter(jobs=names)
    if wanted.exact is not None:
        jobs = [_of_job(store, job, chosen) for job in wanted.exact if job.startswith(chosen.prefix)]
        events = heapq.merge(*jobs, key=lambda event: event.position)
        while page := list(islice(events, PAGE)):
            yield page[-1].position - chosen.after, page
        return
    for page in store.replay(chosen.after, upto=chosen.upto):
        if page:
            yield (
                page[-1].position - chosen.after,
                [e for e in wanted.compiled()(page) if e.job_id.startswith(chosen.prefix)],
            )


def _of_job(store: EventStore, job: str, chosen: Selection) -> Iterator[RecordedEvent]:
    page = store.read_job_after_position(job, chosen.after, upto=chosen.upto, limit=PAGE)
    while page:
        yield from page
        page = store.read_job(job, page[-1].version, upto=chosen.upto, limit=PAGE)


def job_by_job(store: EventStore, chosen: Selection) -> Iterator[Page]:
    """Pages of the selected events, all of one job before those of the next; the job that began first comes first."""
    make_filter(jobs=chosen.jobs)
    after = 0
    while jobs := _next_jobs(store, chosen, after):
        after = jobs[-1][2]
        together: list[str] = []
        size = 0
        for job_id, version, first in jobs:
            if size + version > PAGE:
                yield from _pages(store, together, chosen, first)
                together, size = [], 0
            if version > PAGE:
                yield from _pages_of_one(store, job_id, chosen, first)
            else:
                together.append(job_id)
                size += version
        yield from _pages(store, together, chosen, after)


def _next_jobs(store: EventStore, chosen: Selection, after: int) -> list[tuple[str, int, int]]:
    names = None if chosen.jobs is None else pgarray.text(chosen.jobs)
    log_id = store.log_id()
    with store.database.session() as conn:
        return conn.execute(
            _JOBS, (log_id, after, chosen.after, chosen.upto, names, names, chosen.prefix), binary=True
        ).fetchall()


def _pages(store: EventStore, jobs: Sequence[str], chosen: Selection, done: int) -> Iterator[Page]:
    if not jobs:
        return
    wanted: tuple[Any, ...] = (store.log_id(), pgarray.text(jobs), chosen.after, chosen.upto)
    with store.database.session() as conn:
        events = statements.recorded(conn.execute(_OF_JOBS, wanted, binary=True))
    of = {job_id: list(found) for job_id, found in groupby(events, key=lambda event: event.job_id)}
    yield max(done - chosen.after, 0), [event for job_id in jobs for event in of.get(job_id, ())]


def _pages_of_one(store: EventStore, job: str, chosen: Selection, done: int) -> Iterator[Page]:
    events = _of_job(store, job, chosen)
    while page := list(islice(events, PAGE)):
        yield max(done - chosen.after, 0), page
