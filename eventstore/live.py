"""What happens now, addressed by position: nobody registers anywhere, so there is no moment to miss.

A `Tail` keeps the recent events of a log in memory for everybody in an event loop who follows it. Whoever asks for what
comes after a position gets it, waits for it, or hears that it is `Elsewhere`: in PostgreSQL, where everything is.
No task runs: of those who wait, one reads for all; if it leaves, another takes over.
"""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel

from eventstore.batch import Head
from eventstore.connections import Database
from eventstore.cursor import Cursor, Where
from eventstore.events import RecordedEvent
from eventstore.questions import PATIENCE, Questions
from eventstore.stream_reader import LOOK, PAGE, Stream
from eventstore.wakeup import Bell

RING: Final = 10_000  # recent events in memory
RING_BYTES: Final = 16 * 2**20
SMALLEST: Final = 16  # events in a page
EVENT_BYTES: Final = 400  # of an event without its data, about
LATE: Final = 0.4  # seconds that Redis may be behind the head
THREADS: Final = 4  # questions to PostgreSQL at once, for all who follow a log


class Readable(Protocol):
    """What following a log needs of a store. Blocking; called in threads."""

    log: str

    def on_append(self, listener: Callable[[Head, Sequence[RecordedEvent]], None]) -> Callable[[], None]: ...
    def head(self) -> Head: ...
    def resolve(self, cursor: str | int | Cursor | Where | None) -> tuple[Head, int]: ...
    def read_log(self, after: int = 0, *, upto: int = ..., limit: int = ...) -> list[RecordedEvent]: ...
    def read_job(self, job_id: str, after: int = 0, *, upto: int = ..., limit: int = ...) -> list[RecordedEvent]: ...
    def read_job_after_position(self, job_id: str, after: int, *, upto: int, limit: int) -> list[RecordedEvent]: ...


class Elsewhere(enum.Enum):
    """Why a tail has nothing for a position."""

    BEHIND = "behind"
    """It is too old: read from PostgreSQL and come back."""
    CHANGED = "changed"
    """The log began a new epoch, or is shorter than it was: resolve the cursor first."""


