"""Snapshots from Redis, where the relay keeps them: an answer without a thread and without the database.

A cached snapshot is used only if its version is at least the one that is asked for, or, without one, while the relay's
heartbeat is there: a dead relay makes reads slower, never older than 5 s. What this process appended itself is never
missing, whatever the relay does. With Redis away, or slow, PostgreSQL answers, and Redis is let alone for a while.

What is usual for a job's kind, from which the remaining time is told, is read anew every two seconds only.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from eventstore.batch import Head
from eventstore.events import RecordedEvent
from eventstore.wire import heartbeat_key, snapshot_key
from projections.snapshots import AttemptView, JobSnapshot, StepView
from projections.usual import Usual, read_usual

if TYPE_CHECKING:
    from api.services import Services, Tenant

PATIENCE: Final = 0.1  # seconds for Redis to answer
AWAY: Final = 3.0  # seconds for which a Redis that failed is not asked
CONNECTIONS: Final = 16
REMEMBERED: Final = 10_000
"""Jobs of which the version that this process appended last is kept."""
USUAL_FOR: Final = 2.0  # seconds
USUAL_KEPT: Final = 1_000

_Failed: Final = (redis.exceptions.RedisError, OSError, TimeoutError)


class _Seen(msgspec.Struct):
    version: int


class _CachedAttempt(AttemptView, frozen=True, kw_only=True):
    error: msgspec.Raw


class _CachedStep(StepView, frozen=True, kw_only=True):
    metadata: msgspec.Raw
    error: msgspec.Raw
    attempts: list[_CachedAttempt]  # type: ignore[assignment]


class CachedJob(JobSnapshot, frozen=True, kw_only=True):
    """A snapshot read back from its JSON: what may be any JSON stays as it is."""

    metadata: msgspec.Raw
    error: msgspec.Raw
    steps: list[_CachedStep]  # type: ignore[assignment]


_decode_seen: Final = msgspec.json.Decoder(_Seen).decode
decode_snapshot: Final = msgspec.json.Decoder(CachedJob).decode


class SnapshotCache:
    """For one process; used in its event loop, but for `on_append`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._client: Any = None
        self._asked_again_at = 0.0
        self._lock = Lock()
        self._appended: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._usual: OrderedDict[tuple[int, str], tuple[float, str | None, Usual]] = OrderedDict()

    def on_append(self, head: Head, events: Sequence[RecordedEvent]) -> None:
        """Remember what this process appended. In the committer's thread."""
        last = {(head.name, event.job_id): event.version for event in events}
        with self._lock:
            for key, version in last.items():
                self._appended[key] = version
                self._appended.move_to_end(key)
            while len(self._appended) > REMEMBERED:
                self._appended.popitem(last=False)

    async def read(self, tenant: Tenant, log_id: int | None, job_id: str, least: int | None) -> bytes | None:
        """The job's snapshot as JSON, if the cache may answer. `log_id`: of the key, None where there are no keys."""
        url = self._services.redis_url
        if not url or not self._is_of(tenant, log_id) or time.monotonic() < self._asked_again_at:
            return None
        raw = await self._ask(url, tenant.log, job_id, least)
        (self._services.metrics.cache_miss if raw is None else self._services.metrics.cache_hit)()
        return raw

    def _is_of(self, tenant: Tenant, log_id: int | None) -> bool:
        """Redis has no row-level security: the log's name must be that of the key's own row."""
        if log_id is None:
            return True
        named = self._services.store.for_log(tenant.log)
        return named.log_is_known() and named.log_id() == log_id

    async def _ask(self, url: str, log: str, job_id: str, least: int | None) -> bytes | None:
        try:
            if self._client is None:
                self._client = _connect(url)
            raw, heartbeat = await self._client.mget(snapshot_key(log, job_id), heartbeat_key(log))
        except _Failed:
            self._asked_again_at = time.monotonic() + AWAY
            return None
        if raw is None or (least is None and heartbeat is None):
            return None
        try:
            version = _decode_seen(raw).version
        except msgspec.MsgspecError:
            return None
        with self._lock:
            appended = self._appended.get((log, job_id), 0)
        return bytes(raw) if version >= max(least or 0, appended) else None

    async def usual(self, tenant: Tenant, job: JobSnapshot) -> Usual:
        """What is usual for the job, at most two seconds old."""
        found = self.known_usual(tenant, job)
        return found if found is not None else await tenant.reads.run(self.read_usual, tenant, job)

    def known_usual(self, tenant: Tenant, job: JobSnapshot) -> Usual | None:
        with self._lock:
            kept = self._usual.get((id(tenant), job.job_id))
        return kept[2] if kept is not None and kept[1] == job.kind and time.monotonic() < kept[0] else None

    def read_usual(self, tenant: Tenant, job: JobSnapshot) -> Usual:
        """`usual` in a thread."""
        found = self.known_usual(tenant, job)
        if found is None:
            found = read_usual(tenant.store, job)
            key = (id(tenant), job.job_id)
            with self._lock:
                self._usual[key] = (time.monotonic() + USUAL_FOR, job.kind, found)
                self._usual.move_to_end(key)
                while len(self._usual) > USUAL_KEPT:
                    self._usual.popitem(last=False)
        return found

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _connect(url: str) -> Any:
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        protocol=2,
        max_connections=CONNECTIONS,
        timeout=PATIENCE,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
        client_name="headway-snapshots",
    )
    return redis.asyncio.Redis.from_pool(pool)
