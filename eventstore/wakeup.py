"""When may a log have moved? NOTIFY tells it early, polling at the latest: a wake-up is a hint, never news.

    async with bell(url, log_id) as told:
        while True:
            if read_more():
                told.found()
            await told.wait()

One LISTEN connection serves all bells of a process (of an event loop) and database. No task runs for it: the loop
calls back when its socket has something. It is opened again when it died, also when it died without a word.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
import psycopg
from psycopg import sql

from eventstore.connections import TCP_USER_TIMEOUT

logger = logging.getLogger("headway.wakeup")

CHANNEL: Final = "headway"
"""The channel of every append; the payload is `LOG_ID HEAD`."""
POLL: Final = 0.5  # seconds between looks at the latest
FIRST_POLL: Final = 0.05  # seconds between looks right after news, while nothing listens
CONNECT: Final = 0.2  # seconds that an attempt to listen needs at least
MISSES: Final = 3  # news in a row that no NOTIFY told of, before the connection is taken for dead
RETRY: Final = 0.5, 30.0  # seconds between attempts to listen that failed or told nothing: at first, at most

_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Listener]] = WeakKeyDictionary()


@asynccontextmanager
async def bell(url: str, log_id: int, *, listen: bool = True) -> AsyncIterator[Bell]:
    """A bell for one log. `listen=False` polls only, as behind a transaction pooler.

    Never fails for the database's sake: while nothing can listen, it polls.
    """
    told = Bell(url, log_id, listen=listen)
    try:
        yield told
    finally:
        told.close()


class Bell:
    """Waits for news of one log, for one reader, in the event loop in which it is made. See `bell`."""

    def __init__(self, url: str, log_id: int, *, listen: bool = True) -> None:
        self._log_id = log_id
        self._listener = _Listener.shared(url) if listen else None
        if self._listener is not None:
            self._listener.bells.add(self)
        self._rung = asyncio.Event()
        self._head = 0
        self._pause = FIRST_POLL
        self._told = True
        self._misses = 0

    async def wait(self, *, after: int = 0, limit: float = math.inf) -> bool:
        """Wait until the log is said to be beyond position `after`, or until it is time to look: 0.5 s at the latest.

        `limit` (seconds) may ask for less. True: a NOTIFY said so. Either way the reader must look, and call `found`
        if there was something. What rang since the last call counts: nothing is lost between two calls, and nothing
        said twice.
        """
        end = time.monotonic() + limit
        if self._listener is not None:
            await self._listener.ensure(min(limit, POLL))
        listening = self._listener is not None and self._listener.listening
        pause = min(POLL if listening else self._pause, max(end - time.monotonic(), 0))
        deadline = time.monotonic() + pause
        self._told = False
        while not self._told and (left := deadline - time.monotonic()) > 0:
            with anyio.move_on_after(left):
                await self._rung.wait()
            self._told = self._rung.is_set() and self._head > after
            self._rung.clear()
        if not self._told:
            self._pause = min(2 * self._pause, POLL)
        return self._told

    def found(self) -> None:
        """Say that the last look found news."""
        self._pause = FIRST_POLL
        if self._told or self._listener is None or not self._listener.listening:
            self._misses = 0
            return
        self._misses += 1
        if self._misses >= MISSES:
            self._misses = 0
            self._listener.lost("it told nothing of the last appends")

    def ring(self, log_id: int, head: int) -> None:
        if log_id == self._log_id:
            self._head = head
            self._rung.set()

    def close(self) -> None:
        """Stop listening, if nobody else does it here."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.leave(self)


class _Listener:
    """The LISTEN connection of an event loop, while somebody has a bell."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._fd = -1
        self._opening = False
        self._failures = 0  # since the last notification
        self._retry_at = 0.0
        self._warned = False
        self.bells: set[Bell] = set()

    @classmethod
    def shared(cls, url: str) -> _Listener:
        here = _listeners.setdefault(asyncio.get_running_loop(), {})
        if url not in here:
            here[url] = cls(url)
        return here[url]

    def leave(self, told: Bell) -> None:
        self.bells.discard(told)
        if not self.bells:
            _listeners.get(self._loop, {}).pop(self._url, None)
            self.close()

    @property
    def listening(self) -> bool:
        return self._conn is not None

    async def ensure(self, budget: float) -> None:
        """Open the connection if there is none, within `budget` seconds; one tries, the others poll meanwhile."""
        if self._conn is not None or self._opening or budget < CONNECT or time.monotonic() < self._retry_at:
            return
        self._opening = True
        conn: psycopg.AsyncConnection[Any] | None = None
        try:
            with anyio.fail_after(budget):
                conn = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    application_name="headway listen",
                    keepalives_idle=5,
                    keepalives_interval=2,
                    keepalives_count=2,
                    tcp_user_timeout=TCP_USER_TIMEOUT,
                    prepare_threshold=None,
                )
                await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        except TimeoutError:
            self._failed(f"no answer within {budget:g} s")
        except (psycopg.Error, OSError) as error:
            self._failed(str(error).strip() or type(error).__name__)
        else:
            if self.bells:
                self._opened(conn)
                conn = None
        finally:
            self._opening = False
            if conn is not None:
                conn.pgconn.finish()

    def _opened(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn, self._fd = conn, conn.fileno()
        self._loop.add_reader(self._fd, self._readable)
        if self._warned:
            self._warned = False
            logger.warning("notifications of PostgreSQL are back")
        # What was appended before LISTEN took effect rang for nobody.
        for told in self.bells:
            told.ring(told._log_id, 2**62)

    def _failed(self, why: str) -> None:
        self._later()
        if not self._warned:
            self._warned = True
            logger.warning("no notifications of PostgreSQL, polling instead: %s", why)

    def _later(self) -> None:
        """The next attempt: at once after the first loss, then less and less often."""
        if self._failures:
            delay = min(RETRY[0] * 2 ** min(self._failures - 1, 10), RETRY[1])
            self._retry_at = time.monotonic() + delay * random.uniform(0.5, 1)  # noqa: S311 - jitter, not a secret
        self._failures += 1

    def _readable(self) -> None:
        assert self._conn is not None
        pgconn = self._conn.pgconn
        try:
            pgconn.consume_input()
            while (note := pgconn.notifies()) is not None:
                self._tell(note.extra)
        except psycopg.Error as error:
            self.lost(str(error).strip())

    def _tell(self, payload: bytes) -> None:
        log_id, _, head = payload.partition(b" ")
        if not (log_id.isdigit() and head.isdigit() and len(payload) < 40):
            return  # anybody may notify
        self._failures = 0
        for told in self.bells:
            told.ring(int(log_id), int(head))

    def lost(self, why: str) -> None:
        """Take the connection for dead: close it, and open it again at the next wait."""
        logger.info("the LISTEN connection is opened again: %s", why)
        self.close()
        self._later()

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            self._loop.remove_reader(self._fd)
            conn.pgconn.finish()
