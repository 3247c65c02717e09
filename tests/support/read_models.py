"""Asynchronous projections for tests: one that counts the events of each job, and ways to look at its table."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import sqlalchemy as sa

from eventstore.events import NewEvent, RecordedEvent
from eventstore.store import EventStore
from projections.projection import Events, Projection


class JobEvents(Projection):
    """Counts. A message `poison` is refused until `cured`."""

    name = "job_events"
    version: ClassVar[int] = 1
    tables = (
        "CREATE TABLE job_events (log_id smallint NOT NULL, job_id text NOT NULL, events bigint NOT NULL,"
        " last bigint NOT NULL, PRIMARY KEY (log_id, job_id))",
        "CREATE INDEX job_events_last ON job_events (log_id, last)",
    )
    ADD = sa.text(
        "INSERT INTO job_events AS t (log_id, job_id, events, last) VALUES (:log_id, :job_id, :events, :last)"
        " ON CONFLICT (log_id, job_id) DO UPDATE SET events = t.events + excluded.events, last = excluded.last"
    )

    def __init__(self) -> None:
        self.cured = False
        self.batches: list[int] = []

    def handle(self, conn: sa.Connection, events: Events) -> None:
        self.batches.append(len(events))
        for event in events:
            self.look(event)
        last = {event.job_id: event.position for event in events}
        for job_id, count in Counter(event.job_id for event in events).items():
            conn.execute(self.ADD, {"log_id": events.log_id, "job_id": job_id, "events": count, "last": last[job_id]})

    def look(self, event: RecordedEvent) -> None:
        if not self.cured and event.data.get("message") == "poison":
            raise ValueError(f"position {event.position} is \0 poison")


def note(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


def append(store: EventStore, job_id: str, *messages: str) -> int:
    """Append notes; the position of the last one."""
    return store.append(job_id, [note(message) for message in messages])[-1].position


def counted(store: EventStore, schema: str = "public") -> dict[str, int]:
    """The table of `JobEvents`: job → events, of the store's log."""
    return dict(rows(store, f"SELECT job_id, events FROM {schema}.job_events WHERE log_id = %s", store.log_id()))


def in_log(store: EventStore) -> dict[str, int]:
    """How many events each job has in the log."""
    return dict(Counter(event.job_id for page in store.replay() for event in page))


def rows(store: EventStore, query: str, *params: Any) -> list[tuple[Any, ...]]:
    with store.database.session() as conn:
        return conn.execute(query, params).fetchall()  # type: ignore[call-overload]
