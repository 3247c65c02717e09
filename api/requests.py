"""One HTTP exchange as the routes see it: what came, who sent it, and how to answer. Thin over ASGI, no magic."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from api.auth import Principal, StreamGrant
from api.problems import MalformedRequest, TooLarge, Unauthorized, problem_of
from api.protocol import CONNECTION, Connection

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIScope = MutableMapping[str, Any]

BODY_LIMIT: Final = 1024 * 1024  # bytes
BODY_PATIENCE: Final = 10.0  # seconds for the whole body
MAX_PARAMETERS: Final = 100

ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?")


class ClientGone(Exception):
    """The other side went away before the request was whole; nobody is left to be answered."""


class Exchange:
    """A request and its answer. Found by every route under `scope["headway"]`.

    `request_id` is the caller's `X-Request-Id` if it is harmless, else ours; it is in the answer, the access log and in
    problem documents. `status`, `sent` (bytes of body) and `events` (sent by a stream; None for other routes) are for
    the access log.
    """

    __slots__ = (
        "_headers", "_principal", "_query", "_send", "events", "extra", "grant", "job_id", "receive", "request_id",
        "route", "scope", "sent", "started", "status",
    )  # fmt: skip

    def __init__(self, scope: ASGIScope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope, self.receive, self._send, self.request_id = scope, receive, send, request_id
        self._headers: dict[bytes, bytes] | None = None
        self._query: dict[str, list[str]] | None = None
        self._principal: Principal | None = None
        self.grant: StreamGrant | None = None
        """Of routes that take stream tokens: what may be seen, and until when."""
        self.extra: list[tuple[bytes, bytes]] = []
        """Headers of every answer to this request."""
        self.job_id: str | None = None
        self.route = "-"
        self.started = time.perf_counter()
        self.status, self.sent = 0, 0
        self.events: int | None = None

    # -- what came --------------------------------------------------------------------------------------------------

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: bytes) -> str | None:
        """A header by its name in lower case; the last one if it stands twice."""
        headers = self._headers
        if headers is None:
            headers = self._headers = dict(self.scope["headers"])
        value = headers.get(name)
        return None if value is None else value.decode("latin-1")

    def single(self, name: bytes) -> str | None:
        """A header that may stand once. Raises `MalformedRequest` if it stands twice."""
        value = self.header(name)
        if value is not None and sum(key == name for key, _ in self.scope["headers"]) > 1:
            raise MalformedRequest(f"{name.decode()}: send it once", field=name.decode())
        return value

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the address; blank ones too. Raises `MalformedRequest` for what is no UTF-8."""
        if self._query is None:
            found: dict[str, list[str]] = {}
            text = self.scope["query_string"].decode("latin-1")
            try:
                pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
            except (ValueError, UnicodeDecodeError):
                raise MalformedRequest(
                    f"the query is no UTF-8, or has more than {MAX_PARAMETERS} parameters", field="query"
                ) from None
            for name, value in pairs:
                found.setdefault(name, []).append(value)
            self._query = found
        return self._query

    def parameter(self, name: str) -> str | None:
        """A parameter that may stand once. Raises `MalformedRequest` if it stands twice."""
        values = self.query.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise MalformedRequest(f"{name}: give it once", field=name)
        return values[0]

    @property
    def principal(self) -> Principal:
        if self._principal is None:
            raise Unauthorized
        return self._principal

    @principal.setter
    def principal(self, who: Principal) -> None:
        self._principal = who

    @property
    def known(self) -> Principal | None:
        """Who asks, if that is known by now."""
        return self._principal

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of the caller, if it is one."""
        given = self.header(b"traceparent")
        return given if given is not None and _TRACEPARENT.fullmatch(given) else None

    async def body(self, limit: int = BODY_LIMIT, patience: float = BODY_PATIENCE) -> bytes:
        """The whole body. Raises `TooLarge` as soon as it is, `ClientGone`; it has `patience` seconds to arrive."""
        length = self.header(b"content-length")
        if length is not None and length.isdecimal() and int(length) > limit:
            raise TooLarge(limit)
        connection: Connection = self.scope[CONNECTION]
        whole = connection.arrived(self.scope)
        if whole is not None:
            if len(whole) > limit:
                raise TooLarge(limit)
            return whole
        parts, size = [], 0
        try:
            async with asyncio.timeout(patience):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise TooLarge(limit)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise MalformedRequest(
                f"the body did not arrive within {patience:g} s", headers={"connection": "close"}
            ) from None

    # -- the answer -------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """ASGI's `send`, with our headers on every answer, and counted for the access log."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()), (b"x-request-id", self.request_id.encode()), *ALWAYS, *self.extra,
            ]  # fmt: skip
        elif self.scope["method"] == "HEAD":
            await self._send({"type": "http.response.body", "body": b""})
            if message.get("more_body", False):
                raise ClientGone
            return
        elif message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
        await self._send(message)

    @property
    def answered(self) -> bool:
        """Whether the answer began."""
        return self.status != 0

    async def respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """A whole answer at once."""
        length = (b"content-length", b"%d" % len(body))
        connection: Connection = self.scope[CONNECTION]
        connection.hold()
        try:
            await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
            await self.send({"type": "http.response.body", "body": body})
        finally:
            connection.release()

    async def refuse(self, error: Exception) -> None:
        """The problem document of an error."""
        problem = problem_of(error, self.request_id)
        await self.respond(
            problem.status, problem.body, [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        )
