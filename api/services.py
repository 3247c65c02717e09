"""What the routes work with: one `Services` per process, one `Tenant` per log. Made by `api.app.serving`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar, cast

import anyio
import anyio.to_thread

from api.access_log import AccessLog
from api.auth import Principal
from api.keys import KeyRing, NoKeys
from api.limits import Limits
from api.problems import TookTooLong, Unauthorized
from api.readiness import Probe
from api.snapshot_cache import SnapshotCache
from api.streams import Streams
from api.telemetry import Metrics
from api.tokens import StreamTokens
from eventstore.aio import AsyncEventStore
from eventstore.errors import StoreBusy
from eventstore.store import EventStore
from projections import wall

if TYPE_CHECKING:
    from api.background import Background
    from api.settings import Settings

logger = logging.getLogger("headway.serve")

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
        self.places = places
        self._limiter: anyio.CapacityLimiter | None = None
        self._threads: anyio.CapacityLimiter | None = None

    @property
    def in_use(self) -> int:
        """Places that are taken now."""
        return 0 if self._limiter is None else self._limiter.borrowed_tokens

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's answer, or its error; `StoreBusy` without a place, `TookTooLong` without an answer."""
        if self._limiter is None or self._threads is None:
            self._limiter = anyio.CapacityLimiter(self.places)
            self._threads = anyio.CapacityLimiter(float("inf"))
        limiter, mine, loop = self._limiter, object(), asyncio.get_running_loop()
        with anyio.move_on_after(SLOT_PATIENCE) as waiting:
            await limiter.acquire_on_behalf_of(mine)
        if waiting.cancelled_caught:
            raise StoreBusy(f"all {self.places} connections for reading are in use: try again in a moment")
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
    """One log. `store` reads, behind the second wall (row-level security) if `of_log` names a log; `writer` appends."""

    def __init__(self, store: EventStore, reads: Reads, of_log: int | None = None) -> None:
        self.log = store.log
        self.store = store if of_log is None else store.walled(of_log)
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
        self.probe = Probe(self)
        self.access_log = AccessLog(as_json=settings.log_format == "json") if settings.access_log else None
        self.keys = KeyRing(store, keyless=keyless)
        self.tokens = StreamTokens(self.keys, longest=settings.token_ttl)
        self.streams = Streams(self)
        self.snapshots = SnapshotCache(self)
        self.decoding = anyio.CapacityLimiter(2)
        """For the threads that read large bodies."""
        self.limits = Limits(
            rate=settings.append_rate,
            burst=settings.append_burst,
            streams_per_key=settings.streams_per_key,
            streams=settings.max_streams,
        )
        self.walls = False
        """Whether what keys read goes through row-level security; decided by `prepare`."""
        self.reads = Reads(max(1, settings.pool_size - 2))
        self._tenants: dict[tuple[str, int | None], Tenant] = {}

    async def prepare(self) -> None:
        """Read the keys and look whether the second wall can be used; before the first request. Raises `NoKeys`."""
        await self.keys.load()
        if not self.keys.keyless and not self.keys.any():
            raise NoKeys(self.store.log)
        self.walls = await anyio.to_thread.run_sync(self._may_enter)
        if not self.walls and not self.keys.keyless:
            logger.warning("row-level security is not used for reads, keys alone keep logs apart: see `headway doctor`")

    def _may_enter(self) -> bool:
        with self.store.database.session() as conn:
            return wall.stands(conn) and wall.may_enter(conn)

    def tenant(self, who: Principal) -> Tenant:
        """The log that a principal belongs to. Raises `Unauthorized` for who has no key where one is needed."""
        key = (who.log, who.log_id)
        tenant = self._tenants.get(key)
        if tenant is None:
            if who.log_id is None and not self.keys.keyless:
                raise Unauthorized
            of_log = who.log_id if self.walls else None
            tenant = self._tenants[key] = Tenant(self.store.for_log(who.log), self.reads, of_log)
        return tenant
