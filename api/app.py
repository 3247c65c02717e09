"""The ASGI application: who asks, whether they may, then the route. Litestar answers the JSON routes; appends and
streams are ASGI handlers of their own, for speed.

    outside in:  lifespan · request id · access log, metrics · CORS · route (404, 405) · key (401) · scope (403) ·
                 handler · problem documents
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from litestar import Litestar
from litestar.types import ASGIApp

from api.auth import Principal, StreamGrant
from api.cors import Cors, is_near
from api.key_table import has_key
from api.problems import Forbidden, MalformedRequest, MethodNotAllowed, NotFound, Stopping, Unauthorized
from api.requests import MAX_PARAMETERS, ASGIScope, ClientGone, Exchange, Receive, Send
from api.routes import Route, docs, find, history, ingest, jobs, operations, time_travel, tokens
from api.routes.errors import to_response
from api.services import Services
from api.streams import handlers as streams
from api.tokens import token_in
from eventstore.codec import check_job_id

Handler = Callable[[Services, Exchange], Awaitable[None]]

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_WAITED_FOR: Final = (
    "the server stops and waits for this no longer; whether an append was written is not known: retry with the same ids"
)

RAW: Final[dict[tuple[str, str], Handler]] = {
    ("POST", "/v1/jobs/{job}/events"): ingest.append_to_job,
    ("POST", "/v1/events"): ingest.append_to_many,
    ("GET", "/v1/jobs/{job}/events"): history.of_job,
    ("GET", "/v1/events"): history.of_log,
    ("GET", "/v1/jobs/{job}/stream"): streams.job_stream,
    ("GET", "/v1/stream"): streams.log_stream,
}


class App:
    """The whole application for one `Services`."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._cors = Cors(services.settings.cors_origins)
        self._ours, self._count = secrets.token_hex(4), itertools.count(1)
        self._litestar: ASGIApp = make_litestar(services)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._litestar(scope, receive, send)  # type: ignore[arg-type]
            return
        exchange = Exchange(scope, receive, send, "")
        given = exchange.header(b"x-request-id")
        harmless = given is not None and _REQUEST_ID.fullmatch(given)
        exchange.request_id = given if given is not None and harmless else f"{self._ours}-{next(self._count):x}"
        scope["headway"] = exchange
        try:
            await self._answer(exchange)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if exchange.answered or not self.services.stopping.is_set():
                raise
            await exchange.refuse(Stopping(_NOT_WAITED_FOR))
        except Exception as error:
            if exchange.answered:
                raise
            await exchange.refuse(error)
        finally:
            seconds = time.perf_counter() - exchange.started
            if exchange.events is None or exchange.status >= 400:
                self.services.metrics.request(exchange.method, exchange.route, exchange.status, seconds)
            if self.services.access_log is not None:
                self.services.access_log.add(exchange, seconds)

    async def _answer(self, exchange: Exchange) -> None:
        if exchange.scope["query_string"].count(b"&") >= MAX_PARAMETERS:
            raise MalformedRequest(f"the query has more than {MAX_PARAMETERS} parameters", field="query")
        if self._cors:
            exchange.extra += self._cors.headers(exchange.header(b"origin"))
        found = find(exchange.path)
        if found is None:
            raise NotFound(f"there is no {exchange.path[:200]!r} here: see /docs")
        methods, variable = found
        route, head = methods.get(exchange.method), exchange.method == "HEAD"
        if route is None and head and (found_get := methods.get("GET")) is not None and not found_get.stream:
            route = found_get
        if route is None:
            if self._cors and exchange.method == "OPTIONS" and exchange.header(b"access-control-request-method"):
                exchange.extra = []
                await exchange.respond(204, b"", self._cors.preflight(exchange.header(b"origin"), methods))
                return
            raise MethodNotAllowed(exchange.method, ", ".join(sorted(methods)))
        exchange.route = route.path
        if route.scopes is not None:
            exchange.principal = who = await self._authenticate(exchange, route)
            if not who.may(*route.scopes):
                wanted = " or ".join(sorted(route.scopes))
                raise Forbidden(f"this needs a key with the scope {wanted}", scopes=sorted(route.scopes))
            if variable is not None:
                exchange.job_id = check_job_id(variable)
                if not who.sees(variable) and not (exchange.grant is not None and exchange.grant.expired):
                    raise NotFound(who.says_absent(variable))
        raw = RAW.get((route.method, route.path))
        if raw is not None:
            await raw(self.services, exchange)
        else:
            scope = {**exchange.scope, "method": "GET"} if head else exchange.scope
            await self._litestar(scope, exchange.receive, exchange.send)  # type: ignore[arg-type]

    def _shows_token(self, exchange: Exchange, authorization: str | None) -> bool:
        """Whether a request for something else than a stream comes with a text of the form of a stream token."""
        if authorization is None and not self.services.keys.keyless:
            with suppress(MalformedRequest):  # who has no key hears of that first
                authorization = f"Bearer {exchange.parameter('token') or ''}"
        return authorization is not None and token_in(authorization) is not None

    async def _authenticate(self, exchange: Exchange, route: Route) -> Principal:
        """Who asks: by a key in the header; on streams by a token, there or in the address. Raises `Unauthorized`."""
        if b"hw" in exchange.scope["query_string"] and has_key(exchange.scope["query_string"]):
            raise Unauthorized(
                "a key does not belong in an address, where logs keep it: revoke it, send it as a header"
            )
        authorization = exchange.single(b"authorization")
        if route.stream:
            token = exchange.parameter("token") if authorization is None else token_in(authorization)
            if token is not None:
                exchange.grant = await self.services.tokens.read(token)
                return exchange.grant.principal
        elif self._shows_token(exchange, authorization):
            raise Unauthorized("a stream token opens streams only: for this route send a key")
        who = await self.services.keys.authenticate(authorization)
        if who.key_id is None and not is_near(exchange.header(b"host") or ""):
            raise Forbidden(
                "without a key this server answers to localhost and addresses only: send a key, or ask there"
            )
        if route.stream:
            exchange.grant = StreamGrant(principal=who)
        return who


def make_litestar(services: Services) -> ASGIApp:
    """The JSON routes. Their handlers find the exchange in the scope, and the services in the state."""
    app = Litestar(
        route_handlers=[*jobs.HANDLERS, *time_travel.HANDLERS, *docs.HANDLERS, *operations.HANDLERS, *tokens.HANDLERS],
        exception_handlers={Exception: to_response},
        openapi_config=None,
        logging_config=None,
    )
    app.state["services"] = services
    return app
