"""One connection to Redis or Valkey, and its scripts. Errors become `PublisherUnavailable`; who calls retries."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import hiredis
import redis.asyncio
import redis.exceptions
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from eventstore.publishers import PublisherUnavailable

Word = bytes | str | int

TIMEOUT: Final = 5.0
"""Seconds for an answer, and for a connection: a peer that vanished is found in less than ten."""
_HERE: Final = Path(__file__).parent
_KEEPALIVE: Final = {
    number: seconds
    for name, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 2))
    if (number := getattr(socket, name, None)) is not None
}


class Script:
    """A Lua function of this folder, known to the server by its digest."""

    def __init__(self, file: str) -> None:
        self.source = (_HERE / file).read_text("utf-8")
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """Connects on first use, and again after any error; `aclose` forgets, so that another event loop may go on with it.

    Below redis-py's client, on its connection: with commands of a thousand entries the client's own packing and
    bookkeeping would cost as much as everything else that the relay does.
    """

    def __init__(self, url: str) -> None:
        # Over a unix socket there is no keepalive to set.
        keepalive = {} if url.startswith("unix") else {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        self._pool = redis.asyncio.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            client_name="headway-relay",
            **keepalive,
        )
        self._conn: AbstractConnection | None = None

    async def command(self, *words: Word) -> Any:
        """One command. Raises `PublisherUnavailable`, whatever the server or the network said."""
        return _checked(await self._ask([words]))[0]

    async def run(self, script: Script, keys: list[str], arguments: list[Word]) -> Any:
        """A script with its arguments."""
        return (await self.run_all(script, keys, [arguments]))[0]

    async def run_all(self, script: Script, keys: list[str], calls: list[list[Word]]) -> list[Any]:
        """A script several times: all calls are sent before the first answer is awaited; the answers, in order."""
        commands: list[tuple[Word, ...]] = [("EVALSHA", script.digest, len(keys), *keys, *call) for call in calls]
        answers = await self._ask(commands)
        if all(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            await self.command("SCRIPT", "LOAD", script.source)
            answers = await self._ask(commands)
        return _checked(answers)

    async def _ask(self, commands: list[tuple[Word, ...]]) -> list[Any]:
        """The answers, errors of the server among them."""
        try:
            if self._conn is None:
                self._conn = self._pool.make_connection()  # type: ignore[no-untyped-call]
                await self._conn.connect()
            for words in commands:  # one by one: the server works on the first while the next is packed
                await self._conn.send_packed_command(_pack(words))
            return [await self._answer(self._conn) for _ in commands]
        except (redis.exceptions.RedisError, OSError) as error:
            await self.aclose()
            raise _unavailable(error) from error
        except BaseException:
            # Cancelled with an answer on its way: the next command must not get it.
            await self.aclose()
            raise

    async def _answer(self, conn: AbstractConnection) -> Any:
        try:
            return await conn.read_response()
        except redis.exceptions.ResponseError as error:
            return error

    async def aclose(self) -> None:
        """Close the connection without waiting for the other side."""
        conn, self._conn = self._conn, None
        if conn is not None:
            with anyio.CancelScope(shield=True):
                await conn.disconnect(nowait=True)


_pack: Final[Callable[[tuple[Word, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise _unavailable(answer) from answer
    return answers


def _unavailable(error: Exception) -> PublisherUnavailable:
    return PublisherUnavailable(f"Redis: {str(error).strip() or type(error).__name__}")
