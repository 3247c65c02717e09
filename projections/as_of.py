"""Time travel: what a job, or all jobs, looked like at a position of the log or at a time.

The log is folded again up to there, and each verdict is compared with the stored one. A time means the log's own clock
(`recorded_at`): what the tables said then. For imported histories `occurred` asks what had happened by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import takewhile
from typing import Any, Final

import msgspec

from eventstore.chain import GENESIS
from eventstore.cursor import format_cursor
from eventstore.errors import NoSuchLog
from eventstore.events import RecordedEvent, to_datetime, to_us
from eventstore.store import EventStore
from eventstore.wire import cursor_of
from projections.past import Rules, fold_past, read_rules
from projections.snapshots import JobSnapshot
from projections.state import JobState
from projections.views import view_of

PAGE: Final = 1_000

At = int | datetime
"""A position of the log, or a time with a zone."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two moments. `step` is None for the job itself."""

    step: str | None
    field: str
    before: Any
    after: Any


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The percentage from this moment on."""

    position: int
    recorded_at: datetime
    occurred_at: datetime | None
    percent: float


POSITION_AT: Final = """
WITH RECURSIVE halving (low, high) AS (
    SELECT 0::bigint, l.head FROM logs l WHERE l.log_id = %(log_id)s
    UNION ALL
    SELECT CASE WHEN e.recorded_at <= %(moment)s THEN e.position ELSE h.low END,
           CASE WHEN e.recorded_at <= %(moment)s THEN h.high ELSE e.position - 1 END
      FROM halving h
     CROSS JOIN LATERAL (SELECT e.position, e.recorded_at FROM events e
                          WHERE e.log_id = %(log_id)s AND e.position = (h.low + h.high + 1) / 2 OFFSET 0) e
     WHERE h.low < h.high
)
SELECT low FROM halving WHERE low = high
"""
"""Served by events_pkey: 20 look-ups in a log of a million events."""


def position_at(store: EventStore, at: At) -> int:
    """The last position recorded at or before a time. Dense positions let it be found by halving.

    A clock that was set back makes this one of the places where the time was crossed; order never depends on clocks.
    Raises `LogDiverged` for a position ahead of the log, ValueError for a time without a zone.
    """
    if isinstance(at, int):
        return store.resolve(at)[1]
    moment = to_datetime(to_us(at))
    log_id = store.log_id()
    with store.database.session() as conn:
        row = conn.execute(POSITION_AT, {"log_id": log_id, "moment": moment}, binary=True).fetchone()
    if row is None:
        raise NoSuchLog(str(log_id))
    return int(row[0])


def job_as_of(store: EventStore, job_id: str, at: At, *, occurred: bool = False) -> JobSnapshot | None:
    """The job as it was; None if it had no event yet.

    With `occurred` a time is the worker's: the job's events up to the first one that happened later.
    Raises `FoldMismatch` if the log does not fold to the verdicts that stand in it.
    """
    cut = to_us(at) if occurred and isinstance(at, datetime) else None
    position = store.head().position if cut is not None else position_at(store, at)
    states: dict[str, JobState] = {}
    rules = _rules(store)
    after = 0
    while page := store.read_job(job_id, after, upto=position, limit=PAGE):
        kept = page if cut is None else list(takewhile(lambda event: _happened_us(event) <= cut, page))
        fold_past(states, kept, rules)
        if len(kept) < PAGE:
            break
        after = page[-1].version
    state = states.get(job_id)
    return None if state is None else view_of(state, _cursor(store, position))


def jobs_as_of(
    store: EventStore, at: At, *, occurred: bool = False, progress: Callable[[int, int], None] | None = None
) -> Iterator[JobSnapshot]:
    """All jobs as they were, in the order of their first events. `progress` gets (events folded, events to fold)."""
    cut = to_us(at) if occurred and isinstance(at, datetime) else None
    position = store.head().position if cut is not None else position_at(store, at)
    states: dict[str, JobState] = {}
    later: set[str] = set()
    rules = _rules(store)
    done = 0
    for page in store.replay(upto=position):
        done += len(page)
        fold_past(states, page if cut is None else _until(page, cut, later), rules)
        if progress is not None:
            progress(done, position)
    cursor = _cursor(store, position)
    return (view_of(state, cursor) for state in states.values())


def diff(before: JobSnapshot | None, after: JobSnapshot | None) -> list[Change]:
    """What changed between two moments of a job: the job's fields first, then step by step in plan order.

    A moment before the job's first event is None; then every field that is set counts as changed.
    """
    changes = _changes(None, before, after, leave_out=frozenset(("steps", "cursor")))
    old = {step.step: step for step in before.steps} if before else {}
    new = {step.step: step for step in after.steps} if after else {}
    for name in [*new, *(name for name in old if name not in new)]:
        changes += _changes(name, old.get(name), new.get(name), leave_out=frozenset(("step",)))
    return changes


def curve(store: EventStore, job_id: str) -> Iterator[Point]:
    """How the job's percentage went: its first event, then each event that moved it."""
    after, last = 0, -1
    while page := store.read_job(job_id, after, limit=PAGE):
        for event in page:
            if event.ppm != last:
                last = event.ppm
                yield Point(
                    position=event.position,
                    recorded_at=event.recorded_at,
                    occurred_at=event.occurred_at,
                    percent=event.percent,
                )
        after = page[-1].version


def _rules(store: EventStore) -> Rules:
    log_id = store.log_id()
    with store.database.session() as conn:
        return read_rules(conn, log_id)


def _changes(step: str | None, before: Any, after: Any, *, leave_out: frozenset[str]) -> list[Change]:
    some = after if after is not None else before
    names = [] if some is None else [name for name in some.__struct_fields__ if name not in leave_out]
    pairs = ((name, _value(before, name), _value(after, name)) for name in names)
    return [Change(step=step, field=name, before=old, after=new) for name, old, new in pairs if old != new]


def _value(view: Any, name: str) -> Any:
    value = None if view is None else getattr(view, name)
    return bytes(value) if isinstance(value, msgspec.Raw) else value


def _happened_us(event: RecordedEvent) -> int:
    return event.recorded_us if event.occurred_us is None else event.occurred_us


def _until(page: list[RecordedEvent], cut: int, later: set[str]) -> list[RecordedEvent]:
    """The events up to each job's first later one; `later` remembers the jobs that had it."""
    kept = []
    for event in page:
        if event.job_id not in later:
            if _happened_us(event) <= cut:
                kept.append(event)
            else:
                later.add(event.job_id)
    return kept


def _cursor(store: EventStore, position: int) -> str:
    head = store.head()
    if position == 0:
        return format_cursor(head.epoch, 0, GENESIS[:4].hex())
    (event,) = store.read_log(position - 1, upto=position, limit=1)
    return cursor_of(event, head.epoch)
