"""`POST /v1/stream-tokens`: what a page's own server asks for, so that the page can open streams."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import Final

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler

from api.answers import Asked, exchange_of, services_of
from api.problems import MalformedRequest
from eventstore.errors import shorten

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


_decode: Final = msgspec.json.Decoder().decode
_RULES: Final = {"jobs": "a list of job ids", "prefix": "a text", "ttl": "a whole number of seconds"}
assert _RULES.keys() == set(TokenRequest.__struct_fields__)


def _read(body: bytes) -> TokenRequest:
    """What is asked for. Raises `MalformedRequest`, with the field."""
    if not body.strip():
        return TokenRequest()
    try:
        given = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body is no JSON: {error}") from None
    if type(given) is not dict:
        raise MalformedRequest("the body: give an object with jobs or prefix, and ttl; or no body")
    for name, value in given.items():
        if name not in _RULES:
            near = difflib.get_close_matches(name[:50], _RULES, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise MalformedRequest(
                f"{shorten(name)}: there is no such field. {hint}A request for a token has: {', '.join(_RULES)}",
                field=name[:100],
                known=sorted(_RULES),
            )
        try:
            msgspec.convert({name: value}, TokenRequest)
        except msgspec.ValidationError:
            shown, rule = str(shorten(value)), _RULES[name]
            raise MalformedRequest(f"{name}: give {rule}; given {shown}", field=name, given=shown, rule=rule) from None
    return msgspec.convert(given, TokenRequest)


@post("/v1/stream-tokens", status_code=201, summary="A short-lived token for streams in a browser")
async def create(request: Asked) -> StreamToken:
    """A token that opens and reopens streams until it expires, for EventSource, which can't send a key."""
    exchange = exchange_of(request)
    wanted = _read(await exchange.body(BODY))
    if wanted.jobs is not None and wanted.prefix:
        raise MalformedRequest("give jobs or prefix, not both", field="prefix")
    exchange.extra.append((b"cache-control", b"no-store"))
    token, end = await services_of(request).tokens.mint(
        exchange.principal, jobs=wanted.jobs, prefix=wanted.prefix, ttl=wanted.ttl
    )
    return StreamToken(token=token, expires_at=datetime.fromtimestamp(end, tz=UTC))


HANDLERS: Final[list[HTTPRouteHandler]] = [create]
