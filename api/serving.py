"""`serve`: the application on uvicorn, with relay, projections and streams beside it, until stopped."""

from __future__ import annotations

import uvicorn

from api.app import App
from api.services import Services
from api.wiring import Wiring


async def serve(wiring: Wiring, *, host: str, port: int) -> None:
    services = Services(wiring.store(), wiring.settings, redis_url=wiring.live_redis_url() or "")
    config = uvicorn.Config(App(services), host=host, port=port, http="httptools", access_log=False, log_config=None)
    await uvicorn.Server(config).serve()
