"""`Subscription`: one loop for everything that follows a log, whether it starts at the beginning, in the middle or now.

    catch-up (pages from PostgreSQL) → CaughtUp → live (the process's `Tail`) → behind → catch-up

Each event of the log is seen in order and once; continuity is checked before any filter. A slow consumer finds that its
position is no longer in memory and reads on from PostgreSQL: it misses nothing and holds up nobody.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import msgspec

from eventstore.aio import AsyncEventStore
from eventstore.batch import Head
from eventstore.chain import GENESIS
from eventstore.cursor import Cursor, Where, parse_cursor
from eventstore.errors import LogDiverged
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.filters import Filter, make_filter
from eventstore.live import Elsewhere, Readable, Tail, hold, release

_GENESIS8: Final = GENESIS[:4].hex()
EPOCH_STARTED: Final = "log.epoch_started"
_SPREAD: Final = 0.05  # seconds over which consumers resolve their cursors after a new epoch

R = TypeVar("R")

PAGE_BYTES: Final = 256 * 1024  # bytes of data in one batch, about
FEW: Final = 4  # events that are never too large together


class CaughtUp(msgspec.Struct, frozen=True):
    """The consumer has everything up to `cursor`, which was the end of the log; what follows is live."""

    cursor: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What there was at once: the events that pass the filter, in order.

    `at` is after the last event that was looked at, whether it passed or not. `caught_up`: it reaches the end of the
    log, coming from behind.
    """

    events: Sequence[RecordedEvent]
    at: Cursor
    caught_up: bool

    @property
    def cursor(self) -> str:
        return str(self.at)

    @property
    def epoch(self) -> int:
        """For the cursors of single events: `wire.cursor_of`."""
        return self.at.epoch or 1


def subscribe(
    store: Readable | AsyncEventStore,
    *,
    after: str | int | Cursor | Where | None = None,
    jobs: str | Iterable[str] | None = None,
    types: str | Iterable[str] | None = None,
    steps: str | Iterable[str] | None = None,
    applied: bool | None = None,
    redis_url: str | None = None,
    listen: bool = True,
    give_up_after: float | None = None,
) -> Subscription:
    """Follow a log after a cursor (default: from the start; `now`: from the end).

    `jobs`: full ids, or prefixes like `build:*`; `types`: full names, or prefixes like `step.*`; `steps`: names;
    `applied`: True for what counted, False for what did not. With `redis_url` live events come from the relay's stream;
    without it, or while it is away, from PostgreSQL, woken by NOTIFY, or by polling alone (`listen=False`, or a store
    behind PgBouncer). `give_up_after`: seconds to wait for a PostgreSQL that is away; None waits for ever.
    Raises `InvalidCursor` and `InvalidFilter` at once; all else comes while iterating, see `Subscription`.
    """
    return Subscription(
        store.blocking if isinstance(store, AsyncEventStore) else store,
        after=parse_cursor(after),
        wanted=make_filter(jobs=jobs, types=types, steps=steps, applied=applied),
        redis_url=redis_url,
        listen=listen,
        give_up_after=math.inf if give_up_after is None else give_up_after,
    )


