"""Who is measured: ours, the naive `UPDATE steps`, the recorder of the library `eventsourcing`, and plain inserts."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict

from eventstore.aio import AsyncEventStore
from eventstore.events import NewEvent
from eventstore.inline import NoProjection
from eventstore.store import EventStore

Write = Callable[[], None]
AsyncWrite = Callable[[], Awaitable[None]]


class Contender(Protocol):
    """`writer(k, batch)` gives caller k a function that durably writes `batch` events."""

    name: str

    def writer(self, caller: int, batch: int) -> Write: ...

    def close(self) -> None: ...


def progress(done: int, total: int = 1_000_000) -> NewEvent:
    return NewEvent(type="step.progressed", step="push", data={"done": done, "total": total, "message": "正在推送代码"})


class Headway:
    """The store with chain, fold and inline projection; each caller reports on a job of its own."""

    def __init__(self, url: str, *, projection: bool = True) -> None:
        from projections.progress import Progress

        self.name = "headway" if projection else "headway, append only"
        self.store = EventStore(
            url, projection=Progress() if projection else NoProjection(), log="bench" if projection else "bench-bare"
        )
        self.store.create_log()
        self._run = itertools.count()

    def writer(self, caller: int, batch: int, run: str | None = None) -> Write:
        name, ticks = run or str(next(self._run)), itertools.count()
        per_job = 40_000 // batch

        def write() -> None:
            tick = next(ticks)
            job = f"bench:{name}:{batch}:{caller}:{tick // per_job}"
            at = tick % per_job * batch
            self.store.append(job, [progress(at + i) for i in range(batch)])

        return write

    def async_writer(self, caller: int, batch: int = 1) -> AsyncWrite:
        """The same through the asynchronous shell."""
        shell, job, ticks = AsyncEventStore(self.store), f"bench:{next(self._run)}:tasks:{caller}", itertools.count()
        per_job = 40_000 // batch

        async def write() -> None:
            tick = next(ticks)
            at = tick % per_job * batch
            await shell.append(f"{job}:{batch}:{tick // per_job}", [progress(at + i) for i in range(batch)])

        return write

    def close(self) -> None:
        self.store.close()


class NaiveUpdate:
    """What many teams have: one row per step, updated in place; each caller has a connection of its own."""

    name = "naive UPDATE steps"

    def __init__(self, url: str) -> None:
        self.url = url
        self._open: list[psycopg.Connection[Any]] = []
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("DROP TABLE IF EXISTS naive_steps")
            conn.execute(
                "CREATE TABLE naive_steps (job_id text, step text, status text, done bigint, total bigint,"
                " message text, updated_at timestamptz, PRIMARY KEY (job_id, step)) WITH (fillfactor = 70)"
            )

    def writer(self, caller: int, batch: int) -> Write:
        conn = psycopg.connect(self.url, autocommit=True)
        self._open.append(conn)
        conn.execute(
            "INSERT INTO naive_steps VALUES (%s, 'push', 'running', 0, 1000000, '', now()) ON CONFLICT DO NOTHING",
            (f"bench:{caller}",),
        )
        ticks = itertools.count(1)

        def write() -> None:
            for _ in range(batch):
                conn.execute(
                    "UPDATE naive_steps SET status = 'running', done = %s, message = %s, updated_at = now()"
                    " WHERE job_id = %s AND step = 'push'",
                    (next(ticks), "正在推送代码", f"bench:{caller}"),
                )

        return write

    def close(self) -> None:
        for conn in self._open:
            conn.close()
        self._open.clear()


class Eventsourcing:
    """The application recorder of `eventsourcing` in its default mode: no projection, order by a table lock."""

    name = "eventsourcing recorder"

    def __init__(self, url: str, callers: int) -> None:
        from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

        params = conninfo_to_dict(url)
        self.datastore = PostgresDatastore(
            dbname=str(params.get("dbname", "")),
            host=str(params.get("host", "")),
            port=str(params.get("port", "5432")),
            user=str(params.get("user", "")),
            password=str(params.get("password", "") or "none"),
            pool_size=callers,
            max_overflow=callers,
            max_waiting=callers,
        )
        self.recorder = PostgresApplicationRecorder(self.datastore, events_table_name="peer_events")
        self.recorder.create_table()

    def writer(self, caller: int, batch: int) -> Write:
        from eventsourcing.persistence import StoredEvent

        originator, versions = uuid.uuid4(), itertools.count(1)
        state = '{"done":5,"total":1000000,"message":"正在推送代码"}'.encode()

        def write() -> None:
            self.recorder.insert_events(
                [StoredEvent(originator, next(versions), "step.progressed", state) for _ in range(batch)]
            )

        return write

    def close(self) -> None:
        self.datastore.close()
