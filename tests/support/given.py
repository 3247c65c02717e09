"""given / when / then for the fold: `given(planned, started).when(completed, times=2).then(percent_ppm=500_000)`.

Events are written as the vectors write them (`tests/README.md`): a dict with `type`, and where needed `step`,
`attempt`, `seq`, `data` and `at` (µs since 1970, the worker's claim). `expect` compares a part of a snapshot with all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

import projections.fold
from eventstore.inline import Verdict

VECTORS = Path(__file__).parents[1] / "vectors"
RECORDED_US = 1_800_000_000_000_000
"""When the log recorded the first event of every history here; one second later for each further event."""

Event = Mapping[str, Any]


class Fact(msgspec.Struct, frozen=True, gc=False):
    """An event as a fold sees it: the smallest thing that fulfils `eventstore.inline.FoldEvent`."""

    job_id: str
    type: str
    step: str | None
    attempt: int | None
    seq: int | None
    data: dict[str, Any]
    actor: str | None
    occurred_us: int | None
    recorded_us: int
    position: int
    version: int


def fact(event: Event, version: int, job_id: str = "job:1") -> Fact:
    """The event as the log would hand it to the fold as number `version` of its job."""
    return Fact(
        job_id=job_id,
        type=event["type"],
        step=event.get("step"),
        attempt=event.get("attempt"),
        seq=event.get("seq"),
        data=event.get("data", {}),
        actor=None,
        occurred_us=event.get("at"),
        recorded_us=RECORDED_US + 1_000_000 * (version - 1),
        position=version,
        version=version,
    )


class History:
    """One job's history, folded as it grows. `fold` is the module under test; the mutation test hands in others."""

    def __init__(self, fold: ModuleType = projections.fold, job_id: str = "job:1") -> None:
        self.fold, self.job_id = fold, job_id
        self.state = fold.initial(job_id)
        self.version = 0
        self.verdicts: list[Verdict] = []

    def append(self, event: Event) -> Verdict:
        """Fold one event and return its verdict."""
        self.version += 1
        self.state, verdict = self.fold.evolve(self.state, fact(event, self.version, self.job_id))
        self.verdicts.append(verdict)
        return verdict

    def when(self, *events: Event, times: int = 1) -> History:
        """Fold these events, each `times` times in a row: what holds after two must hold after one."""
        for event in events:
            for _ in range(times):
                self.append(event)
        return self

    def then(self, **expected: Any) -> History:
        """Assert that the snapshot holds what is named; see `expect`."""
        expect(self.snapshot(), expected)
        return self

    def snapshot(self) -> dict[str, Any]:
        taken: dict[str, Any] = self.fold.snapshot(self.state)
        return taken


def given(*events: Event, fold: ModuleType = projections.fold) -> History:
    """A job that has this history already."""
    return History(fold).when(*events)


def said(verdict: Verdict) -> dict[str, Any]:
    """A verdict as the vectors write it."""
    told: dict[str, Any] = {"applied": verdict.applied, "percent_ppm": verdict.ppm}
    if verdict.reason is not None:
        told["reason"] = verdict.reason
    return told


def expect(snapshot: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Assert that the snapshot has the expected fields.

    Three fields of `expected` are looked at apart: `order` (the names of all steps in the plan, in its order), `steps`
    (name → some fields of that step) and `attempts` (some fields of each attempt there is, in any order).
    """
    steps = {step["step"]: step for step in snapshot["steps"]}
    for field, value in expected.items():
        if field == "order":
            planned = [step["step"] for step in snapshot["steps"] if step["status"] != "removed"]
            assert planned == value, f"order: {planned}, expected {value}"
        elif field == "steps":
            for name, fields in value.items():
                _same(steps[name], fields, f"steps[{name}]")
        elif field == "attempts":
            have = {(row["step"], row["attempt"]): row for row in snapshot["attempts"]}
            assert len(have) == len(snapshot["attempts"]), "an attempt stands twice in the snapshot"
            wanted = {(row["step"], row["attempt"]): row for row in value}
            assert have.keys() == wanted.keys(), f"attempts: {sorted(have)}, expected {sorted(wanted)}"
            for key, fields in wanted.items():
                _same(have[key], fields, f"attempts[{key}]")
        else:
            _same(snapshot, {field: value}, "job")


def _same(have: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> None:
    for field, value in fields.items():
        assert have[field] == value, f"{where}.{field}: {have[field]!r}, expected {value!r}"


def vectors(pattern: str = "fold_*.json") -> Iterable[dict[str, Any]]:
    """All cases of the vector files that match, with their file's name under `file`."""
    for path in sorted(VECTORS.glob(pattern)):
        for case in json.loads(path.read_text(encoding="utf-8")):
            yield {"file": path.stem, **case}


def run(case: Mapping[str, Any], fold: ModuleType = projections.fold) -> None:
    """Play one vector: every verdict, then the snapshot."""
    history = History(fold)
    for index, (event, verdict) in enumerate(zip(case["events"], case["verdicts"], strict=True)):
        got = said(history.append(event))
        assert got == verdict, f"verdict {index} ({event['type']} {event.get('step', '')}): {got}, expected {verdict}"
    history.then(**case["snapshot"])