class Subscription:
    """The events of a log after a cursor, for ever; made by `subscribe`.

        async for event in store.subscribe(after=cursor, jobs=["build:*"]): ...

    Iterate it, iterate `items()`, or ask for `batch()` again and again; not in two tasks at once. It needs no task
    group and leaves no task behind; the last subscription of a log closes the connections, at the end of its iteration
    or of `async with`. Iterating again goes on after the last event that was handled.

    Raises `NoSuchLog`; `LogDiverged` at any time, when the log is not the one that the cursor came from;
    `StoreUnavailable` only if `give_up_after` is set: while PostgreSQL is away it waits.
    """

    def __init__(
        self,
        store: Readable,
        *,
        after: Cursor | Where,
        wanted: Filter,
        redis_url: str | None,
        listen: bool,
        give_up_after: float,
    ) -> None:
        self._store = store
        self._select = wanted.compiled()
        self._redis_url, self._listen, self._give_up_after = redis_url, listen, give_up_after
        self._tail: Tail | None = None
        self._life = -1
        self._at: Cursor | Where = after  # up to where the log was looked at
        self._behind = True
        self._doubt = False
        self._goal: int | None = None  # the end of the log, while it is not reached and memory has all up to it
        self._versions: dict[str, int | None] = dict.fromkeys(wanted.exact or ())
        self._handled: Cursor | Where | RecordedEvent = after
        self._handed: Cursor | RecordedEvent | None = None
        self._prev: Cursor | Where | RecordedEvent = after
        self._iteration: object = None

    @property
    def cursor(self) -> str:
        """The cursor after the last event whose handling was finished: that is when the next one is asked for.

        Events that the filter left out count as handled. Before the first answer it is what was given: `-1` for the
        start, `now`, a position.
        """
        return self._text(self._handled)

    @property
    def prev(self) -> str:
        """The cursor of the frame before the event that was handed over last, under the same filter; for the first
        frame where the subscription started.
        """
        return self._text(self._prev)

    @property
    def head(self) -> int:
        """The position of the log's head, as far as it was seen from here."""
        seen = self._tail.head if self._tail is not None else None
        return max(seen.position if seen is not None else 0, self._at.position if isinstance(self._at, Cursor) else 0)

    def handled(self) -> None:
        """Say that what was handed over last is finished. Asking for the next says so too."""
        if self._handed is not None:
            self._handled, self._handed = self._handed, None

    def _text(self, place: Cursor | Where | RecordedEvent) -> str:
        match place:
            case Where.START:
                return "-1"
            case Where.NOW:
                return "now"
            case Cursor():
                return str(place)
            case RecordedEvent():
                epoch = self._at.epoch if isinstance(self._at, Cursor) else None
                return str(Cursor(place.position, epoch, place.hash[:4].hex()))

    # -- one by one -------------------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[RecordedEvent, None]:
        async with aclosing(self.items()) as items:
            async for item in items:
                if type(item) is RecordedEvent:
                    yield item

    async def items(self) -> AsyncGenerator[RecordedEvent | CaughtUp, None]:
        """Events, and `CaughtUp` each time that the end of the log is reached from behind."""
        # An iteration that was left by an exception may be finalised long after the next one began.
        self._rewind()
        mine = self._iteration = object()
        try:
            while True:
                batch = await self.batch()
                assert batch is not None
                end = self._handed
                for event in batch.events:
                    self._handed = event
                    yield event
                    self.handled()
                    self._prev = event
                self._handed = end
                if batch.caught_up:
                    self.handled()
                    yield CaughtUp(batch.cursor)
        finally:
            if self._iteration is mine:
                await self.aclose()

    # -- many at once -----------------------------------------------------------------------------------------------

    async def batch(self, timeout: float = math.inf) -> Batch | None:
        """What comes next: 1 to 1,000 events, or the news of having caught up; None if `timeout` seconds bring nothing.

        Cancelling it loses nothing. Asking for the next says that this one is handled.
        """
        self.handled()
        end = time.monotonic() + timeout
        if self._tail is None:
            self._tail = hold(self._store, redis_url=self._redis_url, listen=self._listen)
        while True:
            try:
                got = await self._next(self._tail, end)
            except Exception:
                await self.aclose()
                raise
            if got is None:
                return None
            events, caught_up = got
            assert isinstance(self._at, Cursor)
            self._handed = self._at
            passed = self._select(events)
            if passed or caught_up:
                return Batch(events=passed, at=self._at, caught_up=caught_up)
            self.handled()

    async def _next(self, tail: Tail, end: float) -> tuple[Sequence[RecordedEvent], bool] | None:
        """All events that follow, and whether they reach the end from behind. None when time is up."""
        while True:
            at = self._at
            if self._life != tail.life or not isinstance(at, Cursor):
                life = tail.life
                if isinstance(at, Cursor) and not self._doubt and tail.covers(at):
                    self._life = life
                    continue
                found = await self._ask(tail, end, partial(self._store.resolve, at))
                if found is None:
                    return None
                self._resolved(at, *found)
                self._life = life
            elif self._behind and not self._doubt and (goal := await tail.goal(at, end)) is not None:
                self._behind, self._goal = False, goal
                if at.position >= goal:
                    return (), self._reached(at.position)
            elif self._behind:
                return await (self._job_page(tail, end, at) if self._versions else self._log_page(tail, end, at))
            else:
                left = end - time.monotonic()
                answer = await tail.after(at, self._life, timeout=left, give_up_after=self._give_up_after)
                if answer is None:
                    return None
                if answer is Elsewhere.CHANGED:
                    self._life = -1
                    self._fall_behind()
                    await anyio.sleep(random.uniform(0, _SPREAD))  # noqa: S311 - jitter, not a secret
                elif answer is Elsewhere.BEHIND:
                    self._fall_behind()
                elif not self._in_step(answer):
                    self._fall_behind()
                    self._doubt = True
                else:
                    events = within(answer)
                    self._accept(at, events)
                    return events, self._reached(events[-1].position)

    def _fall_behind(self) -> None:
        self._behind, self._goal = True, None

    def _reached(self, position: int) -> bool:
        """Whether this is the end of the log that was to be reached."""
        reached = self._goal is not None and position >= self._goal
        if reached:
            self._goal = None
        return reached

    async def ask(self, call: Callable[[], R]) -> R:
        """Run a blocking function in a thread, again and again while PostgreSQL is away, as this subscription would."""
        if self._tail is None:
            self._tail = hold(self._store, redis_url=self._redis_url, listen=self._listen)
        answer = await self._ask(self._tail, math.inf, call)
        assert answer is not None
        return answer

    async def _ask(self, tail: Tail, end: float, call: Callable[[], R]) -> R | None:
        return await tail.postgres.ask(call, until=end, give_up_after=self._give_up_after)

    def _resolved(self, at: Cursor | Where, head: Head, position: int) -> None:
        """The cursor is on the log's history: it becomes one of the present epoch."""
        hash8 = at.hash8 if isinstance(at, Cursor) else None
        if hash8 is None and position in (0, head.position):
            hash8 = head.hash[:4].hex() if position else _GENESIS8
        now = Cursor(position, head.epoch, hash8)
        if self._prev is at:
            self._prev = now
        self._at = self._handled = now
        self._fall_behind()

    async def _log_page(self, tail: Tail, end: float, at: Cursor) -> tuple[Sequence[RecordedEvent], bool] | None:
        """A page of the log. It begins with the event at the cursor, whose hash must be the one that is known there:
        then what follows is of the same history, whatever happened to the server since the cursor was resolved."""
        overlap, limit = min(at.position, 1), tail.page
        page = await self._ask(tail, end, partial(self._store.read_log, at.position - overlap, limit=limit + overlap))
        if page is None:
            return None
        first, last = at.position + 1 - overlap, at.position - overlap + len(page)
        here = page[0].hash[:4].hex() if overlap and page else at.hash8
        if (
            len(page) < overlap
            or here != (at.hash8 or here)
            or (page and (page[0].position, page[-1].position) != (first, last))
        ):
            return self._doubted(at)
        self._doubt = False
        whole = page[overlap:]
        events = within(whole)
        if at.hash8 is None:
            self._at = at = Cursor(at.position, at.epoch, here)
        self._accept(at, events)
        cut = len(events) < len(whole)
        self._behind = cut or len(whole) == limit
        tail.learn(limit, len(events), cut=cut, more=self._behind)
        return events, not self._behind

    async def _job_page(self, tail: Tail, end: float, at: Cursor) -> tuple[Sequence[RecordedEvent], bool] | None:
        """A page of a few jobs, from the index of jobs, up to a head that is read first; the cursor is checked too."""
        limit = tail.page
        found = await self._ask(tail, end, partial(_read_jobs, self._store, at, self._versions, limit))
        if found is None:
            return None
        events, reached, self._behind, cut = found
        tail.learn(limit, len(events), cut=cut, more=self._behind)
        if not self._in_step(events):
            return self._doubted(at)
        self._doubt = False
        self._accept(at, events)
        self._at = reached
        return events, not self._behind

    def _doubted(self, at: Cursor) -> tuple[Sequence[RecordedEvent], bool]:
        """What was read does not follow the cursor. The first time the cursor is resolved anew, which tells why."""
        if self._doubt:
            raise LogDiverged(str(at), "hole", str(at))
        self._doubt, self._life = True, -1
        return (), False

    def _in_step(self, events: Sequence[RecordedEvent]) -> bool:
        """Whether each event of a followed job is the one after the last one that was seen of it."""
        if self._versions:
            seen = self._versions.copy()
            for event in events:
                if event.job_id in seen:
                    if seen[event.job_id] not in (None, event.version - 1):
                        return False
                    seen[event.job_id] = event.version
        return True

    def _accept(self, at: Cursor, events: Sequence[RecordedEvent]) -> None:
        """Move on: after these events. An epoch that begins among them is the epoch of the cursors from there on."""
        if not events:
            return
        epoch = at.epoch or 1
        for event in events:
            if event.job_id == LOG_JOB and event.type == EPOCH_STARTED:
                epoch = max(epoch, int(event.data["epoch"]))
            if event.job_id in self._versions:
                self._versions[event.job_id] = event.version
        self._at = Cursor(events[-1].position, epoch, events[-1].hash[:4].hex())

    # -- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Let go of connections. Asking again goes on after the last event that was handled."""
        self._rewind()
        self._life = -1
        if self._goal is not None:
            self._fall_behind()
        tail, self._tail = self._tail, None
        if tail is not None:
            await release(tail)

    def _rewind(self) -> None:
        """Back to the last event that was handled."""
        if self._handed is not None:
            self._at = self._handled = parse_cursor(self.cursor)
            self._handed = None
            self._fall_behind()
            self._versions = dict.fromkeys(self._versions)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _read_jobs(
    store: Readable, at: Cursor, versions: Mapping[str, int | None], limit: int
) -> tuple[Sequence[RecordedEvent], Cursor, bool, bool]:
    """Events of some jobs after a cursor, in the order of the log; up to where; whether there are more; whether some
    that were read are left out, because together they are too large."""
    head, position = store.resolve(at)
    each = max(limit // len(versions), 10)
    reach, found = head.position, []
    for job_id, version in versions.items():
        if version is None:
            own = store.read_job_after_position(job_id, position, upto=head.position, limit=each)
        else:
            own = store.read_job(job_id, version, upto=head.position, limit=each)
        if len(own) == each:
            reach = min(reach, own[-1].position)
        found += own
    read = sorted((event for event in found if event.position <= reach), key=lambda event: event.position)
    events = within(read)
    cut = len(events) < len(read)
    if reach == head.position and not cut:
        reached = Cursor(reach, head.epoch, head.hash[:4].hex())
    else:
        reached = Cursor(events[-1].position, head.epoch, events[-1].hash[:4].hex())
    return events, reached, reached.position < head.position, cut


def within(events: Sequence[RecordedEvent]) -> Sequence[RecordedEvent]:
    """The first of some events, with no more data together than a reader that stands still may hold; at least one."""
    if len(events) > FEW:
        size = 0
        for index, event in enumerate(events):
            size += len(event.data_json)
            if size > PAGE_BYTES and index:
                return events[:index]
    return events
