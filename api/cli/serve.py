"""`serve`: API, relay, projections and streams in one process."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, Literal

import anyio
import click
import msgspec

from api.cli.failures import BAD, INTERRUPTED
from api.cli.journal import log_to_stderr
from api.cli.session import Session, log_option, pass_session
from api.settings import suggestion, unknown_variables
from api.variables import VARIABLES

if TYPE_CHECKING:
    from api.services import Services
    from api.wiring import Wiring

logger = logging.getLogger("headway.serve")

JOINED: Final = 2.0  # seconds that threads which hang in a dead server are waited for at the end
TO_CLOSE: Final = 12.0  # seconds from the last answer to the end: leases are given back, queued appends written


@click.command()
@click.option("--host", metavar="HOST", help="The address to listen on (HEADWAY_HOST, 127.0.0.1).")
@click.option("--port", metavar="PORT", type=click.IntRange(0, 65535), help="0 takes a free one (HEADWAY_PORT, 8000).")
@click.option("--tls-cert", metavar="FILE", help="Certificate with its chain: speak HTTPS (HEADWAY_TLS_CERT).")
@click.option("--tls-key", metavar="FILE", help="The certificate's key (HEADWAY_TLS_KEY).")
@click.option("--access-log/--no-access-log", default=None, help="One line per request (HEADWAY_ACCESS_LOG, on).")
@click.option("--background/--no-background", default=True, help="Relay and projections in this process too (on).")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Text on a terminal, else json.")
@log_option
@pass_session
def serve(
    session: Session,
    host: str | None,
    port: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    access_log: bool | None,
    background: bool,
    log_format: Literal["text", "json"] | None,
) -> None:
    """Serve the HTTP API and live streams, until Ctrl-C or SIGTERM.

    A stop lets running requests finish and streams end gracefully; a second Ctrl-C ends at once. Several processes on
    one database work together. What is printed on stdout: for people how to try it; without a terminal one JSON line
    with the address, once it listens.
    """
    given = {
        "host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key, "access_log": access_log,
        "log_format": log_format,
    }  # fmt: skip
    changed = {name: value for name, value in given.items() if value is not None}
    if "log_format" not in changed and "log_format" not in session.origins and not sys.stderr.isatty():
        changed["log_format"] = "json"
    session.change(**changed)
    if bool(session.settings.tls_cert) != bool(session.settings.tls_key):
        raise click.UsageError(
            "TLS needs both, a certificate and its key:"
            " --tls-cert and --tls-key, or HEADWAY_TLS_CERT and HEADWAY_TLS_KEY"
        )
    log_to_stderr(session.settings, level=logging.INFO)
    for name in unknown_variables():
        logger.warning("%s is set and means nothing to this version%s", name, suggestion(name, VARIABLES))
    with session.wired(redis=True) as wiring:
        anyio.run(_until_stopped, wiring, background, backend_options={"use_uvloop": True})
    _leave()


async def _until_stopped(wiring: Wiring, background: bool) -> None:
    from api.serving import serve as run

    settings = wiring.settings
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch_signals, stop, settings.stop_patience + TO_CLOSE)
        await run(
            wiring,
            host=settings.host,
            port=settings.port,
            ready=_ready,
            stop=stop,
            background=background,
        )
        tasks.cancel_scope.cancel()
    logger.info("stopped")


async def _watch_signals(stop: anyio.Event, patience: float) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            name = signal.Signals(number).name
            if stop.is_set():
                logger.warning("%s again: ends at once", name)
                _end_at_once(INTERRUPTED)
            logger.info("%s: stops; running requests are answered first, once more ends at once", name)
            stop.set()
            late = threading.Timer(patience, _too_late)
            late.daemon = True
            late.start()


def _too_late() -> None:
    """A server hangs so that nothing can be closed: what it did not acknowledge, nobody was told of."""
    logger.error("the stop takes too long, a server gives no answer: ends now")
    _end_at_once(BAD)


def _ready(port: int, services: Services) -> None:
    from api.serving import settle_heap

    settle_heap()
    _tell(port, services)


def _tell(port: int, services: Services) -> None:
    """Say where it listens: for people with something to try, else as one line of JSON."""
    settings = services.settings
    scheme = "https" if settings.tls_cert else "http"
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 - shown, not bound
    url = f"{scheme}://{f'[{shown}]' if ':' in shown and not shown.startswith('[') else shown}:{port}"
    if not sys.stdout.isatty():
        line = {"listening": url, "host": settings.host, "port": port, "pid": os.getpid()}
        click.echo(msgspec.json.encode(line).decode())
        return
    job = shlex.quote(f"{url}/v1/jobs/hello")
    click.echo(
        f"Headway listens on {url}\n\n"
        f"  curl {job}/events -H 'content-type: application/json' -d '{{\"type\":\"job.started\"}}'\n"
        f"  curl -N {job}/stream\n\n"
        f"docs: {url}/docs   stop: Ctrl-C"
    )


def _leave() -> None:
    """End although a thread may still wait for a server that hangs: everything was written and closed by now."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(JOINED)
    left = [thread.name for thread in threading.enumerate() if not thread.daemon]
    if len(left) > 1:
        logger.warning("%d threads still wait for a server, they are not waited for", len(left) - 1)
        _end_at_once(0)


def _end_at_once(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
