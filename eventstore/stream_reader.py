"""One log's Redis stream, read by position. It is a wire: what it says is checked; what it lacks is in PostgreSQL."""

from __future__ import annotations

import logging
import time
from typing import Any, Final, NamedTuple

import anyio
import msgspec
import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection

from eventstore.events import RecordedEvent
from eventstore.wire import cursor_of, decode_event, stream_key

logger = logging.getLogger("headway.live")

SLACK: Final = 1.0  # seconds that an answer may take beyond what was asked to block, before the peer is taken for dead
CONNECT: Final = 2.0  # seconds
PAGE: Final = 1_000  # entries asked for at once
LOOK: Final = 1.0  # seconds between looks at something that may have changed
PROBE: Final = 0.25  # seconds that a Redis which was lost gets to answer


class StreamLost(Exception):
    """Redis can't be reached, or refuses; the text says why, without the password."""


class Entry(NamedTuple):
    """`event` is None when the entry is not what the relay writes for this position."""

    position: int
    event: RecordedEvent | None


class StreamReader:
    """A connection that follows one log's stream. Connects on first use; after any trouble it connects again."""

    def __init__(self, url: str, log: str) -> None:
        self._pool = redis.asyncio.ConnectionPool.from_url(
            url, protocol=2, socket_connect_timeout=CONNECT, socket_timeout=None
        )
        self._log = log
        self._conn: AbstractConnection | None = None

    async def read(self, epoch: int, after: int, *, block: float, count: int) -> list[Entry]:
        """Entries after a position, at most `count`; waits up to `block` seconds for one. Raises `StreamLost`.

        XREAD skips silently what is not there any more: whoever calls compares each position with the last one + 1.
        """
        key = stream_key(self._log, epoch)
        wait = max(int(block * 1000), 1)  # 0 would wait for ever
        answer = await self._ask("XREAD", "COUNT", count, "BLOCK", wait, "STREAMS", key, f"{after}-0", limit=block)
        return [_entry(raw, epoch) for raw in answer[0][1]] if answer else []

    async def last(self, epoch: int) -> Entry | None:
        """The newest entry; None for an empty stream. Raises `StreamLost`."""
        answer = await self._ask("XREVRANGE", stream_key(self._log, epoch), "+", "-", "COUNT", 1)
        return _entry(answer[0], epoch) if answer else None

    async def _ask(self, *command: str | int, limit: float = 0.0) -> Any:
        conn = self._conn
        try:
            with anyio.fail_after(SLACK + limit + (CONNECT if conn is None else 0)):
                if conn is None:
                    conn = self._conn = self._pool.make_connection()  # type: ignore[no-untyped-call]
                    await conn.connect()
                await conn.send_command(*command)
                return await conn.read_response()
        except (redis.RedisError, OSError, TimeoutError) as error:
            await self.aclose()
            raise StreamLost(str(error) or type(error).__name__) from error
        except BaseException:
            # Cancelled with an answer on its way: the next command must not get it.
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection, without waiting for the other side."""
        conn, self._conn = self._conn, None
        if conn is not None:
            with anyio.CancelScope(shield=True):
                await conn.disconnect(nowait=True)


class Stream:
    """Redis, as long as it serves. After a loss it must show first that it has what the log has."""

    def __init__(self, url: str, log: str) -> None:
        self._log = log
        self._reader = StreamReader(url, log)
        self._try_at = 0.0
        self._pause = LOOK
        self._late = False
        self._warned = False
        self.up = True

    async def read(self, epoch: int, after: int, limit: float) -> list[Entry]:
        """Entries after a position; none when there is trouble, and then it is not up any more."""
        try:
            return await self._reader.read(epoch, after, block=limit, count=PAGE)
        except StreamLost as error:
            # Not told yet: a connection that was cut is often good again at once.
            logger.info("log %s: Redis was lost: %s", self._log, error)
            self.up, self._try_at = False, 0.0
            return []

    def late(self, why: str) -> None:
        """The stream is behind the log, or holds what the log doesn't."""
        self.up, self._late, self._try_at = False, True, time.monotonic() + LOOK
        self._warn(why)

    async def is_up(self, epoch: int, last: int) -> bool:
        """Whether to read from Redis. After a loss it is asked again, after a second first, then less often."""
        if self.up or time.monotonic() < self._try_at:
            return self.up
        try:
            with anyio.fail_after(PROBE):
                entry = await self._reader.last(epoch)
        except (StreamLost, TimeoutError) as error:
            self._warn(str(error) or "no answer")
        else:
            # Empty is good after a restart of Redis: the relay fills it with the next event, and the hole shows.
            self.up = not self._late if entry is None else entry.event is not None and entry.position >= last
        self._pause = LOOK if self.up else min(2 * self._pause, 4 * LOOK)
        self._try_at = time.monotonic() + self._pause
        if self.up:
            self._late = False
            if self._warned:
                self._warned = False
                logger.warning("log %s: Redis is back, consumers read from it", self._log)
        return self.up

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("log %s: Redis does not serve, consumers read from PostgreSQL: %s", self._log, why)

    async def aclose(self) -> None:
        await self._reader.aclose()


def _entry(raw: Any, epoch: int) -> Entry:
    ident, fields = raw
    position, _, part = ident.partition(b"-")
    entry = Entry(int(position), None)
    if part != b"0" or fields is None:
        return entry
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    try:
        event = decode_event(values[b"event"])
    except (KeyError, ValueError, OverflowError, msgspec.MsgspecError):
        return entry
    genuine = (
        event.position == entry.position
        and values.get(b"job") == event.job_id.encode()
        and values.get(b"cursor") == cursor_of(event, epoch).encode()
    )
    return Entry(entry.position, event) if genuine else entry
