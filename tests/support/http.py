"""A real server for a test: `headway serve`'s own function in a thread, on a free port of 127.0.0.1."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio
import anyio.from_thread

from api.services import Services
from api.serving import serve
from api.settings import Settings
from api.wiring import ensure_log, wired


class Server(NamedTuple):
    """`url` without a slash at its end; `services` are the server's own, for tests that look inside."""

    url: str
    port: int
    services: Services


@contextmanager
def serving(database_url: str, redis_url: str = "", *, keyless: bool = True, **settings: Any) -> Iterator[Server]:
    """A server over a migrated database; makes the log of the settings if it is not there.

    No key is needed unless `keyless=False`; there is no access log unless `access_log=True`.
    """
    found: list[tuple[int, Services]] = []
    started = threading.Event()
    with wired(Settings(database_url=database_url, redis_url=redis_url, **{"access_log": False, **settings})) as wiring:
        store = wiring.store()
        ensure_log(store, store.log)
        with anyio.from_thread.start_blocking_portal(backend_options={"use_uvloop": True}) as portal:
            stop = portal.call(anyio.Event)

            def ready(port: int, services: Services) -> None:
                found.append((port, services))
                started.set()

            async def run() -> None:
                await serve(wiring, host="127.0.0.1", port=0, ready=ready, stop=stop, keyless=keyless)

            running = portal.start_task_soon(run)
            running.add_done_callback(lambda _: started.set())
            started.wait(30)
            if not found:
                running.result()
            port, services = found[0]
            try:
                yield Server(f"http://127.0.0.1:{port}", port, services)
            finally:
                portal.call(stop.set)
                running.result(30)
