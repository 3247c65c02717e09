"""An event that was read and checked and only has to be appended, as it waits in a spool."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from eventstore.events import NewEvent, to_datetime


class Entry(NamedTuple):
    """`first` and `second` give the order; `data` is JSON, None for an empty object; `us` microseconds since 1970.

    `applied`, `reason` and `ppm` are what an export says that became of it; `applied` is None where nobody said.
    """

    first: int
    second: int
    line: int
    job_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    us: int | None
    event_id: bytes
    data: bytes | None
    actor: str | None
    applied: bool | None
    reason: str | None
    ppm: int

    def new_event(self) -> NewEvent:
        data: dict[str, Any] = {} if self.data is None else msgspec.json.decode(self.data)
        return NewEvent(
            type=self.type,
            step=self.step,
            attempt=self.attempt,
            seq=self.seq,
            occurred_at=None if self.us is None else to_datetime(self.us),
            event_id=UUID(bytes=self.event_id),
            data=data,
            actor=self.actor,
        )
