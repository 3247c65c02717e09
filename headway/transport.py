"""How reports get to the log. `Transport` is the seam; here is the one that appends to a store directly.

Only the sender's thread calls a transport. Nothing of the store is imported unless a store is reported to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from headway.report import Known, Outgoing

if TYPE_CHECKING:
    from eventstore.store import EventStore


class Transport(Protocol):
    """A way to the log. Errors may say by a `retryable` attribute whether the same call can succeed later."""

    def look(self, job_id: str) -> Known | None:
        """What the log knows of a job; None if nothing, or if this transport can't ask."""
        ...

    def send(self, events: Sequence[Outgoing]) -> None:
        """Append the events in order, all or none; returns when they are in the log. Sending again is safe."""
        ...

    def close(self) -> None:
        """Let go of connections that this transport made."""
        ...

    def forked(self) -> None:
        """This is a child process now: nothing of the parent's may be used or closed."""
        ...


class StoreTransport:
    """Appends to a store: one that is given, or one of its own at a PostgreSQL URL, connected at the first report.

    For a URL the database's driver is imported here, once, before any job: in the sender's thread it would hold up the
    job for the time that loading a library takes.
    """

    def __init__(self, target: Any, *, log: str = "default") -> None:
        self._owned = isinstance(target, str)
        if self._owned:
            from eventstore.store import EventStore
            from projections.progress import Progress

            # Its own connections, so that a report is never part of the job's transaction. Reads are few.
            target = EventStore(target, log=log, projection=Progress(), pool_size=1)
            target.database.engine  # noqa: B018 - making the pool connects nothing, but imports the rest of the driver
        self._store: EventStore = getattr(target, "blocking", target)

    def look(self, job_id: str) -> Known | None:
        store = self._store
        if getattr(store, "database", None) is None or not store.projection.fold_version:
            return None  # this store keeps no step table
        from projections.snapshots import read_snapshot

        found = read_snapshot(store, job_id)
        if found is None:
            return None
        return Known(status=found.status, attempts={step.step: step.attempt for step in found.steps})

    def send(self, events: Sequence[Outgoing]) -> None:
        from eventstore.events import NewEvent, to_datetime

        pairs = [
            (
                event.job_id,
                NewEvent(
                    type=event.type,
                    step=event.step,
                    attempt=event.attempt,
                    seq=event.seq,
                    occurred_at=to_datetime(event.occurred_us),
                    event_id=UUID(bytes=event.event_id),
                    data=event.data,
                ),
            )
            for event in events
        ]
        self._store.append_many(pairs)

    def close(self) -> None:
        if self._owned:
            self._store.close()

    def forked(self) -> None:
        pass  # the store sees by itself in which process it is
