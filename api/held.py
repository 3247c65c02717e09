"""A transport that can hold back an answer's head until its body follows."""

from __future__ import annotations

import asyncio
from typing import Any


class HoldingTransport:
    """Writes through to another transport, except between `hold` and `release`: then once, at `release`.

    uvicorn writes head and body one by one; each is a system call, and a packet that wakes the other side.
    """

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: list[bytes] | None = None

    def hold(self) -> None:
        """Keep what is written from now on. What is held is nowhere else: `release` must follow at once."""
        self._held = []

    def release(self) -> None:
        """Write what was held."""
        held, self._held = self._held, None
        if held:
            self._transport.write(b"".join(held))

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def close(self) -> None:
        self.release()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
