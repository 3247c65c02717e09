"""Snapshots of jobs in Redis, for reads that need no database. A publisher of its own, so it never slows the stream.

A batch of events becomes: the newest snapshots of the jobs that it names, and a marker, the cursor up to which every
snapshot in the cache is fresh. Both are written by one Lua function that compares the marker first. So a relay that was
asleep can't put an old snapshot over a new one, and who takes over, or finds a Redis that lost its last second, goes on
where the snapshots are known to be fresh.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import anyio.to_thread
import msgspec

from eventstore.cursor import Cursor, parse_cursor
from eventstore.errors import InvalidCursor
from eventstore.events import LOG_JOB, RecordedEvent
from eventstore.publishers import Entry, LoadSnapshots, Publisher, Tail
from eventstore.publishers.redis_connection import RedisConnection, Script
from eventstore.wire import cursor_of, heartbeat_key, snapshot_key

TTL: Final = 3_600  # seconds
HEARTBEAT: Final = 5  # seconds
MAX_LOADED: Final = 200
"""Snapshots that are made for one batch of events; those of further jobs are dropped from the cache instead."""
REMEMBERED: Final = 10_000

_PUT: Final = Script("snapshots.lua")


class SnapshotCache(Publisher):
    """Keeps `headway:{LOG}:job:JOB` and the heartbeat. `load` is called in a thread; `ttl` in seconds."""

    name: ClassVar[str] = "snapshot-cache"

    def __init__(self, url: str, load: LoadSnapshots, *, ttl: int = TTL, pace: float = 0.15, keep: int = 1_000) -> None:
        self.keep, self.pace = keep, pace
        self._load, self._ttl = load, ttl
        self._redis = RedisConnection(url)
        self._fresh: OrderedDict[str, int] = OrderedDict()
        """Positions up to which snapshots were put by us, since the last look."""

    def encode(self, events: Sequence[RecordedEvent], epoch: int) -> list[Entry]:
        return [Entry(event.position, event.job_id, cursor_of(event, epoch), b"") for event in events]

    async def look(self, log: str, epoch: int) -> Tail:
        self._fresh.clear()
        return _tail(log, epoch, await self._redis.command("GET", marker_key(log)))

    async def publish(self, tail: Tail, entries: Sequence[Entry], *, replace: bool = False) -> Tail:
        log, epoch = tail.log, tail.epoch
        if replace:
            await self._clear(log)
            self._fresh.clear()
        if not entries:
            await self._redis.command("DEL", marker_key(log))
            return _tail(log, epoch, None)
        # Newest first: if there are too many, the ones that were heard of last are kept.
        last = {entry.job_id: entry.position for entry in entries}
        stale = [job for job in reversed(last) if job != LOG_JOB and self._fresh.get(job, 0) < last[job]]
        loaded = await anyio.to_thread.run_sync(self._load, stale[:MAX_LOADED], abandon_on_cancel=True) if stale else {}
        cursor = entries[-1].cursor
        state = await self._redis.run(
            _PUT,
            [marker_key(log), *(snapshot_key(log, job) for job in stale)],
            [tail.state, cursor, self._ttl, *(loaded.get(job, b"") for job in stale)],
        )
        if state == cursor.encode():
            self._remember(loaded)
        return _tail(log, epoch, state)

    def _remember(self, loaded: Mapping[str, bytes]) -> None:
        """A snapshot is of the head when it was read: a relay that is behind need not make it again up to there."""
        for job, raw in loaded.items():
            self._fresh[job] = parse_position(_reflected(raw).cursor)
            self._fresh.move_to_end(job)
        while len(self._fresh) > REMEMBERED:
            self._fresh.popitem(last=False)

    async def caught_up(self, log: str) -> None:
        await self._redis.command("SET", heartbeat_key(log), "1", "EX", HEARTBEAT)

    async def _clear(self, log: str) -> None:
        pattern = snapshot_key(log, "*")
        at = b"0"
        while True:
            at, keys = await self._redis.command("SCAN", at, "MATCH", pattern, "COUNT", 1_000)
            if keys:
                await self._redis.command("UNLINK", *keys)
            if int(at) == 0:
                return

    async def aclose(self) -> None:
        await self._redis.aclose()


def marker_key(log: str) -> str:
    """Where the cursor stands up to which all cached snapshots are fresh."""
    return f"headway:{{{log}}}:snapshots"


class _Reflected(msgspec.Struct):
    cursor: str = ""


_reflected: Final = msgspec.json.Decoder(_Reflected).decode


def parse_position(text: str) -> int:
    """The position of a full cursor; 0 for anything else."""
    try:
        cursor = parse_cursor(text)
    except InvalidCursor:
        return 0
    return cursor.position if isinstance(cursor, Cursor) else 0


def _tail(log: str, epoch: int, raw: bytes | None) -> Tail:
    if not raw:
        return Tail(log=log, epoch=epoch, state="", unsure=True)
    state = raw.decode(errors="replace")
    try:
        cursor = parse_cursor(state)
    except InvalidCursor:
        cursor = None
    # A snapshot is of a head beyond the marker, maybe one that the old epoch had and this one lost: not ours.
    ours = isinstance(cursor, Cursor) and cursor.epoch == epoch
    return Tail(log=log, epoch=epoch, state=state, cursor=state if ours else None)
