"""`serve`: the application on uvicorn, with relay, projections and streams beside it, until stopped."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import uvicorn

from api.app import App
from api.services import Services
from api.wiring import Wiring


async def serve(
    wiring: Wiring,
    *,
    host: str,
    port: int,
    ready: Callable[[int, Services], None] | None = None,
    stop: anyio.Event | None = None,
    keyless: bool | None = None,
) -> None:
    """Serve until `stop` is set (or SIGINT or SIGTERM comes, without one). `ready` gets the port that was taken.

    `keyless`: no key is needed (default: only for embedded servers on a loopback address).
    """
    services = Services(
        wiring.store(),
        wiring.settings,
        redis_url=wiring.live_redis_url() or "",
        keyless=True if keyless is None else keyless,
    )
    config = uvicorn.Config(App(services), host=host, port=port, http="httptools", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await anyio.sleep(0.01)
        if ready is not None:
            ready(server.servers[0].sockets[0].getsockname()[1], services)
        if stop is not None:
            await stop.wait()
            server.should_exit = True
