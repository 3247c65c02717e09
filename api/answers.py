"""Answers of the reading routes: JSON, entity tags, compression. What is worth packing is packed in the thread that
read it, never on the event loop.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Final

from litestar import Request, Response
from litestar.datastructures import State

from api.requests import Exchange
from api.services import Services, Tenant

JSON: Final = "application/json"
WORTH_PACKING: Final = 1024  # bytes
LEVEL: Final = 5
NO_STORE: Final = "no-store"
REVALIDATE: Final = "private, no-cache"
"""May be kept, and must be asked about by its tag before it is shown again."""

Asked = Request[None, None, State]


def services_of(request: Asked) -> Services:
    """What a Litestar route of this process works with."""
    services: Services = request.app.state["services"]
    return services


def exchange_of(request: Asked) -> Exchange:
    """The request that a Litestar route answers."""
    exchange: Exchange = request.scope["headway"]  # type: ignore[typeddict-item]
    return exchange


def asked(request: Asked) -> tuple[Exchange, Tenant]:
    """The request, and the log of who sent it."""
    exchange = exchange_of(request)
    return exchange, services_of(request).tenant(exchange.principal)


def packs(exchange: Exchange) -> bool:
    """Whether the caller takes gzip (RFC 9110, 12.5.3)."""
    given = exchange.header(b"accept-encoding")
    if given is None:
        return False
    best: dict[str, float] = {}
    for part in given.lower().split(","):
        coding, _, weight = part.partition(";")
        try:
            quality = float(weight.strip().removeprefix("q=") or 1)
        except ValueError:
            quality = 0.0
        best[coding.strip()] = quality
    return best.get("gzip", best.get("*", 0.0)) > 0


class Packer:
    """A stream of gzip: what was given so far can be read by the other side after each piece."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(LEVEL, wbits=31)

    def add(self, piece: bytes) -> bytes:
        return self._deflate.compress(piece) + self._deflate.flush(zlib.Z_SYNC_FLUSH) if piece else b""

    def end(self) -> bytes:
        return self._deflate.flush()


def packed(body: bytes) -> bytes:
    """The whole of it as gzip."""
    deflate = zlib.compressobj(LEVEL, wbits=31)
    return deflate.compress(body) + deflate.flush()


def tag_of(body: bytes) -> str:
    """A weak entity tag of an answer: the same for each way in which it may be packed."""
    return f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def is_known(exchange: Exchange, tag: str) -> bool:
    """Whether the caller has it already (`If-None-Match`, compared weakly)."""
    given = exchange.header(b"if-none-match")
    if given is None:
        return False
    opaque = tag.removeprefix("W/")
    return given.strip() == "*" or any(part.strip().removeprefix("W/") == opaque for part in given.split(","))


class Body:
    """An encoded answer, packed if that is wished and helps. Made in the thread that reads."""

    __slots__ = ("content", "link", "packed", "tag")

    def __init__(self, content: bytes, *, pack: bool, tag: str | None = None, next_page: str | None = None) -> None:
        self.link = None if next_page is None else f'<{next_page}>; rel="next"'
        self.tag = tag_of(content) if tag is None else tag
        self.packed = pack and len(content) >= WORTH_PACKING
        self.content = packed(content) if self.packed else content

    def headers(self, cache: str) -> dict[str, str]:
        found = {"cache-control": cache, "etag": self.tag, "vary": "accept, accept-encoding, authorization"}
        if self.link is not None:
            found["link"] = self.link
        return found

    def reply(self, exchange: Exchange, cache: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content: 200 with the body, or 304 without it for who has it already."""
        headers = self.headers(cache)
        if is_known(exchange, self.tag):
            return 304, headers, b""
        if self.packed:
            headers["content-encoding"] = "gzip"
        return 200, headers, self.content


def answer(exchange: Exchange, body: Body, *, cache: str = REVALIDATE, kind: str = JSON) -> Response[bytes]:
    """`Body.reply` for Litestar routes."""
    status, headers, content = body.reply(exchange, cache)
    return Response(content, status_code=status, headers=headers, media_type=kind)


async def respond(exchange: Exchange, body: Body, *, cache: str = REVALIDATE) -> None:
    """`Body.reply` for ASGI routes."""
    status, headers, content = body.reply(exchange, cache)
    pairs = [(name.encode(), value.encode()) for name, value in (("content-type", JSON), *headers.items())]
    await exchange.respond(status, content, pairs)
