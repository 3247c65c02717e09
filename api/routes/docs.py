"""The documentation: the OpenAPI document, the pages made from it, and what each problem means."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from api.answers import JSON, Asked, Body, answer, exchange_of, packs, services_of
from api.openapi import document
from api.openapi.page import POLICY, docs_page, index_page, problem_page
from api.openapi.problems import kinds
from api.parameters import read
from api.problems import NotAcceptable, NotFound
from api.requests import Exchange
from eventstore.errors import shorten

HTML: Final = "text/html"
PUBLIC: Final = "no-cache"
_SAFE: Final = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
_encode: Final = msgspec.json.Encoder().encode


def _exchange(request: Asked) -> Exchange:
    exchange = exchange_of(request)
    read(exchange, ())
    return exchange


def _about(request: Asked) -> dict[str, Any]:
    """What the document depends on."""
    services = services_of(request)
    return {"keyless": services.keys.keyless, "token_ttl": services.settings.token_ttl}


@lru_cache(maxsize=4)
def _document(*, pack: bool, **about: Any) -> Body:
    return Body(_encode(document(**about)), pack=pack)


@lru_cache(maxsize=4)
def _docs(*, pack: bool, **about: Any) -> Body:
    return Body(docs_page(document(**about), kinds()).encode(), pack=pack)


@get("/openapi.json")
async def openapi(request: Asked) -> Response[bytes]:
    exchange = _exchange(request)
    return answer(exchange, _document(pack=packs(exchange), **_about(request)), cache=PUBLIC)


@get("/docs")
async def docs(request: Asked) -> Response[bytes]:
    exchange = _exchange(request)
    return _page(answer(exchange, _docs(pack=packs(exchange), **_about(request)), cache=PUBLIC, kind=HTML))


@get("/")
async def index(request: Asked) -> Response[bytes]:
    exchange = _exchange(request)
    return _page(answer(exchange, Body(index_page(version("headway")).encode(), pack=False), cache=PUBLIC, kind=HTML))


@get("/problems/{code:str}")
async def problem(request: Asked) -> Response[bytes]:
    exchange = _exchange(request)
    code = exchange.path.rpartition("/")[2]
    kind = next((kind for kind in kinds() if kind.code == code), None)
    if kind is None:
        raise NotFound(f"there is no problem {shorten(code)}: see /docs#problems")
    accept = exchange.header(b"accept") or "*/*"
    if any(form in accept for form in ("text/html", "text/*", "*/*")):
        return _page(answer(exchange, Body(problem_page(kind).encode(), pack=False), cache=PUBLIC, kind=HTML))
    if any(form in accept for form in (JSON, "application/*")):
        return answer(exchange, Body(_encode(kind), pack=False), cache=PUBLIC)
    raise NotAcceptable(f"there are text/html, {JSON} here", formats=["text/html", JSON])


def _page(found: Response[bytes]) -> Response[bytes]:
    found.headers.update(_SAFE)
    return found


HANDLERS: Final[list[HTTPRouteHandler]] = [index, openapi, docs, problem]
