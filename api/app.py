"""The ASGI application: who asks, whether they may, then the route. Litestar answers the JSON routes; appends and
streams are ASGI handlers of their own, for speed.

    outside in:  lifespan · request id · route (404, 405) · key (401) · scope (403) · handler · problem documents
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from litestar import Litestar
from litestar.types import ASGIApp

from api.auth import Principal, StreamGrant
from api.problems import Forbidden, MethodNotAllowed, NotFound
from api.requests import ASGIScope, ClientGone, Exchange, Receive, Send
from api.routes import Route, find, history, ingest, jobs, operations, time_travel
from api.routes.errors import to_response
from api.services import Services
from api.streams import handlers as streams
from eventstore.codec import check_job_id

Handler = Callable[[Services, Exchange], Awaitable[None]]

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
        self._litestar: ASGIApp = make_litestar(services)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._litestar(scope, receive, send)  # type: ignore[arg-type]
            return
        exchange = Exchange(scope, receive, send, secrets.token_hex(8))
        scope["headway"] = exchange
        try:
            await self._answer(exchange)
        except ClientGone:
            pass
        except Exception as error:
            if exchange.answered:
                raise
            await exchange.refuse(error)

    async def _answer(self, exchange: Exchange) -> None:
        found = find(exchange.path)
        if found is None:
            raise NotFound(f"there is no {exchange.path[:200]!r} here: see /docs")
        methods, variable = found
        route = methods.get(exchange.method)
        if route is None:
            raise MethodNotAllowed(exchange.method, ", ".join(sorted(methods)))
        exchange.route = route.path
        if route.scopes is not None:
            exchange.principal = who = await self._authenticate(exchange, route)
            if not who.may(*route.scopes):
                wanted = " or ".join(sorted(route.scopes))
                raise Forbidden(f"this needs a key with the scope {wanted}", scopes=sorted(route.scopes))
            if variable is not None:
                exchange.job_id = check_job_id(variable)
                if not who.sees(variable):
                    raise NotFound(f"there is no job {variable!r}")
        raw = RAW.get((route.method, route.path))
        if raw is not None:
            await raw(self.services, exchange)
        else:
            await self._litestar(exchange.scope, exchange.receive, exchange.send)  # type: ignore[arg-type]

    async def _authenticate(self, exchange: Exchange, route: Route) -> Principal:
        """Who asks. Raises `Unauthorized`."""
        who = await self.services.keys.authenticate(exchange.header(b"authorization"))
        if route.stream:
            exchange.grant = StreamGrant(principal=who)
        return who


def make_litestar(services: Services) -> ASGIApp:
    """The JSON routes. Their handlers find the exchange in the scope, and the services in the state."""
    app = Litestar(
        route_handlers=[*jobs.HANDLERS, *time_travel.HANDLERS, *operations.HANDLERS],
        exception_handlers={Exception: to_response},
        openapi_config=None,
        logging_config=None,
    )
    app.state["services"] = services
    return app
