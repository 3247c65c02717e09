"""The hash chain against golden vectors, and against a second implementation written from the design alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from eventstore import chain

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/chain.json").read_text("utf-8"))
FIELDS = (
    "log", "position", "job_id", "version", "event_id", "type", "step", "attempt", "seq", "applied", "reason",
    "percent", "actor", "occurred_us", "recorded_us",
)  # fmt: skip


def second_leaf(log: str, event: dict[str, Any]) -> bytes:
    """Each field with its length before it, in the order of the design; 0xFFFFFFFF for none."""
    out = b""
    for name in FIELDS:
        value = log if name == "log" else event[name]
        if value is None:
            out += b"\xff" * 4
            continue
        if name == "event_id":
            raw = bytes.fromhex(value.replace("-", ""))
        elif isinstance(value, bool):
            raw = bytes([value])
        elif isinstance(value, int):
            raw = value.to_bytes(8, "big", signed=True)
        else:
            raw = value.encode("utf-8")
        out += len(raw).to_bytes(4, "big") + raw
    digest = hashlib.sha256(bytes.fromhex(event["salt"]) + event["data"].encode("utf-8")).digest()
    return out + len(digest).to_bytes(4, "big") + digest


def our_leaf(log: str, event: dict[str, Any]) -> bytes:
    return chain.leaf(
        log.encode(), event["position"], event["job_id"], event["version"],
        bytes.fromhex(event["event_id"].replace("-", "")), event["type"], event["step"], event["attempt"], event["seq"],
        event["applied"], event["reason"], event["percent"], event["actor"], event["occurred_us"], event["recorded_us"],
        chain.digest(bytes.fromhex(event["salt"]), event["data"].encode()),
    )  # fmt: skip


@pytest.mark.parametrize("made_by", [second_leaf, our_leaf])
def test_the_chain_is_that_of_the_golden_vectors(made_by):
    running = bytes(32)
    for event in VECTORS["events"]:
        leaf = made_by(VECTORS["log"], event)
        assert leaf.hex() == event["leaf"], event["position"]
        running = hashlib.sha256(running + leaf).digest()
        assert running.hex() == event["hash"]
    assert len(VECTORS["events"]) >= 5


def test_our_links_are_those_of_the_golden_vectors():
    running = chain.GENESIS
    for event in VECTORS["events"]:
        running = chain.link(running, our_leaf(VECTORS["log"], event))
        assert running.hex() == event["hash"]


def test_every_field_moves_the_leaf():
    event = VECTORS["events"][1]
    leaf = our_leaf("default", event)
    assert our_leaf("defaul", event) != leaf
    for field in (*FIELDS[1:], "data", "salt"):
        value = event[field]
        match value:
            case None:
                other: Any = 1 if field in ("attempt", "seq", "occurred_us") else "x"
            case bool():
                other = not value
            case int():
                other = value + 1
            case str() if field in ("event_id", "salt"):
                other = ("1" if value[0] == "0" else "0") + value[1:]
            case _:
                other = value + "x"
        assert our_leaf("default", {**event, field: other}) != leaf, field


def test_text_that_moves_from_one_field_to_the_next_moves_the_leaf():
    event = {**VECTORS["events"][0], "type": "job.started", "step": "ab", "reason": None, "applied": True}
    assert our_leaf("x", event) != our_leaf("x", {**event, "type": "job.starteda", "step": "b"})
    assert our_leaf("x", {**event, "step": ""}) != our_leaf("x", {**event, "step": None})
