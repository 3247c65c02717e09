"""The checker finds each kind of broken promise: a checker that finds nothing would prove nothing."""

from __future__ import annotations

import uuid
from typing import NamedTuple

import pytest

from tests.support.checker import Call, violations

IDS = [str(uuid.UUID(int=n)) for n in range(1, 7)]


class Stored(NamedTuple):
    position: int
    event_id: str
    job_id: str = "a"
    version: int = 0


def log(*ids: str) -> list[Stored]:
    return [Stored(n, ident, "a", n) for n, ident in enumerate(ids, start=1)]


def call(*numbers: int, sent: float = 0.0, answered: float | None = None, at: list[int] | None = None) -> Call:
    ids = [IDS[n] for n in numbers]
    return Call(ids=ids, jobs=["a"] * len(ids), sent=sent, answered=answered, answers=[] if at is None else [at])


GOOD = [call(0, sent=1, answered=2, at=[1]), call(1, 2, sent=3, answered=4, at=[2, 3]), call(3, sent=5)]


def kinds(calls: list[Call], events: list[Stored]) -> set[str]:
    return {text.partition(":")[0] for text in violations(calls, events)}


def test_a_history_that_keeps_its_promises_has_no_violation():
    assert violations(GOOD, log(*IDS[:3])) == []


def test_an_unknown_outcome_may_be_there_or_not():
    assert violations(GOOD, log(*IDS[:4])) == []


def test_calls_that_overlap_may_stand_in_either_order():
    calls = [call(0, sent=1, answered=5, at=[2]), call(1, sent=2, answered=3, at=[1])]
    assert violations(calls, log(IDS[1], IDS[0])) == []


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        ("lost", log(*IDS[:2])),
        ("lost", log(IDS[1], IDS[0], IDS[2])),
        ("duplicate", [*log(*IDS[:3]), Stored(4, IDS[0], "a", 4)]),
        ("phantom", log(*IDS[:3], IDS[5])),
        ("whole", log(IDS[0], IDS[1])),
        ("whole", log(IDS[0], IDS[2], IDS[1])),
        ("whole", [Stored(1, IDS[0], "b", 1), Stored(2, IDS[1], "a", 1), Stored(3, IDS[2], "a", 2)]),
        ("dense", [Stored(1, IDS[0], "a", 1), Stored(3, IDS[1], "a", 2), Stored(4, IDS[2], "a", 3)]),
        ("dense", [Stored(1, IDS[0], "a", 1), Stored(2, IDS[1], "a", 3), Stored(3, IDS[2], "a", 4)]),
        ("real time", log(IDS[3], *IDS[:3])),
    ],
)
def test_each_broken_promise_is_found(kind, events):
    assert kind in kinds(GOOD, events)


def test_a_second_answer_with_another_position_is_found():
    twice = call(0, sent=1, answered=2, at=[1])
    twice.answers.append([2])
    assert "lost" in kinds([twice], log(IDS[0]))
