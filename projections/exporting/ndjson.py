"""An event as the line that another log takes over."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from eventstore.events import RecordedEvent, to_datetime


class PortableEvent(msgspec.Struct, frozen=True, gc=False):
    """In this order. `percent` is the job's after the event, 0 to 100; `data` the canonical text as it is stored."""

    job_id: str
    version: int
    event_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    applied: bool
    reason: str | None
    percent: float
    actor: str | None
    occurred_at: datetime | None
    data: msgspec.Raw


_encode: Final = msgspec.json.Encoder().encode


def encode_portable(event: RecordedEvent) -> bytes:
    return _encode(
        PortableEvent(
            event.job_id,
            event.version,
            str(event.event_id),
            event.type,
            event.step,
            event.attempt,
            event.seq,
            event.applied,
            event.reason,
            event.ppm / 10_000,
            event.actor,
            moment(event.occurred_us),
            msgspec.Raw(event.data_json),
        )
    )


def moment(us: int | None) -> datetime | None:
    """None also for a time that no calendar has: infinity, put into a row by hand, must not stop an export."""
    try:
        return None if us is None else to_datetime(us)
    except OverflowError:
        return None


def error_of(data: dict[str, Any]) -> Any:
    """What an event's data say went wrong; None if they don't."""
    error = data.get("error")
    return error.get("message") if type(error) is dict else None
