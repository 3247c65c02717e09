"""Live streams: server-sent events for any number of readers from one reader per log.

    store.subscribe ──► Hub ──► Feed ──► Subscriber ──► Link ──► client
    one per log         task    filter   one request    bytes

The way through this package:

    asked.py        what a client asks for: start, filter, mode
    handlers.py     the two routes: who may, whether there is room, and how a refusal is told to an EventSource
    frames.py       the bytes: frames with `prev`, control frames, chunks that many share
    feed.py         one filter with those who listen to it
    hub.py          one log, followed once; ticks
    subscriber.py   one client: snapshot, catch-up, live, behind, end
    link.py         the way to one client         wheel.py     one clock for all of them
    pictures.py     snapshots as frames           gathered.py  many who ask at once ask once
    recap.py        the first page of a catch-up, shared

What holds, whatever is cut, killed or slow: a reader sees each event after its cursor once and in order, and each frame
names the one before it; if that can't be kept, it is told (`gap`). No reader waits for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from api.streams import frames
from api.streams.gathered import Gathered
from api.streams.hub import Hub
from api.streams.pictures import Picture, read_pictures
from api.streams.recap import Recaps
from api.streams.wheel import Wheel
from eventstore.cursor import NOW, Cursor
from projections.job_status import JobStatus, read_statuses

if TYPE_CHECKING:
    from api.services import Services, Tenant
    from api.streams.subscriber import Subscriber
    from api.telemetry import Metrics

AWAY: Final = (1.0, 5.0)  # seconds after which clients of a server that stops come back


class _OfLog:
    """What the streams of one tenant's log share."""

    def __init__(self, tenant: Tenant, redis_url: str | None) -> None:
        self.hub: Hub | None = None
        self.pictures: Gathered[Picture] = Gathered(partial(_read_pictures, tenant))
        self.statuses: Gathered[JobStatus] = Gathered(partial(_read_statuses, tenant))
        self.heads: Gathered[Cursor] = Gathered(partial(_read_head, tenant))
        self.recaps = Recaps(tenant.store, redis_url)


class Streams:
    """All streams of one process. Nothing runs before the first client comes, and nothing after the last has left."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._logs: dict[int, _OfLog] = {}
        self.subscribers: set[Subscriber] = set()
        self.wheel = Wheel()
        self._stop: asyncio.Task[None] | None = None

    @property
    def metrics(self) -> Metrics:
        return self._services.metrics

    @property
    def redis_url(self) -> str | None:
        return self._services.redis_url or None

    def is_good(self, key_id: str | None) -> bool:
        return self._services.keys.is_good(key_id)

    def hub(self, tenant: Tenant) -> Hub:
        """The hub of a tenant's log; `hold` it before use."""
        log = self._of(tenant)
        if log.hub is None or log.hub.closed:
            log.hub = Hub(tenant.store, self._services.redis_url)
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._until_stopped())
        return log.hub

    def recaps(self, tenant: Tenant) -> Recaps:
        """The first pages of catch-ups of a tenant's log."""
        return self._of(tenant).recaps

    async def picture(self, tenant: Tenant, job_id: str) -> Picture | None:
        """A job's snapshot as a frame, as it is now; None if the log has no such job."""
        return await self._of(tenant).pictures.get(job_id)

    async def pictures(self, tenant: Tenant, job_ids: Sequence[str]) -> list[Picture]:
        """The snapshots of those of the jobs that the log has, all of one moment."""
        found = await _read_pictures(tenant, job_ids)
        return [found[job_id] for job_id in job_ids if job_id in found]

    async def head(self, tenant: Tenant) -> Cursor:
        """The end of the log, now; a hub may be a moment behind it."""
        found = await self._of(tenant).heads.get("head")
        assert found is not None
        return found

    async def status(self, tenant: Tenant, job_id: str, known: int) -> JobStatus:
        """A job's status, no older than position `known` of the log, as far as the log reaches there."""
        found = await self._of(tenant).statuses.get(job_id, good=lambda status: status.head >= known)
        assert found is not None
        return found

    def _of(self, tenant: Tenant) -> _OfLog:
        found = self._logs.get(id(tenant))
        if found is None:
            found = self._logs[id(tenant)] = _OfLog(tenant, self.redis_url)
        return found

    async def _until_stopped(self) -> None:
        """When the server stops, clients are sent away, to come back at different times."""
        await self._services.stopping.wait()
        for subscriber in tuple(self.subscribers):
            subscriber.finish("stopping", frames.some_time(*AWAY))
        for log in self._logs.values():
            if log.hub is not None:
                log.hub.linger = 0.0
                log.hub.stop()


async def _read_pictures(tenant: Tenant, job_ids: Sequence[str]) -> dict[str, Picture]:
    return await tenant.reads.run(read_pictures, tenant.store, job_ids)


async def _read_statuses(tenant: Tenant, job_ids: Sequence[str]) -> dict[str, JobStatus]:
    return await tenant.reads.run(read_statuses, tenant.store, job_ids)


async def _read_head(tenant: Tenant, keys: Sequence[str]) -> dict[str, Cursor]:
    head, position = await tenant.reads.run(tenant.store.resolve, NOW)
    return dict.fromkeys(keys, Cursor(position, head.epoch, head.hash[:4].hex()))
