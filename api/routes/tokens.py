"""`POST /v1/stream-tokens`: what a page's own server asks for, so that the page can open streams."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec
from litestar import Request, post
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from api.problems import MalformedRequest
from api.requests import Exchange
from api.services import Services

BODY: Final = 16 * 1024  # bytes


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which streams the token is for: these `jobs`, or all whose id begins with `prefix` (default: all that the key may
    see). `ttl`: seconds that it is good for (default and most: the server's setting, 15 min).
    """

    jobs: list[str] | None = None
    prefix: str = ""
    ttl: int | None = None


class StreamToken(msgspec.Struct, frozen=True, kw_only=True):
    """Put it into the address of a stream: `/v1/jobs/JOB/stream?token=…`. Get the next one before `expires_at`."""

    token: str
    expires_at: datetime


_decode: Final = msgspec.json.Decoder(TokenRequest).decode


@post("/v1/stream-tokens", status_code=201, summary="A short-lived token for streams in a browser")
async def create(request: Request[None, None, State]) -> StreamToken:
    """A token that opens and reopens streams until it expires, for EventSource, which can't send a key."""
    services: Services = request.app.state["services"]
    exchange: Exchange = request.scope["headway"]  # type: ignore[typeddict-item]
    body = await exchange.body(BODY)
    try:
        wanted = _decode(body) if body.strip() else TokenRequest()
    except msgspec.ValidationError as error:
        raise MalformedRequest(str(error)) from None
    except msgspec.DecodeError as error:
        raise MalformedRequest(f"the body is no JSON: {error}") from None
    if wanted.jobs is not None and wanted.prefix:
        raise MalformedRequest("give jobs or prefix, not both", field="prefix")
    exchange.extra.append((b"cache-control", b"no-store"))
    token, end = await services.tokens.mint(exchange.principal, jobs=wanted.jobs, prefix=wanted.prefix, ttl=wanted.ttl)
    return StreamToken(token=token, expires_at=datetime.fromtimestamp(end, tz=UTC))


HANDLERS: Final[list[HTTPRouteHandler]] = [create]
