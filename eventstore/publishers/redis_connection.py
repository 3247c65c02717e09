"""One connection to Redis or Valkey, and its scripts. Errors become `PublisherUnavailable`; who calls retries."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from eventstore.publishers import PublisherUnavailable

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
    """Connects on first use; `aclose` forgets, so that another event loop may go on with it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: redis.asyncio.Redis | None = None

    @property
    def client(self) -> redis.asyncio.Redis:
        if self._client is None:
            # Over a unix socket there is no keepalive to set.
            keepalive: dict[str, Any] = (
                {}
                if self._url.startswith("unix")
                else {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
            )
            self._client = redis.asyncio.Redis.from_url(
                self._url,
                max_connections=1,
                protocol=2,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                retry=Retry(NoBackoff(), 0),
                health_check_interval=0,
                client_name="headway-relay",
                **keepalive,
            )
        return self._client

    async def command(self, *words: bytes | str | int) -> Any:
        """One command. Raises `PublisherUnavailable`, whatever the server or the network said."""
        return await self._tried(*words)

    async def run(self, script: Script, keys: list[str], arguments: list[bytes | str | int]) -> Any:
        """A script, sent once if the server does not know it."""
        try:
            return await self._tried("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except _Unknown:
            return await self._tried("EVAL", script.source, len(keys), *keys, *arguments)

    async def _tried(self, *words: bytes | str | int) -> Any:
        execute: Callable[..., Awaitable[Any]] = self.client.execute_command
        try:
            return await execute(*words)
        except redis.exceptions.NoScriptError:
            raise _Unknown("the script is not known") from None
        except (redis.exceptions.RedisError, OSError) as error:
            raise PublisherUnavailable(f"Redis: {str(error).strip() or type(error).__name__}") from error

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                await client.aclose()
            except (redis.exceptions.RedisError, OSError, RuntimeError):
                pass  # it is gone either way; RuntimeError: its event loop is


class _Unknown(PublisherUnavailable):
    """The server was restarted or flushed its scripts."""
