"""A way through the log along one index, piece by piece: what `projections.audit` does behind its two functions."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any, Final

from eventstore import pgarray, statements
from eventstore.events import RecordedEvent
from eventstore.statements import Conn
from projections.audit_filter import AuditFilter, Clock
from projections.audit_query import (
    BY_CODE_POINT,
    CROSSED,
    LIVES,
    NAMED,
    POSITION_OF,
    VERSION_AT,
    Lane,
    Shape,
    lane_of,
    nth_query,
    page_query,
    parameters,
)
from projections.audit_text import folded, says

PIECE: Final = 4_000  # events in the first piece; the next ones follow the speed of the last
SMALLEST: Final = 500
LARGEST: Final = 25_000
PIECE_TIME: Final = 0.02  # seconds that a piece should take
CANDIDATES: Final = 250  # events at least that a query may answer before they are read for their text
FEW: Final = 100
"""So many jobs of one prefix are looked up to see where in the log they lie."""
PROBES: Final = 128
NEAR: Final = 1_000  # events that are rather read than searched
WIDER: Final = 4  # distances of probes
SKEW: Final = timedelta(seconds=10)
"""By how much times may run backwards. Writers' clocks are within 1 s of the database's (eventstore/sql/append.sql);
the rest is for a database whose clock is corrected."""


class Search:
    """What is left of a range of the log, and what passes in it.

    `low` (exclusive) and `high` (inclusive) are positions of the log at the start. Each step is a statement of its own:
    events never change, so what is found does not depend on when it is asked.
    """

    def __init__(self, conn: Conn, log_id: int, wanted: AuditFilter, low: int, high: int, *, backwards: bool) -> None:
        self._backwards = backwards
        self._lane = lane_of(wanted)
        self._fixed: dict[str, Any] = {"log_id": log_id, "job": wanted.job}
        conditions = parameters(wanted)
        self._given = self._fixed | conditions
        self._shape = Shape(self._lane, backwards, frozenset(conditions))
        self._index = Shape(self._lane, backwards, frozenset(conditions) & {"rejected"})
        self._text = None if wanted.text is None else folded(wanted.text)
        self._size = PIECE
        self._edges = low, max(low, high)
        low, high = narrowed(conn, self._fixed, wanted, *self._edges)
        if self._lane is Lane.JOB and low < high:
            low, high = (_one(conn, VERSION_AT, self._fixed | {"position": position}) for position in (low, high))
        self._low, self._high = low, max(low, high)
        self.total = self._high - self._low
        """How many positions (of a job: versions) there are to look at."""

    @property
    def complete(self) -> bool:
        return self._low >= self._high

    @property
    def done(self) -> int:
        """How many of `total` were looked at."""
        return self.total - (self._high - self._low)

    def page(self, conn: Conn, limit: int, scan: int, deadline: float) -> list[RecordedEvent]:
        """The next events that pass, at most `limit`; fewer once the looks or the time (monotonic) are used up."""
        found: list[RecordedEvent] = []
        while not self.complete and len(found) < limit and scan > 0:
            size = min(self._size, scan)
            began = time.monotonic()
            found += self._piece(conn, self._far(conn, size), limit - len(found))
            now = time.monotonic()
            scan -= size
            if len(found) < limit:
                faster = PIECE_TIME / max(now - began, 1e-6)
                self._size = int(max(SMALLEST, min(LARGEST, size * min(faster, 4))))
            if now >= deadline:
                break
        return found

    def scanned_to(self, conn: Conn) -> int:
        """The position up to which, inclusive, everything was looked at. Ask after a page."""
        low, high = self._edges
        if self.complete:
            return min(low + 1, high) if self._backwards else high
        key = self._high + 1 if self._backwards else self._low
        return key if self._lane is not Lane.JOB else _one(conn, POSITION_OF, self._fixed | {"version": key})

    def _far(self, conn: Conn, size: int) -> int:
        """The end of the next piece, `size` events away along the index."""
        end = self._low if self._backwards else self._high
        if self._lane is not Lane.REJECTED:
            return max(end, self._high - size) if self._backwards else min(end, self._low + size)
        if self._shape == self._index:
            return end
        bounds = self._fixed | {"low": self._low, "high": self._high, "limit": size - 1}
        row = conn.execute(nth_query(self._index), bounds, binary=True).fetchone()
        if row is None:
            return end
        return int(row[0]) - 1 if self._backwards else int(row[0])

    def _piece(self, conn: Conn, far: int, limit: int) -> list[RecordedEvent]:
        """What passes from here to `far`, unless `limit` are found before; goes there."""
        found: list[RecordedEvent] = []
        query = page_query(self._shape)
        ask = limit if self._text is None else max(limit, CANDIDATES)
        while True:
            low, high = (far, self._high) if self._backwards else (self._low, far)
            bounds = self._given | {"low": low, "high": high, "limit": ask}
            rows = statements.recorded(conn.execute(query, bounds, binary=True))
            for event in rows:
                if self._text is None or says(event.data, self._text):
                    found.append(event)
                    if len(found) == limit:
                        self._go_past(event)
                        return found
            if len(rows) < ask:
                self._low, self._high = (self._low, far) if self._backwards else (far, self._high)
                return found
            self._go_past(rows[-1])

    def _go_past(self, event: RecordedEvent) -> None:
        key = event.version if self._lane is Lane.JOB else event.position
        self._low, self._high = (self._low, key - 1) if self._backwards else (key, self._high)


def narrowed(conn: Conn, fixed: dict[str, Any], wanted: AuditFilter, low: int, high: int) -> tuple[int, int]:
    """The part of a range of positions in which something may pass: recorded times and the lives of a few jobs are
    ranges, too. `low` may come out above `high`, if nothing may.
    """
    if wanted.clock is Clock.RECORDED and wanted.since is not None:
        low = recorded_from(conn, fixed, low, high, _shifted(wanted.since, -SKEW))
    if wanted.clock is Clock.RECORDED and wanted.until is not None:
        high = recorded_until(conn, fixed, low, high, _shifted(wanted.until, SKEW))
    if wanted.prefix is not None and (lives := lives_of(conn, fixed, wanted.prefix)) is not None:
        low, high = max(low, lives[0] - 1), min(high, lives[1])
    return low, high


def recorded_from(conn: Conn, fixed: dict[str, Any], low: int, high: int, moment: datetime) -> int:
    """A position before everything in (low, high] that was recorded at a moment or later, near to the first of it.

    A clock that was set back by more than `SKEW` passes a moment twice. So this goes to the first of many probes that
    is late enough, and some probes further back. What is written between two probes by a clock that is ahead may be
    missed.
    """
    end = high
    while end - low > NEAR:
        stride = -(-(end - low) // PROBES)
        first, _ = _crossed(conn, fixed, end - (end - low - 1) // stride * stride, end, stride, moment)
        end = end if first is None else first
        low = max(low, end - WIDER * stride)
    return low


def recorded_until(conn: Conn, fixed: dict[str, Any], low: int, high: int, moment: datetime) -> int:
    """A position at or after everything in (low, high] that was recorded before a moment; see `recorded_from`."""
    begin = low
    while high - begin > NEAR:
        stride = -(-(high - begin) // PROBES)
        _, last = _crossed(conn, fixed, begin + 1, high, stride, moment)
        begin = begin if last is None else last
        high = min(high, begin + WIDER * stride)
    return high


def _crossed(
    conn: Conn, fixed: dict[str, Any], first: int, last: int, stride: int, moment: datetime
) -> tuple[int | None, int | None]:
    given = fixed | {"first": first, "last": last, "stride": stride, "moment": moment}
    row = conn.execute(CROSSED, given, binary=True).fetchone()
    return (None, None) if row is None else (row[0], row[1])


def lives_of(conn: Conn, fixed: dict[str, Any], prefix: str) -> tuple[int, int] | None:
    """The first and the last position of the jobs of this prefix, if they are few; (1, 0) if there are none."""
    ordered = conn.execute(BY_CODE_POINT).fetchone()
    if ordered is None or not ordered[0]:
        return None
    jobs = [row[0] for row in conn.execute(NAMED, fixed | {"prefix": prefix, "most": FEW}, binary=True).fetchall()]
    if len(jobs) > FEW:
        return None
    row = conn.execute(LIVES, fixed | {"jobs": pgarray.text(jobs)}, binary=True).fetchone()
    return (int(row[0]), int(row[1])) if row is not None and row[0] is not None else (1, 0)


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment


def _one(conn: Conn, query: str, given: dict[str, Any]) -> int:
    row = conn.execute(query, given, binary=True).fetchone()
    assert row is not None
    return int(row[0])
