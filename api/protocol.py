"""The edge of HTTP: uvicorn's httptools protocol with bounds on what a client may make us hold.

What the application gets of a connection stands in the scope, for routes that outlive a request and answer:

    connection: Connection = scope["headway.connection"]
    connection.on_lost(wake)        # no receive() watcher is needed
    if connection.pending() > 256 * 1024: connection.abort()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

CONNECTION: Final = "headway.connection"


class Connection(Protocol):
    """A client's connection, as a stream needs it. Only in the event loop of the server."""

    def abort(self) -> None:
        """End it at once; what was not sent yet is thrown away. Doing it twice is no error."""

    def on_lost(self, callback: Callable[[], object] | None) -> None:
        """Call `callback()` once, when the connection is lost, whoever ends it; at once if it is lost already.

        One callback at a time: the next one takes its place, None takes it away. It must not raise.
        """

    def pending(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""

    def write(self, data: bytes) -> None:
        """Bytes onto the wire as they are, without waiting. Only while an answer is on its way, after its head;
        framing (`Transfer-Encoding: chunked`) is the caller's. Written to a lost connection they go nowhere."""
