"""`relay`: the relay as a process of its own."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Literal

import anyio
import click

from api.cli.journal import log_to_stderr
from api.cli.session import Session, log_option, pass_session
from api.settings import hide

if TYPE_CHECKING:
    from api.wiring import Wiring
    from eventstore.relay import Relay

logger = logging.getLogger("headway.cli")

LOOK = 1.0  # seconds between looks at how far it is


@click.command()
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the lines on stderr (HEADWAY_LOG_FORMAT).")
@log_option
@pass_session
def relay(session: Session, log_format: Literal["text", "json"] | None) -> None:
    """Publish every event of the log to Redis Streams, until Ctrl-C or SIGTERM.

    Several may run: one leads, the others take over when it ends. Nothing is published twice, and nothing is left out.
    """
    if log_format is not None:
        session.change(log_format=log_format)
    log_to_stderr(session.settings, level=logging.INFO)
    with session.wired(redis=True) as wiring:
        anyio.run(run_until_stopped, wiring.relay(), wiring)


async def run_until_stopped(relay: Relay, wiring: Wiring) -> None:
    """Run the relay until SIGINT or SIGTERM, then let it give back its leases."""
    where = hide(wiring.redis_url())
    logger.info("log %s: the relay starts, publishing to %s", wiring.settings.log, where)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        tasks.start_soon(tell_progress, relay)
        tasks.start_soon(wiring.keep_running)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                logger.info("%s: the relay stops", signal.Signals(number).name)
                break
        tasks.cancel_scope.cancel()
    for line in relay.progress:
        logger.info("%s: stopped at position %d", line.name, line.position)


async def tell_progress(relay: Relay) -> None:
    """Log when a publisher begins to lead, stops leading, or has caught up after being behind."""
    leading: dict[str, bool] = {}
    behind: dict[str, bool] = {}
    while True:
        for line in relay.progress:
            if line.leading != leading.get(line.name, False):
                leading[line.name] = line.leading
                stopped = "another relay leads" if line.error is None else f"can't go on: {line.error}"
                logger.info("%s: %s", line.name, "leads" if line.leading else stopped)
            late = line.lag > 0
            if line.leading and line.head and late != behind.get(line.name, True):
                behind[line.name] = late
                state = "behind" if late else "caught up"
                logger.info("%s: %s at position %d of %d", line.name, state, line.position, line.head)
        await anyio.sleep(LOOK)
