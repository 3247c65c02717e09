"""`project`: asynchronous projections as a process of their own."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Literal

import anyio
import click

from api.cli.failures import BAD, Ended
from api.cli.journal import log_to_stderr
from api.cli.session import Session, log_option, pass_session

if TYPE_CHECKING:
    from api.wiring import Wiring
    from projections.runner import Runner

logger = logging.getLogger("headway.cli")

LOOK = 1.0  # seconds between looks at how far they are


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option("--once", is_flag=True, help="Catch up with the log, then end.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Of the lines on stderr (HEADWAY_LOG_FORMAT).")
@log_option
@pass_session
def project(session: Session, names: tuple[str, ...], once: bool, log_format: Literal["text", "json"] | None) -> None:
    """Keep projections up to date with the log, until Ctrl-C or SIGTERM: these, or all that are installed.

    Several processes may do so: per projection one works, the others take over when it ends. A report that a projection
    can't take is parked with the later ones of its job (`headway parked`); exit code 1 if a projection had to stop.
    """
    from projections.known import load
    from projections.runner import Runner

    if log_format is not None:
        session.change(log_format=log_format)
    log_to_stderr(session.settings, level=logging.INFO)
    projections = load(names)
    with session.wired() as wiring:
        store = wiring.store()
        store.log_id()
        runners = [Runner(store, projection) for projection in projections]
        if not runners:
            raise click.ClickException("no projections are installed")
        if once:
            for runner in runners:
                done = runner.catch_up()
                logger.info("%s: %d events, at position %d", runner.checkpoint, done, runner.position)
            return
        stopped = anyio.run(run_until_stopped, runners, wiring)
    if stopped:
        raise Ended(BAD)


async def run_until_stopped(runners: list[Runner], wiring: Wiring) -> list[str]:
    """Run until SIGINT or SIGTERM, or until none is left; the names of those that had to stop."""
    stopped: list[str] = []
    names = ", ".join(runner.checkpoint for runner in runners)
    logger.info("log %s: projecting %s", wiring.settings.log, names)
    async with anyio.create_task_group() as tasks:

        async def run(runner: Runner) -> None:
            try:
                await runner.run()
            except Exception as error:
                logger.error("%s: stops: %s", runner.checkpoint, error)
                stopped.append(runner.projection.name)
                if len(stopped) == len(runners):
                    tasks.cancel_scope.cancel()

        for runner in runners:
            tasks.start_soon(run, runner)
        tasks.start_soon(tell_progress, runners)
        tasks.start_soon(wiring.keep_running)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                logger.info("%s: the projections stop", signal.Signals(number).name)
                break
        tasks.cancel_scope.cancel()
    for runner in runners:
        logger.info("%s: stopped at position %d", runner.checkpoint, runner.position)
    return stopped


async def tell_progress(runners: list[Runner]) -> None:
    """Log when a runner begins to work, leaves it to another process, or has caught up after being behind."""
    leading: dict[str, bool] = {}
    behind: dict[str, bool] = {}
    while True:
        for runner in runners:
            name = runner.checkpoint
            if runner.leading != leading.get(name):
                leading[name] = runner.leading
                logger.info("%s: %s", name, "works" if runner.leading else "another process works, or nobody yet")
            late = runner.head > runner.position
            if runner.leading and late != behind.get(name, True):
                behind[name] = late
                state = "behind" if late else "caught up"
                logger.info("%s: %s at position %d of %d", name, state, runner.position, runner.head)
        await anyio.sleep(LOOK)
