"""The conformance suite of the fold: every vector and every cell of the matrix (`tests/vectors/`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from eventstore.events import EVENT_TYPES, JOB_TYPES, STEP_TYPES
from tests.support.given import RECORDED_US, VECTORS, given, run, said, vectors

CASES = list(vectors())
NAMES = [f"{case['file'].removeprefix('fold_')}: {case['name']}" for case in CASES]
MATRIX: dict[str, Any] = json.loads((VECTORS / "matrix.json").read_text(encoding="utf-8"))
JOB_STATUSES = "pending running waiting completed failed cancelled".split()
STEP_STATUSES = "pending running waiting retrying completed failed skipped cancelled abandoned removed".split()


def cells() -> Iterator[Any]:
    for row in MATRIX["rows"]:
        event = row["event"]
        told = [row["given"], event["type"]]
        if "attempt" in event:
            told.append(f"attempt {event['attempt']}")
        if "retry_at" in event["data"]:
            told.append("to be retried")
        if event.get("step") == "new":
            told.append("of a new step")
        if "done" in event["data"]:
            told.append("by count")
        yield pytest.param(row, id=", ".join(told))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_vector(case: dict[str, Any]) -> None:
    run(case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_each_event_of_a_vector_said_twice_is_said_once(case: dict[str, Any]) -> None:
    events = [{**event, "at": event.get("at", RECORDED_US + index)} for index, event in enumerate(case["events"])]
    once, twice = given(*events).snapshot(), given().when(*events, times=2).snapshot()
    for snapshot in (once, twice):
        del snapshot["version"], snapshot["position"], snapshot["rejected"]
        for step in snapshot["steps"]:
            del step["rejected"]
    assert twice == once


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_vector_through_json_after_each_event_is_the_same(case: dict[str, Any]) -> None:
    whole, pieces = given(), given()
    for event in case["events"]:
        kept = pieces.fold.encode_state(pieces.state)
        pieces.state = pieces.fold.decode_state(kept)
        assert pieces.fold.encode_state(pieces.state) == kept
        assert whole.append(event) == pieces.append(event)
    assert pieces.snapshot() == whole.snapshot()


@pytest.mark.parametrize("row", list(cells()))
def test_matrix(row: dict[str, Any]) -> None:
    history = given(*MATRIX["given"][row["given"]])
    verdict = said(history.append(row["event"]))
    snapshot = history.snapshot()
    steps = {step["step"]: step["status"] for step in snapshot["steps"]}
    assert verdict == row["verdict"]
    assert snapshot["status"] == row["job"]
    for name, status in row.get("step", {}).items():
        assert steps.get(name) == status


def test_the_vectors_name_every_type_and_every_reason() -> None:
    types = {event["type"] for case in CASES for event in case["events"]}
    reasons = {verdict.get("reason") for case in CASES for verdict in case["verdicts"]}
    assert types == EVENT_TYPES
    assert reasons == {None, *REASONS} - {"plan_full"}, "plan_full takes 10,000 steps: test_fold_limits"


REASONS = "regression already stale_attempt out_of_order step_ended job_ended not_absolute plan_full".split()


def test_the_matrix_is_complete() -> None:
    seen = {(row["given"], row["event"]["type"]) for row in MATRIX["rows"]}
    for status in JOB_STATUSES:
        assert {t for given_, t in seen if given_ == f"job {status}, with steps"} == EVENT_TYPES
        assert {t for given_, t in seen if given_ == f"job {status}, without steps"} == JOB_TYPES
    for status in STEP_STATUSES:
        assert {t for given_, t in seen if given_ == f"step {status}"} == STEP_TYPES


def test_each_vector_has_a_name_of_its_own_and_says_its_rule() -> None:
    names = [(case["file"], case["name"]) for case in CASES]
    assert len(set(names)) == len(names)
    assert all(case["rule"] and len(case["events"]) == len(case["verdicts"]) for case in CASES)
