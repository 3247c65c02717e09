"""`Link`: the way to one client. Written to by the hub while the client keeps up, else by its own task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from api.protocol import CONNECTION
from api.protocol import Connection as Wire
from api.requests import Exchange

HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Link:
    """An answer that goes on for long. `on_lost` is called once when the client is gone.

    `written` counts bytes that were handed over; less `pending()`, the client's kernel has them. `sending`: the task is
    on its way with something, so nobody else may write.
    """

    __slots__ = ("_chunked", "_exchange", "_watch", "_wire", "begun", "lost", "sending", "written")

    def __init__(self, exchange: Exchange, on_lost: Callable[[], object]) -> None:
        self._exchange = exchange
        self._chunked = exchange.scope.get("http_version") == "1.1"
        self._wire: Wire | None = exchange.scope.get(CONNECTION)
        self._watch: asyncio.Task[None] | None = None
        self.begun = self.sending = self.lost = False
        self.written = 0

        def lost() -> None:
            self.lost = True
            on_lost()

        if self._wire is not None:
            self._wire.on_lost(lost)
        else:
            self._watch = asyncio.get_running_loop().create_task(self._until_gone(lost))

    async def _until_gone(self, lost: Callable[[], None]) -> None:
        while (await self._exchange.receive())["type"] != "http.disconnect":
            pass
        lost()

    def detach(self) -> None:
        """The answer is over: stop listening for the loss."""
        if self._wire is not None:
            self._wire.on_lost(None)
        if self._watch is not None:
            self._watch.cancel()

    # -- without waiting --------------------------------------------------------------------------------------------

    @property
    def direct(self) -> bool:
        """Whether `write` can be used at all."""
        return self._wire is not None and self._chunked

    def pending(self) -> int:
        """Bytes that were handed over and that the kernel has not taken yet."""
        return 0 if self._wire is None else self._wire.pending()

    def write(self, chunk: bytes) -> None:
        """A chunk of HTTP/1.1, framed already. Only if `direct`, after the head, and while nothing is `sending`."""
        assert self._wire is not None
        self._wire.write(chunk)
        self.written += len(chunk)
        self._exchange.sent += len(chunk)

    def abort(self) -> None:
        """Cut the connection; what is on its way is thrown away."""
        if self._wire is not None:
            self._wire.abort()

    # -- by the client's own task -----------------------------------------------------------------------------------

    async def begin(self) -> None:
        """The head of the answer."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})

    async def send(self, body: bytes) -> None:
        """A part of the answer, whole frames; waits first until there is room. To a lost client it goes nowhere."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """The last part."""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send(self, message: dict[str, Any]) -> None:
        self.sending = True
        try:
            await self._exchange.send(message)
            self.written += len(message.get("body", b""))
        finally:
            self.sending = False
