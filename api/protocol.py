"""The edge of HTTP: uvicorn's httptools protocol with bounds on what a client may make us hold.

What the application gets of a connection stands in the scope, for routes that outlive a request and answer:

    connection: Connection = scope["headway.connection"]
    connection.on_lost(wake)        # no receive() watcher is needed
    if connection.pending() > 256 * 1024: connection.abort()

A request's head must be whole within 10 s, has at most 100 headers in 64 KiB and an address of 16 KiB; what is no
clear HTTP/1.1 (two lengths, a length beside chunks, no host) is refused and the connection closed, because whoever
stands before us may have read it differently (RFC 9112, sections 6.1, 6.3 and 11).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from api.held import HoldingTransport
from api.problems import ApiError, HeadersTooLarge, MalformedRequest, Stopping, UriTooLong, kind_of, problem_of
from api.telemetry import Metrics

if TYPE_CHECKING:
    from api.access_log import AccessLog

CONNECTION: Final = "headway.connection"

HEAD_PATIENCE = 10.0  # seconds from a connection's start, or a request's first byte, to the end of the head
HEAD_BYTES: Final = 64 * 1024
URL_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
MAX_PIPELINED: Final = 64  # requests that wait behind the one that is answered


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

    def arrived(self, scope: object) -> bytes | None:
        """The body of the request with this scope if it is here as a whole, else None: then `receive` brings it."""

    def hold(self) -> None:
        """Keep back what is written until `release`, to write it at once."""

    def release(self) -> None:
        """Write what was held back."""


class Edge:
    """What the connections of one server share: their number, and who still owes us a request.

    All have the same patience, so they wait in the order of their deadlines, and one timer serves them all.
    """

    def __init__(self, metrics: Metrics, *, max_connections: int, access_log: AccessLog | None = None) -> None:
        self.metrics = metrics
        self.access_log = access_log
        self.max_connections = max_connections
        self.connections = 0
        self._patience = HEAD_PATIENCE
        self._waiting: dict[HttpProtocol, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def protocol(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> HttpProtocol:
        """A protocol for a new connection, as uvicorn asks for it."""
        return HttpProtocol(self, config, server_state, app_state, _loop)

    def expect(self, protocol: HttpProtocol) -> None:
        """Close the connection unless `settle` is called in time; asking again gives no more time."""
        if protocol not in self._waiting:
            self._waiting[protocol] = protocol.loop.time() + self._patience
            if self._sweep is None:
                self._sweep = protocol.loop.call_later(self._patience / 10, self._close_late, protocol.loop)

    def settle(self, protocol: HttpProtocol) -> None:
        self._waiting.pop(protocol, None)

    def _close_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = []
        for protocol, deadline in self._waiting.items():
            if deadline > now:
                break
            late.append(protocol)
        for protocol in late:
            del self._waiting[protocol]
            self.metrics.refused("late_head")
            protocol.transport.abort()
        self._sweep = loop.call_later(self._patience / 10, self._close_late, loop) if self._waiting else None


class HttpProtocol(HttpToolsProtocol):
    """One connection. Is the `Connection` of its requests' scopes."""

    def __init__(
        self,
        edge: Edge,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._edge = edge
        self._lost: Callable[[], object] | None = None
        self._gone = False
        self._deaf = False
        self._in_head = False
        self._refusal: ApiError | None = None
        self._size = self._fed = self._hosts = 0

    # -- as a stream sees it ----------------------------------------------------------------------------------------

    def abort(self) -> None:
        if self.cycle is not None and not self.pipeline:
            self.cycle.disconnected = True  # else uvicorn logs an answer without an end as the application's fault
        self.transport.abort()

    def on_lost(self, callback: Callable[[], object] | None) -> None:
        if self._gone and callback is not None:
            callback()
        else:
            self._lost = callback

    def pending(self) -> int:
        return 0 if self._gone else self.transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if not self._gone:
            self.transport.write(data)

    def arrived(self, scope: object) -> bytes | None:
        cycle = self.cycle
        return None if cycle.scope is not scope or cycle.more_body or self._gone else bytes(cycle.body)

    def hold(self) -> None:
        self._holding.hold()

    def release(self) -> None:
        self._holding.release()

    # -- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._holding = HoldingTransport(transport)
        super().connection_made(self._holding)  # type: ignore[arg-type]
        edge = self._edge
        edge.connections += 1
        edge.expect(self)
        if edge.connections > edge.max_connections:
            self._refuse(Stopping("this server has as many connections as it may hold: try again later"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._edge.connections -= 1
        self._edge.settle(self)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        was_in_head = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # We speak nothing else. What follows may be meant in another protocol: it is not read as a request.
            self._deaf, self.cycle.keep_alive = True, False
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or MalformedRequest(f"this is no HTTP/1.1 request: {_reason(error)}"))
            return
        if self._in_head and was_in_head:
            self._fed += len(data)
            if self._fed > HEAD_BYTES + URL_BYTES:
                self._refuse(_headers_too_large())
                return
        if self.cycle is None or self.cycle.response_complete:
            self._edge.expect(self)
        else:
            self._edge.settle(self)

    # -- the head ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]
        self._in_head = True
        self._size = self._fed = self._hosts = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._stop(UriTooLong(f"the address is longer than {URL_BYTES:,} bytes", limit=URL_BYTES))

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        self._size += len(name) + len(value) + 4
        if self._size > HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._stop(_headers_too_large())
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._hosts != 1 and (self._hosts or self.parser.get_http_version() != "1.0"):
            self._stop(MalformedRequest("a request needs one Host header", field="host"))
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop(MalformedRequest(f"more than {MAX_PIPELINED} requests wait for an answer on this connection"))
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_head and not self.pipeline and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._edge.expect(self)

    def _stop(self, error: ApiError) -> None:
        """From within the parser, which hands the exception on to `data_received`."""
        self._refusal = error
        raise error

    def _refuse(self, error: ApiError) -> None:
        """Answer with a problem document, if it is this request's turn, and read nothing more."""
        self._deaf = True
        self._edge.metrics.refused(error.code)
        if self._edge.access_log is not None:
            self._edge.access_log.refused(kind_of(error).status, self.client)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if self.pipeline or cycle.response_started or not cycle.more_body:
                # Answers go out in order: what was asked before this is answered, then the connection ends.
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_answer(error))
        if self.transport.can_write_eof():
            # Closed while the other side still sends, the kernel would reset the connection, and the answer be lost.
            self.transport.write_eof()
            self._edge.expect(self)
        else:
            self.transport.close()


def _answer(error: ApiError) -> bytes:
    problem = problem_of(error)
    headers = {
        **problem.headers,
        "x-content-type-options": "nosniff",
        "content-length": str(len(problem.body)),
        "connection": "close",
    }
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
    return b"".join((STATUS_LINE[problem.status], head, b"\r\n", problem.body))


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the headers are more than {MAX_HEADERS} or larger than {HEAD_BYTES:,} bytes", limit=HEAD_BYTES
    )


def _reason(error: httptools.HttpParserError) -> str:
    """What the parser says; of a fault in one of our callbacks nothing."""
    if isinstance(error, httptools.HttpParserCallbackError):
        return "its address can't be read"
    return str(error)
