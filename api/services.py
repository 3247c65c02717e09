"""What the routes work with: one `Services` per process, one `Tenant` per log. Made by `api.app.serving`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, cast

import anyio
import anyio.to_thread

from api.auth import Principal
from api.keys import KeyRing
from api.limits import Limits
from api.problems import TookTooLong
from api.telemetry import Metrics
from api.tokens import StreamTokens
from eventstore.aio import AsyncEventStore
from eventstore.errors import StoreBusy
from eventstore.store import EventStore

if TYPE_CHECKING:
    from api.background import Background
    from api.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

SLOT_PATIENCE: Final = 1.0  # seconds that a read waits for a connection
REQUEST_LIMIT: Final = 10.0  # seconds that a read may take


class Reads:
    """Blocking reads in threads, at most as many at once as there are connections for them.

    A read that finds no free place within a second is refused; one that gets no answer within ten is given up, but its
    thread keeps its place until it ends: a server that hangs costs a bounded number of threads.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._limiter: anyio.CapacityLimiter | None = None
        self._threads: anyio.CapacityLimiter | None = None

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's answer, or its error; `StoreBusy` without a place, `TookTooLong` without an answer."""
        if self._limiter is None or self._threads is None:
            self._limiter = anyio.CapacityLimiter(self._places)
            self._threads = anyio.CapacityLimiter(float("inf"))
        limiter, mine, loop = self._limiter, object(), asyncio.get_running_loop()
        with anyio.move_on_after(SLOT_PATIENCE) as waiting:
            await limiter.acquire_on_behalf_of(mine)
        if waiting.cancelled_caught:
            raise StoreBusy(f"all {self._places} connections for reading are in use: try again in a moment")
        token = [True]  # of thread and caller the one that pops it first decides whether the read begins

        def read() -> R | None:
            try:
                token.pop()
            except IndexError:
                return None  # nobody waits for it any more, and its place is free already
            try:
                return function(*args, **kwargs)
            finally:
                try:
                    loop.call_soon_threadsafe(limiter.release_on_behalf_of, mine)
                except RuntimeError:
                    pass  # the loop was closed under us

        try:
            with anyio.move_on_after(REQUEST_LIMIT):
                return cast("R", await anyio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._threads))
        finally:
            with suppress(IndexError):
                token.pop()
                limiter.release_on_behalf_of(mine)
        raise TookTooLong(f"the database gave no answer within {REQUEST_LIMIT:g} s: try again")


class Tenant:
    """One log. `store` reads behind the second wall (row-level security); `writer` appends."""

    def __init__(self, store: EventStore, reads: Reads) -> None:
        self.log = store.log
        self.store = store
        self.writer = AsyncEventStore(store)
        self.reads = reads


class Services:
    """What one process serves with. `redis_url` is "" without Redis.

    `stopping` is set when the server begins to stop: streams then end, and nothing new is begun. `background` knows how
    far relay and projections of this process are.
    """

    def __init__(self, store: EventStore, settings: Settings, *, redis_url: str = "", keyless: bool = True) -> None:
        self.store = store
        self.settings = settings
        self.redis_url = redis_url
        self.stopping = anyio.Event()
        self.metrics = Metrics()
        self.background: Background | None = None
        self.keys = KeyRing(store.log, keyless=keyless)
        self.tokens = StreamTokens()
        self.limits = Limits()
        self.reads = Reads(max(1, settings.pool_size - 2))
        self._tenants: dict[tuple[str, int | None], Tenant] = {}

    def tenant(self, who: Principal) -> Tenant:
        """The log that a principal belongs to."""
        key = (who.log, who.log_id)
        tenant = self._tenants.get(key)
        if tenant is None:
            tenant = self._tenants[key] = Tenant(self.store.for_log(who.log), self.reads)
        return tenant

    async def read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Reads.run`."""
        return await self.reads.run(partial(function, *args, **kwargs))
