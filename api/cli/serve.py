"""`serve`: API, relay, projections and streams in one process."""

from __future__ import annotations

import logging

import anyio
import click

from api.cli.journal import log_to_stderr
from api.cli.session import Session, log_option, pass_session


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@log_option
@pass_session
def serve(session: Session, host: str, port: int) -> None:
    """Serve the HTTP API and live streams, until Ctrl-C or SIGTERM."""
    from api.serving import serve as run

    log_to_stderr(session.settings, level=logging.INFO)
    with session.wired(redis=True) as wiring:
        anyio.run(lambda: run(wiring, host=host, port=port), backend_options={"use_uvloop": True})
