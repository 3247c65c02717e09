"""The hash chain: `hash_n = SHA-256(hash_{n-1} ‖ leaf_n)`, over every column of an event.

The leaf is the fields in a fixed order, each with a length of four bytes before it (0xFFFFFFFF for none); integers are
eight bytes, big-endian, signed. Text of the event enters as SHA-256(salt ‖ canonical text), so it can be erased later
without breaking the chain. Golden vectors: tests/vectors/chain.json. It shows an edit to
whoever holds a later cursor; nothing more.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Final

GENESIS: Final = bytes(32)
"""The hash before position 1."""

_NONE: Final = b"\xff\xff\xff\xff"
_I = struct.Struct(">I").pack
_IQ = struct.Struct(">Iq").pack
_IQI = struct.Struct(">IqI").pack
_TAIL = struct.Struct(">IqI").pack


def digest(salt: bytes, text: bytes) -> bytes:
    """What stands in the leaf for an event's data."""
    return sha256(salt + text).digest()


def leaf(
    log: bytes,
    position: int,
    job_id: str,
    version: int,
    event_id: bytes,
    kind: str,
    step: str | None,
    attempt: int | None,
    seq: int | None,
    applied: bool,
    reason: str | None,
    ppm: int,
    actor: str | None,
    occurred_us: int | None,
    recorded_us: int,
    data_digest: bytes,
) -> bytes:
    """The bytes of one event in the chain. `log` is the log's name in UTF-8."""
    job = job_id.encode()
    typ = kind.encode()
    return b"".join(
        (
            _I(len(log)),
            log,
            _IQI(8, position, len(job)),
            job,
            _IQI(8, version, 16),
            event_id,
            _I(len(typ)),
            typ,
            _NONE if step is None else _text(step),
            _NONE if attempt is None else _IQ(8, attempt),
            _NONE if seq is None else _IQ(8, seq),
            b"\x00\x00\x00\x01\x01" if applied else b"\x00\x00\x00\x01\x00",
            _NONE if reason is None else _text(reason),
            _IQ(8, ppm),
            _NONE if actor is None else _text(actor),
            _NONE if occurred_us is None else _IQ(8, occurred_us),
            _TAIL(8, recorded_us, 32),
            data_digest,
        )
    )


def _text(value: str) -> bytes:
    raw = value.encode()
    return _I(len(raw)) + raw


def link(previous: bytes, leaf_bytes: bytes) -> bytes:
    """The hash after one more event."""
    return sha256(previous + leaf_bytes).digest()
