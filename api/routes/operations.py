"""For who runs the server: is it alive, can it work, how is it doing."""

from __future__ import annotations

from typing import Final

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from api.answers import JSON, NO_STORE, Asked, services_of
from api.telemetry import CONTENT_TYPE


@get("/healthz")
async def healthz() -> Response[bytes]:
    """Liveness: the process answers. Nothing else is asked, so a database that hangs restarts nobody."""
    return Response(b'{"status":"ok"}', media_type=JSON, headers={"cache-control": NO_STORE})


@get("/readyz")
async def readyz(request: Asked) -> Response[bytes]:
    """Readiness: 200 if requests may be sent here, else 503; each check by name. Answers within about a second."""
    found = await services_of(request).probe.look()
    ready = found.status == "ready"
    headers = {"cache-control": NO_STORE} | ({} if ready else {"retry-after": "2"})
    return Response(msgspec.json.encode(found), status_code=200 if ready else 503, media_type=JSON, headers=headers)


@get("/metrics")
async def metrics(request: Asked) -> Response[bytes]:
    """Metrics in Prometheus' text format; needs the scope admin."""
    return Response(
        services_of(request).metrics.exposition(), media_type=CONTENT_TYPE, headers={"cache-control": NO_STORE}
    )


HANDLERS: Final[list[HTTPRouteHandler]] = [healthz, readyz, metrics]
