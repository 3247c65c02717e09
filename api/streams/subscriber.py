"""`Subscriber`: one client's stream, from its opening to its end.

    open → catch-up (pages, from its cursor) → live (the hub's chunks) → behind (its queue is full) → catch-up

The seat at the hub is taken before the snapshot is read, and at the end of a catch-up; what is there twice is dropped
by position. So nothing is missed and nothing comes twice, and a reader that is slow holds up nobody.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from api.problems import ApiError, NotFound
from api.requests import Exchange
from api.services import Tenant
from api.streams import frames
from api.streams.asked import Asked
from api.streams.feed import Sieve
from api.streams.frames import HEARTBEAT, Chunk, Control, control
from api.streams.link import Link
from api.streams.recap import Recap
from eventstore.chain import GENESIS
from eventstore.cursor import NOW, START, Cursor, Where, format_cursor, parse_cursor
from eventstore.errors import EventStoreError, LogDiverged
from projections.state import JOB_ENDED

if TYPE_CHECKING:
    from api.streams import Streams

QUEUE_EVENTS: Final = 256
QUEUE_BYTES: Final = 256 * 1024
BEAT: Final = 15.0  # seconds between comments
LIFETIME: Final = 900.0  # seconds, give or take a tenth
KEY_CHECK: Final = 5.0  # seconds
SHARED: Final = 3  # pages of a catch-up that are shared with others
STEP: Final = 0.05  # seconds between looks how far the last step of a catch-up is
_BEAT_WIRE: Final = b"%x\r\n%b\r\n" % (len(HEARTBEAT), HEARTBEAT)


class Subscriber:
    """See the module. `run()` is its whole life; everything else is called by the hub and by the wheel."""

    __slots__ = (
        "_asked", "_beat", "_behind", "_bytes", "_count", "_exchange", "_expires", "_floor", "_greeted",
        "_hub", "_idle", "_joined", "_key", "_last", "_link", "_over", "_place", "_queue", "_recycle", "_scope",
        "_seated", "_since", "_status", "_streams", "_tenant", "_waiter", "due",
    )  # fmt: skip

    def __init__(self, streams: Streams, tenant: Tenant, exchange: Exchange, asked: Asked) -> None:
        self._streams, self._tenant, self._exchange, self._asked = streams, tenant, exchange, asked
        self._hub = streams.hub(tenant)
        self._key = exchange.principal.key_id
        self._since = now = streams.wheel.clock()
        self._recycle = now + LIFETIME * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
        grant = exchange.grant
        self._expires = None if grant is None or grant.expires_at is None else now + grant.expires_at - time.time()
        self._beat = now + BEAT
        self.due = now
        self._seated = False
        self._joined = Cursor(0)  # where the hub was when the seat was taken
        self._place: Cursor | Where = START  # up to where the log was looked at for this client
        self._floor = 0  # chunks up to this position were shown in another way
        self._last = b""  # the cursor of the client
        self._status: str | None = None  # of its one job, if that has ended
        self._queue: deque[Chunk] = deque()
        self._count = self._bytes = 0
        self._idle = False  # whether the task waits, so that the hub may write
        self._behind = self._greeted = False
        self._waiter: asyncio.Future[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._over: tuple[str, bytes | None] | None = None
        self._link = Link(exchange, self._gone)

    async def run(self) -> None:
        """Raises what the opening raises (`NotFound`, `StoreUnavailable` …) as long as no head was sent."""
        exchange = self._exchange
        exchange.events = 0
        self._streams.subscribers.add(self)
        held = False
        try:
            await self._hub.hold()
            held = True
            self._join()
            await self._within(self._open)
            while self._over is None:
                await (self._within(self._catch_up) if self._behind else self._listen())
            await self._part()
        finally:
            self._leave()
            self._link.detach()
            self._streams.subscribers.discard(self)
            self._streams.wheel.remove(self)
            if held:
                self._hub.release()
            if self._link.begun:
                seconds = self._streams.wheel.clock() - self._since
                self._streams.metrics.stream_closed(self._asked.kind, seconds, exchange.events)
            if self._over is not None:
                self._streams.metrics.stream_ended(self._over[0])

    async def _within(self, step: Callable[[], Awaitable[None]]) -> None:
        """A step that is left at once when the stream is over."""
        with anyio.CancelScope() as self._scope:
            if self._over is None:
                await step()
        self._scope = None

    # -- opening ----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        start = self._asked.start
        if start is None:
            await self._open_with_snapshots()
        else:
            await self._open_at(start)

    async def _open_with_snapshots(self) -> None:
        asked, here = self._asked, self._joined
        shown: list[bytes] = []
        if asked.kind == "job":
            assert asked.jobs is not None
            picture = await self._streams.picture(self._tenant, asked.jobs[0])
            if picture is None and not asked.wait:
                raise NotFound(f"there is no job {asked.jobs[0]!r}")
            if picture is None:
                shown.append(control(Control.SNAPSHOT, {"job": None, "cursor": str(here)}))
            else:
                shown.append(picture.frame)
                here = picture.cursor
                self._status = picture.status if picture.status in JOB_ENDED else None
        elif asked.jobs:
            for picture in await self._streams.pictures(self._tenant, asked.jobs):
                shown.append(picture.frame)
                here = picture.cursor
        await self._begin()
        self._place, self._last, self._floor = here, str(here).encode(), here.position
        await self._put(b"".join(shown))
        await self._settle(here)

    async def _open_at(self, start: Cursor | Where) -> None:
        asked, here = self._asked, self._joined
        if asked.kind == "job":
            assert asked.jobs is not None
            known = start.position if isinstance(start, Cursor) else 0
            status = await self._streams.status(self._tenant, asked.jobs[0], known)
            if status.status is None and not asked.wait:
                raise NotFound(f"there is no job {asked.jobs[0]!r}")
            self._status = status.status if status.ended else None
        match start:
            case Where.NOW:
                here = await self._streams.head(self._tenant)
                self._last = str(here).encode()
            case Where.START:
                self._last = format_cursor(here.epoch or 1, 0, GENESIS[:4].hex()).encode()
            case Cursor():
                self._last = str(start).encode()
        if start == here:
            here = await self._streams.head(self._tenant)
        if start is not NOW and start != here and asked.jobs != ():
            self._place, self._behind = start, True
            # A job that has ended is looked at first: if nothing is left to show, the answer is 204.
            if self._status is None:
                await self._begin()
            return
        self._place, self._floor = here, here.position
        if self._status is None:
            await self._begin()
        await self._settle(here)

    async def _settle(self, here: Cursor) -> None:
        """The client has everything up to `here`: go live from there, if the hub's news reach back as far."""
        joined = self._joined
        if self._status is not None:
            await self._conclude(here)
        elif not self._seated or (here.epoch, here.position) < (joined.epoch, joined.position):
            self._behind = True
        else:
            await self._put(control(Control.CAUGHT_UP, {"cursor": str(here)}))

    async def _begin(self) -> None:
        if not self._link.begun:
            await self._link.begin()
            self._streams.metrics.stream_opened(self._asked.kind)
            self._streams.wheel.add(self)

    async def _conclude(self, at: Cursor) -> None:
        """The job has ended, and everything of it was sent."""
        if not self._link.begun:
            headers = [(b"cache-control", b"no-store")]
            await self._exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
            await self._exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
            self.finish("nothing_left", None)
            return
        await self._put(control(Control.CAUGHT_UP, {"cursor": str(at)}))
        self._end(at)

    def _end(self, at: Cursor) -> None:
        assert self._asked.jobs is not None
        told = {"job_id": self._asked.jobs[0], "status": self._status, "cursor": str(at)}
        self.finish("job_ended", frames.retry(frames.AFTER_END) + control(Control.END, told))

    # -- catch-up ---------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Read on from where the client stands, until the hub's news follow without a hole."""
        self._leave()
        try:
            at = await self._read_on()
        except LogDiverged as error:
            own = parse_cursor(self._last.decode())
            if own != self._place and isinstance(self._place, Cursor) and own != START:
                # What was looked at and not shown does not bind the client: only what it has seen does.
                self._place = own
                return
            gap = {"reason": error.reason, "common": error.common, "cursor": error.cursor}
            self.finish("gap", frames.some_time(5, 30) + control(Control.GAP, gap))
            return
        self._place, self._floor, self._behind = at, at.position, False
        if self._status is not None:
            await self._conclude(at)
        else:
            await self._put(control(Control.CAUGHT_UP, {"cursor": str(at)}))

    async def _read_on(self) -> Cursor:
        at = await self._read_with_others()
        return at if at is not None else await self._read_alone()

    async def _read_with_others(self) -> Cursor | None:
        """The first pages, shared with those who stand at the same place; None if there is more than that."""
        asked, recaps = self._asked, self._streams.recaps(self._tenant)
        try:
            head = await self._streams.head(self._tenant)
        except (ApiError, EventStoreError):
            return None  # who reads alone waits for PostgreSQL
        for _ in range(SHARED):
            recap = await recaps.after(
                self._place,
                asked.wanted,
                asked.jobs,
                follows=asked.kind == "job",
                latest=asked.latest,
                to=max(head.position, self._joined.position if self._seated else 0),
            )
            await self._show(recap)
            if not recap.caught_up:
                break
            if self._arrived(recap.at):
                return recap.at
        self._leave()
        return None

    def _arrived(self, at: Cursor) -> bool:
        """Whether the hub's news follow `at`: from the seat that was taken before, or that is taken now."""
        if not self._seated:
            self._join()
        joined = self._joined
        return at.position >= joined.position and (at.epoch or 1) >= (joined.epoch or 1)

    async def _read_alone(self) -> Cursor:
        asked, store = self._asked, self._tenant.store
        sieve = Sieve(asked.wanted, follows=asked.kind == "job", latest=asked.latest)
        reached = False
        async with store.subscribe(after=self._place, jobs=asked.jobs, redis_url=self._streams.redis_url) as news:
            while True:
                if reached:
                    batch = await news.batch(STEP)
                else:
                    async with self._streams.recaps(self._tenant).lanes:
                        batch = await news.batch()
                if batch is not None:
                    await self._show(Recap(batch, sieve))
                    reached = reached or batch.caught_up
                if reached:
                    at = parse_cursor(batch.at if batch is not None else news.cursor)
                    assert isinstance(at, Cursor)
                    if self._arrived(at):
                        return at

    async def _show(self, recap: Recap) -> None:
        if recap.status is not None:
            self._status = recap.status if recap.status in JOB_ENDED else None
        for chunk in recap.chunks():
            await self._put(chunk.body(self._last), chunk.last, len(chunk.frames))
        self._place = recap.at

    # -- live -------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Live. The hub writes while the client keeps up; what it could not write is sent here."""
        while self._over is None and not self._behind:
            if self._queue:
                await self._catch_breath()
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            self._idle = True
            try:
                await self._waiter
            finally:
                self._idle, self._waiter = False, None

    async def _catch_breath(self) -> None:
        """Send what is queued first, when there is room for it."""
        chunk = self._queue.popleft()
        self._count -= len(chunk.frames)
        self._bytes -= chunk.size
        chunk = self._fresh(chunk)
        if chunk.frames:
            await self._put(chunk.body(self._last), chunk.last, len(chunk.frames))
        self._place = chunk.at
        self._heed(chunk)

    def _fresh(self, chunk: Chunk) -> Chunk:
        """What of a chunk was not shown by snapshot or catch-up."""
        return chunk if chunk.first > self._floor else chunk.beyond(self._floor)

    def _heed(self, chunk: Chunk) -> None:
        """A chunk is out: was it the end of the job?"""
        if chunk.status in JOB_ENDED:
            self._status = chunk.status
            self._end(chunk.at)

    def deliver(self, chunk: Chunk) -> None:
        link = self._link
        if self._idle and link.direct:
            chunk = self._fresh(chunk)
            if chunk.frames:
                wire = chunk.wire(self._last)
                if link.pending() + len(wire) > QUEUE_BYTES:
                    self._enqueue(chunk)
                    return
                link.write(wire)
                self._sent(chunk.last, len(chunk.frames))
                self._streams.wheel.watch(self)
            self._place = chunk.at
            self._heed(chunk)
        else:
            self._enqueue(chunk)

    def _enqueue(self, chunk: Chunk) -> None:
        self._queue.append(chunk)
        self._count += len(chunk.frames)
        self._bytes += chunk.size
        if self._count > QUEUE_EVENTS or self._bytes > QUEUE_BYTES:
            self._fall_behind()
        else:
            self._wake()

    def _fall_behind(self) -> None:
        """Too much is queued: forget it, and read it again when there is room."""
        self._leave()
        self._behind = True
        self._wake()

    def turn(self, at: Cursor) -> None:
        if self._idle and not self._queue and at.position >= self._floor:
            self._place = at
        self._fall_behind()

    # -- the seat ---------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        asked, hub = self._asked, self._hub
        self._joined, self._seated = hub.at, True
        hub.sit(self, asked.wanted, asked.jobs, follows=asked.kind == "job", latest=asked.latest)

    def _leave(self) -> None:
        if self._seated:
            self._seated, asked = False, self._asked
            self._hub.leave(self, asked.wanted, follows=asked.kind == "job", latest=asked.latest)
        self._queue.clear()
        self._count = self._bytes = 0

    # -- sending ----------------------------------------------------------------------------------------------------

    async def _put(self, body: bytes, last: bytes | None = None, events: int = 0) -> None:
        """A part of the answer, with the client's cursor after it."""
        await self._begin()
        if body:
            if not self._greeted:
                self._greeted = True
                body = frames.retry(frames.RETRY) + body
            self._streams.wheel.watch(self)
            await self._link.send(body)
        if last is not None:
            self._sent(last, events)

    def _sent(self, last: bytes, events: int) -> None:
        self._last = last
        self._exchange.events = (self._exchange.events or 0) + events

    def _wake(self) -> None:
        self._idle = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self, why: str, words: bytes | None) -> None:
        """The stream ends, with these last words; None: without any. What is first said counts."""
        if self._over is None:
            self._over = (why, words)
            self._leave()
            self._wake()
            if self._scope is not None:
                self._scope.cancel()

    async def _part(self) -> None:
        assert self._over is not None
        words = self._over[1]
        if words is not None and not self._link.lost:
            await self._link.begin()
            self._streams.wheel.watch(self)
            await self._link.end(words)

    def close(self) -> None:
        self.finish("failed", frames.some_time(1, 5))

    def _gone(self) -> None:
        self.finish("gone", None)

    # -- the wheel --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        if self._expires is not None and now >= self._expires:
            self.finish("reauth", reauth("expired"))
        elif not self._streams.is_good(self._key):
            self.finish("reauth", reauth("revoked"))
        elif now >= self._recycle:
            self.finish("recycled", frames.some_time(0.5, 3))
        elif now >= self._beat:
            self._beat = now + BEAT
            link = self._link
            if link.direct and not link.sending and not link.pending():
                link.write(_BEAT_WIRE)
        self.due = min(
            self._beat,
            self._recycle,
            now + KEY_CHECK if self._key is not None else self._beat,
            self._expires if self._expires is not None else self._beat,
        )

    def taken(self) -> int | None:
        link = self._link
        pending = link.pending()
        return link.written - pending if pending or link.sending else None

    def cut(self) -> None:
        self.finish("slow", None)
        self._link.abort()


def reauth(reason: str) -> bytes:
    """The last words to who must show a new token."""
    told: dict[str, Any] = {"reason": reason}
    return frames.retry(frames.AFTER_EXPIRY) + control(Control.REAUTH, told)
