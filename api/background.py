"""What runs beside the API in one process: for every log a relay to Redis and the projections' runners.

Several processes over one database share the work by leases: one leads, the others stand by. A log that is created
while this runs is picked up within a few seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import msgspec

from api.wiring import Wiring
from eventstore.errors import EventStoreError
from eventstore.relay import Relay
from projections.projection import Projection
from projections.runner import Runner

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

logger = logging.getLogger("headway.serve")

LOOK: Final = 2.0  # seconds between looks for new logs
GATHER: Final = 0.25  # seconds between two batches of a projection that keeps up: beside appends, few large ones
AGAIN: Final = 30.0  # seconds until a relay or runner that failed for good is tried once more


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far a publisher or a projection of a log is. `lag` in events; `seconds` since it last had none.

    Only who leads knows: of one that stands by, `leading` is False and the rest is 0.
    """

    log: str
    name: str
    leading: bool
    lag: int
    seconds: float
    error: str | None = None


class Background:
    """The relays and runners of one process. `relaying`: there is a Redis to publish to."""

    def __init__(self, wiring: Wiring, projections: list[Projection], *, relay: bool) -> None:
        self._wiring = wiring
        self._projections = projections
        self.relaying = relay
        self._relays: dict[str, Relay] = {}
        self._runners: dict[str, list[Runner]] = {}
        self._known: set[str] = set()
        self._fresh: dict[tuple[str, str], float] = {}

    # -- how far they are -------------------------------------------------------------------------------------------

    def relays(self) -> Iterator[Standing]:
        """Of every log, each publisher."""
        for log, relay in list(self._relays.items()):
            for at in relay.progress:
                lag = at.lag if at.leading else 0
                yield Standing(
                    log=log, name=at.name, leading=at.leading, lag=lag,
                    seconds=self._age(log, at.name, behind=bool(lag or at.error)), error=at.error,
                )  # fmt: skip

    def projections(self) -> Iterator[Standing]:
        """Of every log, each projection."""
        for log, runners in list(self._runners.items()):
            for runner in runners:
                name = runner.projection.name
                lag = max(0, runner.head - runner.position) if runner.leading else 0
                yield Standing(
                    log=log, name=name, leading=runner.leading, lag=lag,
                    seconds=self._age(log, name, behind=lag > 0),
                )  # fmt: skip

    def _age(self, log: str, name: str, *, behind: bool) -> float:
        now = time.monotonic()
        since = self._fresh.setdefault((log, name), now)
        if behind:
            return now - since
        self._fresh[log, name] = now
        return 0.0

    # -- the work ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled; then give the leases back. Waits for a database that is away."""
        down = False
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    names = await anyio.to_thread.run_sync(self._logs, abandon_on_cancel=True)
                    for name in names:
                        await self._begin(name, tasks)
                    down = False
                except (EventStoreError, OSError) as error:
                    if not down:
                        logger.warning("the logs of the database can't be read, it is tried again: %s", error)
                    down = True
                list(self.relays()), list(self.projections())
                await anyio.sleep(LOOK)

    def _logs(self) -> list[str]:
        return [head.name for head in self._wiring.store().logs()]

    async def _begin(self, log: str, tasks: TaskGroup) -> None:
        if log in self._known:
            return
        store = self._wiring.store(log)
        runners = self._runners[log] = [Runner(store, projection, gather=GATHER) for projection in self._projections]
        if self.relaying:
            relay = self._relays[log] = await anyio.to_thread.run_sync(self._wiring.relay, log)
            tasks.start_soon(self._keep, f"log {log}: the relay", relay)
        for runner in runners:
            tasks.start_soon(self._keep, f"log {log}: projection {runner.projection.name}", runner)
        self._known.add(log)
        logger.info("log %s: %s%d projections", log, "relay and " if self.relaying else "", len(runners))

    async def _keep(self, what: str, work: Relay | Runner) -> None:
        """What ends one of them must end neither the others nor the API."""
        while True:
            try:
                await work.run()
            except Exception as error:
                known = isinstance(error, EventStoreError)
                logger.error(
                    "%s stops, it is tried again in %g s: %s", what, AGAIN, error, exc_info=None if known else error
                )
            await anyio.sleep(AGAIN)
