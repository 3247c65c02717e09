"""Redis Streams, the default sink: one stream per log and epoch, entry ids are positions (WIRE: "Redis").

What raw readers may rely on: `XREAD STREAMS headway:{LOG}:EPOCH:events POSITION-0` gives what follows POSITION.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Final

from eventstore.publishers import Entry, LoadSnapshots, Publisher, Tail
from eventstore.publishers.redis_connection import RedisConnection, Script
from eventstore.publishers.snapshot_cache import TTL, SnapshotCache
from eventstore.wire import heartbeat_key, stream_key

KEEP: Final = 100_000  # entries, about
BATCH: Final = 1_000  # entries in a call
BATCH_BYTES: Final = 4 * 1024 * 1024
EXPIRE_OLD: Final = 3_600  # seconds that the stream of an ended epoch stays
HEARTBEAT: Final = 5  # seconds

_APPEND: Final = Script("append.lua")
_OURS: Final = re.compile(r"([1-9][0-9]*)-0 \1-0 (([0-9]{4,9})_([0-9]{16})_[0-9a-f]{8})")


class RedisStreams(Publisher):
    """Publishes over one connection to the Redis, Valkey or compatible server at `url`. `keep` is approximate.

    `snapshot_ttl`: seconds that a snapshot lives in the cache beside the stream, if there is one.
    """

    name: ClassVar[str] = "redis-streams"

    def __init__(self, url: str, *, keep: int = KEEP, snapshot_ttl: int = TTL) -> None:
        self.keep = keep
        self._snapshot_ttl = snapshot_ttl
        self._url = url
        self._redis = RedisConnection(url)
        self._beats = True
        self._current: dict[str, int] = {}
        """The epoch of each log whose older streams were told to expire."""

    async def look(self, log: str, epoch: int) -> Tail:
        if self._current.get(log) != epoch:
            for old in range(max(1, epoch - 100), epoch):
                key = stream_key(log, old)
                if await self._redis.command("TTL", key) == -1:
                    await self._redis.command("EXPIRE", key, EXPIRE_OLD)
            self._current[log] = epoch
        return _tail(log, epoch, await self._redis.run(_APPEND, [stream_key(log, epoch)], ["", "0", self.keep]))

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        # All calls are sent at once, each expecting what the one before it leaves: the server never waits for us.
        state, calls = tail.state, []
        for batch in _batches(entries):
            arguments: list[bytes | str | int] = [state, "1" if replace else "0", self.keep]
            for entry in batch:
                arguments += (entry.position, entry.job_id, entry.cursor, entry.event)
            calls.append(arguments)
            if batch:
                state, replace = f"{batch[-1].position}-0 {batch[-1].position}-0 {batch[-1].cursor}", False
        answers = await self._redis.run_all(_APPEND, [stream_key(tail.log, tail.epoch)], calls)
        return _tail(tail.log, tail.epoch, answers[-1])

    async def caught_up(self, log: str) -> None:
        if self._beats:
            await self._redis.command("SET", heartbeat_key(log), "1", "EX", HEARTBEAT)

    def snapshot_cache(self, load: LoadSnapshots) -> SnapshotCache:
        """The cache of snapshots beside the stream. The heartbeat is then its business: it promises their freshness."""
        self._beats = False
        return SnapshotCache(self._url, load, ttl=self._snapshot_ttl)

    async def aclose(self) -> None:
        await self._redis.aclose()


def _batches(entries: Sequence[Entry]) -> list[list[Entry]]:
    """At most 1,000 entries and about 4 MiB each, so that no call holds the server for long; at least one batch."""
    batches: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        size += len(entry.event)
        if len(batches[-1]) >= BATCH or (size > BATCH_BYTES and batches[-1]):
            batches.append([])
            size = len(entry.event)
        batches[-1].append(entry)
    return batches


def _tail(log: str, epoch: int, raw: bytes) -> Tail:
    state = raw.decode()
    found = _OURS.fullmatch(state)
    ours = found is not None and (epoch, int(found[1])) == (int(found[3]), int(found[4]))
    return Tail(log=log, epoch=epoch, state=state, cursor=found[2] if ours and found else None, empty=state == "none")
