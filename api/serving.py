"""`serve`: the application on uvicorn, with relay, projections and streams beside it, until stopped.

stop is set → no new connections, streams end with a `retry:`, running requests are answered, keep-alive ends
            → relay and projections give back their leases → the caller closes the wiring: queued appends are written
"""

from __future__ import annotations

import errno
import gc
import ipaddress
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final

import anyio
import uvicorn

from api.app import App
from api.background import Background
from api.gauges import add_gauges
from api.protocol import Edge
from api.services import Services
from api.settings import Settings
from api.wiring import Wiring

logger = logging.getLogger("headway.serve")

KEEP_ALIVE: Final = 75  # seconds that an idle connection stays; longer than the 60 s of most proxies
SNDBUF: Final = 64 * 1024  # bytes that the kernel takes for a connection before we notice a slow reader
BACKLOG: Final = 2_048
SPARE_FILES: Final = 200  # for databases, logs and libraries


class CantListen(Exception):
    """The address can't be listened on, or the certificate can't be used. The text says what to do."""

    code: ClassVar[str] = "cant_listen"
    retryable: ClassVar[bool] = False


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: who serves decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> list[socket.socket]:
    """Bound sockets, one for each address of the host; port 0 takes one that is free. Raises `CantListen`."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            taken = port or (sockets[0].getsockname()[1] if sockets else 0)
            bound = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind((address[0], taken, *address[2:]))
            bound.setblocking(False)
    except OSError as error:
        for bound in sockets:
            bound.close()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if isinstance(error, socket.gaierror):
            raise CantListen(f"{host!r} is no address of this machine: {error.strerror}") from None
        if error.errno == errno.EADDRINUSE:
            raise CantListen(
                f"{where} is in use by another program: stop it, or choose another --port (0 takes a free one)"
            ) from None
        raise CantListen(f"{where} can't be listened on: {error.strerror}") from None
    return sockets


def allow_files(connections: int) -> int:
    """Ask the system for as many open files as so many connections need; how many connections there may be then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if allowed > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        if soft < wanted:
            fewer = max(soft - SPARE_FILES, soft // 2)
            logger.warning("at most %d connections: the system allows %d open files (ulimit -n)", fewer, soft)
            return fewer
    return connections


def settle_heap() -> None:
    """For a process that serves and nothing else, once it is up: spare the garbage collector what stays to the end.

    It looked at some 100,000 objects of modules and routes again and again: without that a quarter more appends a
    second, measured.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def config_of(app: App, settings: Settings, edge: Edge) -> uvicorn.Config:
    """uvicorn's configuration. Raises `CantListen` for a certificate that can't be used."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise CantListen("TLS needs both, a certificate and its key: HEADWAY_TLS_CERT and HEADWAY_TLS_KEY")
    config = uvicorn.Config(
        app,
        http=edge.protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.stop_patience,
        backlog=BACKLOG,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        pair = (settings.tls_cert, settings.tls_key)
        unread = [path for path in pair if not isinstance(error, ssl.SSLError) and not os.access(path, os.R_OK)]
        raise CantListen(f"TLS with {' and '.join(unread or pair)}: {error.strerror or error}") from None
    return config


async def serve(
    wiring: Wiring,
    *,
    host: str,
    port: int,
    ready: Callable[[int, Services], None] | None = None,
    stop: anyio.Event,
    background: bool = True,
    keyless: bool | None = None,
) -> None:
    """Serve until `stop` is set, then stop gracefully. `ready` gets the port that was taken.

    `background=False`: no relay and no projections in this process. `keyless`: no key is needed (default: only for
    embedded servers on a loopback address). Raises `CantListen`, and what the wiring raises.
    """
    from projections.known import load

    settings = wiring.settings
    sockets = listen(host, port)
    try:
        store = wiring.store()
        redis_url = wiring.addresses().redis_url
        if keyless is None:
            keyless = wiring.addresses().embedded and is_loopback(host) and not settings.require_keys
        services = Services(store, settings, redis_url=redis_url, keyless=keyless)
        await services.prepare()
        beside = Background(wiring, load() if background else [], relay=background and bool(redis_url))
        services.background = beside
        edge = Edge(
            services.metrics,
            max_connections=allow_files(settings.max_connections),
            access_log=services.access_log,
        )
        add_gauges(services, edge)
        server = Server(config_of(App(services), settings, edge))
    except BaseException:
        for bound in sockets:
            bound.close()
        raise
    forget = [store.on_append(services.metrics.on_append), store.on_append(services.snapshots.on_append)]
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wiring.keep_running)
            tasks.start_soon(services.keys.run)
            if services.access_log is not None:
                tasks.start_soon(services.access_log.run)
            if background:
                tasks.start_soon(beside.run)
            async with anyio.create_task_group() as serving:
                serving.start_soon(server.serve, sockets)
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await anyio.sleep(0.01)
                if ready is not None:
                    ready(sockets[0].getsockname()[1], services)
                await stop.wait()
                services.stopping.set()
                server.should_exit = True
            tasks.cancel_scope.cancel()
    finally:
        for each in forget:
            each()
        with anyio.CancelScope(shield=True):
            await services.snapshots.aclose()
