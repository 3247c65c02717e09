"""A recorded event as JSON: what Redis, SSE, HTTP and `--json` carry, and the way back. One line, one shape."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from eventstore.cursor import format_cursor
from eventstore.events import RecordedEvent, to_datetime, to_us


class WireEvent(msgspec.Struct, frozen=True, gc=False):
    """The JSON of a recorded event, in this order. `percent` is the job's, 0 to 100; `hash` the chain hash in hex."""

    position: int
    cursor: str
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
    recorded_at: datetime | None
    data: msgspec.Raw
    hash: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(WireEvent).decode
_EARLIEST: Final = -62_135_596_800_000_000  # year 1
_LATEST: Final = 253_402_300_799_999_999  # the end of year 9999


def cursor_of(event: RecordedEvent, epoch: int) -> str:
    """The cursor after this event."""
    return format_cursor(epoch, event.position, event.hash[:4].hex())


def to_wire(event: RecordedEvent, epoch: int) -> WireEvent:
    ident = event.event_id_bytes.hex()
    recorded_us, occurred_us = event.recorded_us, event.occurred_us
    digest = event.hash.hex()
    return WireEvent(
        event.position,
        format_cursor(epoch, event.position, digest[:8]),
        event.job_id,
        event.version,
        f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}",
        event.type,
        event.step,
        event.attempt,
        event.seq,
        event.applied,
        event.reason,
        event.ppm / 10_000,
        event.actor,
        None if occurred_us is None else _moment(occurred_us),
        _moment(recorded_us),
        msgspec.Raw(event.data_json),
        digest,
    )


@lru_cache(maxsize=128)
def _moment(us: int) -> datetime | None:
    """None for a time that no calendar has: infinity, put into a row by hand, must not stop who publishes it."""
    return to_datetime(us) if _EARLIEST <= us <= _LATEST else None


def encode_event(event: RecordedEvent, epoch: int) -> bytes:
    """The event as one line of JSON."""
    return _encode(to_wire(event, epoch))


def encode_with_cursor(event: RecordedEvent, epoch: int) -> tuple[str, bytes]:
    """The cursor after this event, and the event as one line of JSON."""
    wire = to_wire(event, epoch)
    return wire.cursor, _encode(wire)


def decode_event(raw: bytes) -> RecordedEvent:
    """The event back from its JSON. Raises msgspec.DecodeError, or ValueError for what `encode_event` never wrote."""
    wire = _decode(raw)
    return RecordedEvent(
        wire.position,
        wire.job_id,
        wire.version,
        bytes.fromhex(wire.event_id.replace("-", "")),
        wire.type,
        wire.step,
        wire.attempt,
        wire.seq,
        bytes(wire.data),
        wire.applied,
        wire.reason,
        round(wire.percent * 10_000),
        wire.actor,
        None if wire.occurred_at is None else to_us(wire.occurred_at),
        _LATEST if wire.recorded_at is None else to_us(wire.recorded_at),
        bytes.fromhex(wire.hash),
    )


def as_dict(event: RecordedEvent, epoch: int) -> dict[str, Any]:
    """The event as plain values, as a program that reads its JSON would see it."""
    decoded: dict[str, Any] = msgspec.json.decode(encode_event(event, epoch))
    return decoded


def stream_key(log: str, epoch: int) -> str:
    """The Redis stream of a log's epoch. The braces keep all keys of a log in one slot of a Redis Cluster."""
    return f"headway:{{{log}}}:{epoch}:events"


def snapshot_key(log: str, job_id: str) -> str:
    return f"headway:{{{log}}}:job:{job_id}"


def heartbeat_key(log: str) -> str:
    return f"headway:{{{log}}}:relay"
