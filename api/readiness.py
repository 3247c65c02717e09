"""`GET /readyz`: can this process work now? PostgreSQL is asked with a bound, so it answers whatever hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import anyio.to_thread
import msgspec

from api.wiring import schema_of
from eventstore.errors import EventStoreError
from eventstore.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from api.services import Services

DATABASE_PATIENCE: Final = 1.0  # seconds
FRESH: Final = 0.5  # seconds that an answer of the database is good for everybody who asks
BEHIND: Final = 30.0  # seconds that the relay of this process may be behind


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was looked at. `ok` may be false in a process that is ready: then `detail` says why it works."""

    ok: bool
    detail: str = ""
    facts: dict[str, Any] = {}


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """`ready` is answered with 200, the others with 503."""

    status: Literal["ready", "not_ready", "stopping"]
    checks: dict[str, Check]


class Probe:
    """Looks, at most twice a second, and never more than one look at a time, however many ask."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = anyio.Lock()
        self._looking = False
        self._seen: tuple[float, str | None] | None = None

    async def look(self) -> Readiness:
        """What works at this moment; answers within about a second."""
        services = self._services
        checks = await self._database()
        critical = all(check.ok for check in checks.values())
        relay, may_work = self._relay()
        if relay is not None:
            checks["relay"] = relay
        if services.stopping.is_set():
            return Readiness(status="stopping", checks=checks)
        return Readiness(status="ready" if critical and may_work else "not_ready", checks=checks)

    async def _database(self) -> dict[str, Check]:
        started = time.monotonic()
        with anyio.move_on_after(DATABASE_PATIENCE):
            try:
                async with self._lock:
                    found = await self._revision()
            except EventStoreError as error:
                return {"database": Check(ok=False, detail=error.code)}
            right = found == SCHEMA_VERSION
            return {
                "database": Check(ok=True, facts={"ms": round((time.monotonic() - started) * 1000, 1)}),
                "migrations": Check(
                    ok=right,
                    detail="" if right else "run `headway migrate`, or this program's version of it",
                    facts={"found": found, "needed": SCHEMA_VERSION},
                ),
            }
        return {"database": Check(ok=False, detail=f"no answer within {DATABASE_PATIENCE:g} s")}

    async def _revision(self) -> str | None:
        """The revision of the database, asked about now or a moment ago. Waits for ever where the database hangs."""
        if self._seen is not None and time.monotonic() - self._seen[0] < FRESH:
            return self._seen[1]
        if self._looking:
            await anyio.sleep_forever()  # an earlier look still hangs in its thread; one is enough
        self._looking = True
        found = await anyio.to_thread.run_sync(self._ask, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        self._seen = time.monotonic(), found
        return found

    def _ask(self) -> str | None:
        try:
            return schema_of(self._services.store)
        finally:
            self._looking = False

    def _relay(self) -> tuple[Check | None, bool]:
        """How the relays are, and whether the process may work so.

        Where Redis is away nobody is sent elsewhere: reads and streams come from PostgreSQL, in every process.
        """
        background = self._services.background
        found = [at for at in background.relays() if at.leading or at.error] if background is not None else []
        if background is None or not background.relaying:
            return None, True
        worst = max(found, key=lambda at: at.seconds, default=None)
        if worst is None:
            return Check(ok=True, facts={"leading": False}), True
        facts = {"leading": worst.leading, "lag": worst.lag, "seconds": round(worst.seconds, 1)}
        if worst.error is not None:
            return Check(ok=False, detail="Redis can't be used; PostgreSQL serves instead", facts=facts), True
        if worst.seconds > BEHIND:
            return Check(ok=False, detail="behind", facts=facts), False
        return Check(ok=True, facts=facts), True