class Tail:
    """The recent events of one log. Made by `hold`, ended by `release`.

    `redis_url`: live from the relay's stream, and without it, or while it is away or late, from PostgreSQL, woken by
    NOTIFY (`listen`) and polling. `life` counts how often the log's history changed under the reader.
    """

    def __init__(self, store: Readable, *, redis_url: str | None, listen: bool) -> None:
        self._store = store
        database: Database | None = getattr(store, "database", None)
        self._url = database.url if database is not None else None
        self._listen = listen and database is not None and not database.pgbouncer
        threads = min(THREADS, database.pool_size - 1) if database is not None else THREADS
        self.postgres = Questions(store.log, max(threads, 1), self._wake_all)
        self._bell: Bell | None = None
        self._forget: Callable[[], None] | None = None
        self._stream = Stream(redis_url, store.log) if redis_url else None
        self.holders = 0
        self.life = 0
        self.page = PAGE
        """Events that are asked for at once: fewer where they are large."""
        self.head: Head | None = None
        """The log's head at the last look."""
        self._epoch: int | None = None
        self._ring: list[RecordedEvent] = []
        self._bytes = 0
        self._last: int | None = None  # the position that the ring reaches to
        self._mark: str | None = None  # the first 8 hex digits of the hash there
        self._look_at = 0.0
        self._due = 0  # a head that Redis had not reached at the last look
        self._drained = False  # whether Redis had no more at the last read
        self._reading = False
        self._waiting: dict[anyio.Event, int] = {}  # those who wait, with their positions

    # -- what comes after a position --------------------------------------------------------------------------------

    async def after(
        self, at: Cursor, life: int, *, timeout: float = math.inf, give_up_after: float = math.inf
    ) -> list[RecordedEvent] | Elsewhere | None:
        """The events after a cursor, 1 to 1,000 without a hole; None after `timeout` seconds without any.

        `life` is the tail's when the cursor was resolved. Raises `StoreUnavailable` when PostgreSQL was away for
        `give_up_after` seconds.
        """
        if (answer := self._answer(at, life)) is not None:
            await anyio.lowlevel.checkpoint()  # a flood of events must not keep everybody else from running
            return answer
        end = time.monotonic() + timeout
        try:
            while (answer := self._answer(at, life)) is None:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                left = min(left, self.postgres.patience(give_up_after))
                if self._reading:
                    await self._wait(at.position, left)
                    continue
                self._reading = True
                try:
                    await self._step(at, left)
                finally:
                    self._reading = False
            return answer
        finally:
            # The reader leaves, with its events or cancelled: of those who still wait the newest takes over.
            if not self._reading and self._waiting:
                next(reversed(self._waiting)).set()

    def _answer(self, at: Cursor, life: int) -> list[RecordedEvent] | Elsewhere | None:
        if life != self.life or (self._epoch is not None and at.epoch is not None and at.epoch < self._epoch):
            return Elsewhere.CHANGED
        if self._last is None or at.position > self._last + PAGE or (at.epoch or 0) > (self._epoch or 0):
            self._begin(at)
        assert self._last is not None
        if at.position >= self._last:
            return None
        start = at.position - (self._last - len(self._ring))
        return self._ring[start : start + PAGE] if start >= 0 else Elsewhere.BEHIND

    def learn(self, asked: int, kept: int, *, cut: bool, more: bool) -> None:
        """Of a page so many events were kept, `cut` because all were too large together; there are `more` to read."""
        if cut:
            self.page = max(SMALLEST, min(asked, 2 * kept))
        elif more:
            self.page = min(PAGE, max(self.page, 2 * asked))

    def covers(self, at: Cursor) -> bool:
        """Whether the event at a cursor is in memory, with the cursor's hash: then the cursor needs no resolving."""
        if self._last is None or at.hash8 is None or at.epoch != self._epoch:
            return False
        index = at.position - (self._last - len(self._ring)) - 1
        return 0 <= index < len(self._ring) and self._ring[index].hash[:4].hex() == at.hash8

    async def goal(self, at: Cursor, until: float) -> int | None:
        """Where the log ends now, if memory has all from a cursor on, or soon will; None to read from PostgreSQL.

        Many who come back at once, each with another cursor, cost one question for all of them. None too when the
        monotonic clock reaches `until`.
        """
        head = None
        if self.covers(at):
            with anyio.move_on_after(until - time.monotonic()):
                head = await self.postgres.shared(self._store.head)
        if head is None or not self.covers(at) or head.epoch != self._epoch:
            return None
        return head.position if at.position <= head.position <= (self._last or 0) + PAGE else None

    async def _wait(self, position: int, limit: float) -> None:
        woken = anyio.Event()
        self._waiting[woken] = position
        try:
            if limit == math.inf:
                await woken.wait()
            else:
                with anyio.move_on_after(limit):
                    await woken.wait()
        finally:
            del self._waiting[woken]

    def _wake_all(self) -> None:
        for woken in self._waiting:
            woken.set()

    # -- the ring ---------------------------------------------------------------------------------------------------

    def _begin(self, at: Cursor) -> None:
        """Start anew at a cursor that is far beyond the ring; whoever is behind it reads from PostgreSQL."""
        self._ring, self._bytes = [], 0
        self._last, self._mark = at.position, at.hash8
        self._epoch = max(at.epoch or 0, self._epoch or 0) or None
        self._wake_all()

    def _extend(self, events: list[RecordedEvent]) -> None:
        self._ring += events
        self._bytes += sum(EVENT_BYTES + len(event.data_json) for event in events)
        self._last, self._mark = events[-1].position, events[-1].hash[:4].hex()
        if len(self._ring) > RING or self._bytes > RING_BYTES:
            drop = max(0, len(self._ring) - RING * 3 // 4)
            self._bytes -= sum(EVENT_BYTES + len(event.data_json) for event in self._ring[:drop])
            while self._bytes > RING_BYTES and drop < len(self._ring) - 1:
                self._bytes -= EVENT_BYTES + len(self._ring[drop].data_json)
                drop += 1
            del self._ring[:drop]
        self._wake_all()

    def _turn(self, epoch: int) -> None:
        """The history is not what it was: forget what is here, and let everybody resolve the cursor again."""
        self.life += 1
        self._epoch, self._ring, self._bytes, self._last, self._mark, self._due = epoch, [], 0, None, None, 0
        self._wake_all()

    # -- one step of the reader -------------------------------------------------------------------------------------

    async def _step(self, at: Cursor, limit: float) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            await self._look(at.position)
            return
        limit = min(limit, self._look_at - now)
        if self._stream is not None and await self._stream.is_up(self._epoch or 1, self._last or 0):
            await self._from_stream(self._stream, limit)
        else:
            await self._from_postgres(at.position, limit)

    async def _look(self, position: int) -> None:
        """Ask PostgreSQL for epoch and head. A log can't be shorter than what was known before the question."""
        known = max(position, self._last or 0, *self._waiting.values(), 0)
        patience = LOOK if self._stream is not None and self._stream.up else PATIENCE
        head = await self.postgres.once(self._store.head, patience=patience)
        self._look_at = time.monotonic() + LOOK
        if head is None:
            return
        self.head = head
        last = self._last
        other = self._ring and last == head.position and self._ring[-1].hash != head.hash
        if head.epoch != (self._epoch or head.epoch) or head.position < known or other:
            self._turn(head.epoch)
            return
        self._epoch = head.epoch
        if self._stream is None or not self._stream.up or last is None or head.position <= last:
            self._due = 0
            return
        if last < self._due and self._drained:
            self._stream.late(f"it ends at position {last}, the log at {head.position}")
        self._due = head.position
        self._look_at = time.monotonic() + LATE

    async def _from_stream(self, stream: Stream, limit: float) -> None:
        after, epoch = self._last or 0, self._epoch or 1
        entries = await stream.read(epoch, after, limit)
        self._drained = len(entries) < PAGE
        if after != self._last or epoch != self._epoch or not entries:
            return
        good: list[RecordedEvent] = []
        for position, event in entries:
            if event is None or position != after + 1:
                break
            good.append(event)
            after = position
        if good:
            self._extend(good)
        if len(good) < len(entries):
            await self._fill(stream, entries[len(good)].position)

    async def _fill(self, stream: Stream, upto: int) -> None:
        """Read the hole before an entry (and an unreadable entry itself) from PostgreSQL, for everybody."""
        if upto - (self._last or 0) > RING and self.head is not None and upto <= self.head.position:
            self._begin(Cursor(upto - 1, self._epoch))
            return
        if not await self._page():
            stream.late(f"its entry {upto} is not what the log has")

    async def _from_postgres(self, position: int, limit: float) -> None:
        bell = self._bell
        if bell is None:
            head = self.head or await self.postgres.once(self._store.head)
            if head is None:
                await anyio.sleep(self.postgres.backoff())
                return
            bell = self._bell = Bell(self._url or "", head.log_id, listen=self._listen)
            self._forget = self._store.on_append(partial(self._appended, asyncio.get_running_loop(), bell))
        if position <= (self._last or 0):
            await bell.wait(after=self._last or 0, limit=limit)
        if await self._page():
            bell.found()

    @staticmethod
    def _appended(loop: asyncio.AbstractEventLoop, bell: Bell, head: Head, _: Sequence[RecordedEvent]) -> None:
        """An append of this process, told in its thread: sooner than NOTIFY, and where there is none."""
        try:
            loop.call_soon_threadsafe(bell.ring, head.log_id, head.position)
        except RuntimeError:
            pass  # the loop was closed under us

    async def _page(self) -> bool:
        """One page after the ring from PostgreSQL. It begins with the event that is known, whose hash must match."""
        after, mark = self._last or 0, self._mark
        overlap = 1 if mark is not None and after > 0 else 0
        events = await self.postgres.once(partial(self._store.read_log, after - overlap, limit=PAGE + overlap))
        if events is None:
            await anyio.sleep(self.postgres.backoff())
            return False
        if after != self._last or mark != self._mark:
            return False
        if overlap and not (events and events[0].position == after and events[0].hash[:4].hex() == mark):
            self._turn(self._epoch or 1)
            return False
        fresh = events[overlap:]
        if fresh and not (fresh[0].position == after + 1 and fresh[-1].position == after + len(fresh)):
            self._turn(self._epoch or 1)
            return False
        if fresh:
            self._extend(fresh)
        return bool(fresh)

    # -- the end ----------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        if self._forget is not None:
            self._forget()
        if self._bell is not None:
            self._bell.close()
        if self._stream is not None:
            await self._stream.aclose()


_tails: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[int, str, str | None, bool], Tail]] = (
    WeakKeyDictionary()
)


def hold(store: Readable, *, redis_url: str | None, listen: bool) -> Tail:
    """The tail of a store's log in this event loop, made by the first who asks; `release` it."""
    here = _tails.setdefault(asyncio.get_running_loop(), {})
    key = (id(getattr(store, "database", store)), store.log, redis_url, listen)
    tail = here.get(key)
    if tail is None:
        tail = here[key] = Tail(store, redis_url=redis_url, listen=listen)
    tail.holders += 1
    return tail


async def release(tail: Tail) -> None:
    """Let go of a tail; the last one closes its connections."""
    tail.holders -= 1
    if tail.holders == 0:
        for here in _tails.values():
            for key in [key for key, value in here.items() if value is tail]:
                del here[key]
        with anyio.CancelScope(shield=True):
            await tail.aclose()
