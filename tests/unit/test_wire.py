"""A recorded event goes over the wire as one line of JSON and comes back the same."""

from __future__ import annotations

import json
import uuid

import msgspec
import pytest

from eventstore.events import RecordedEvent
from eventstore.wire import as_dict, cursor_of, decode_event, encode_event, heartbeat_key, snapshot_key, stream_key

IDENT = uuid.UUID("018f4d2e-7c00-7abc-8def-0123456789ab")


def event(**fields: object) -> RecordedEvent:
    said = {
        "position": 42, "job_id": "build:7", "version": 3, "event_id_bytes": IDENT.bytes, "type": "step.progressed",
        "step": "推送\u2028模板", "attempt": 2, "seq": 0,
        "data_json": '{"message":"正在\\n推送","percent":42.5}'.encode(),
        "applied": True, "reason": None, "ppm": 425_000, "actor": "worker-7", "occurred_us": 1_767_225_599_999_999,
        "recorded_us": 1_767_225_600_000_001, "hash": bytes(range(32)),
    }  # fmt: skip
    return RecordedEvent(**(said | fields))  # type: ignore[arg-type]


EVENTS = [
    event(),
    event(step=None, attempt=None, seq=None, actor=None, occurred_us=None, data_json=b"{}"),
    event(applied=False, reason="regression", ppm=0),
    event(occurred_us=-62_135_596_800_000_000, recorded_us=0),
    event(occurred_us=253_402_300_799_999_999),
]


@pytest.mark.parametrize("given", EVENTS)
def test_an_event_comes_back_from_its_json_as_it_was(given):
    assert decode_event(encode_event(given, 1)) == given


@pytest.mark.parametrize("ppm", [*range(0, 1_000_001, 997), 1, 9_999, 10_001, 999_999, 1_000_000])
def test_every_percentage_comes_back_exactly(ppm):
    assert decode_event(encode_event(event(ppm=ppm), 1)).ppm == ppm


def test_the_json_is_one_line_with_the_fields_in_their_order():
    raw = encode_event(event(), 7)
    assert b"\n" not in raw
    assert b"\r" not in raw
    decoded = json.loads(raw)
    assert list(decoded) == [
        "position", "cursor", "job_id", "version", "event_id", "type", "step", "attempt", "seq", "applied", "reason",
        "percent", "actor", "occurred_at", "recorded_at", "data", "hash",
    ]  # fmt: skip
    assert decoded["cursor"] == cursor_of(event(), 7) == "0007_0000000000000042_00010203"
    assert decoded["event_id"] == str(IDENT)
    assert decoded["percent"] == 42.5
    assert decoded["occurred_at"] == "2025-12-31T23:59:59.999999Z"
    assert decoded["recorded_at"] == "2026-01-01T00:00:00.000001Z"
    assert decoded["data"] == {"message": "正在\n推送", "percent": 42.5}
    assert as_dict(event(), 7) == decoded


def test_a_row_with_a_time_beyond_the_calendar_still_gives_a_line():
    poisoned = event(recorded_us=2**63 - 1 + 946_684_800_000_000)
    assert json.loads(encode_event(poisoned, 1))["recorded_at"] is None
    assert decode_event(encode_event(poisoned, 1)).position == 42


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b'{"position":1}', encode_event(event(), 1)[:-2], b"\xff"])
def test_what_is_no_event_is_refused(raw):
    with pytest.raises((msgspec.DecodeError, msgspec.ValidationError)):
        decode_event(raw)


def test_the_keys_of_a_log_share_a_slot():
    assert stream_key("default", 3) == "headway:{default}:3:events"
    assert snapshot_key("default", "a") == "headway:{default}:job:a"
    assert heartbeat_key("default") == "headway:{default}:relay"
