"""What holds at every event of any history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given

from eventstore.events import NewEvent
from projections.check import check
from tests.property.bulk import broken, examples, jobs, without_counts
from tests.property.histories import histories, seeds
from tests.support.given import Event, History

ONE = 1_000_000
CAP = 990_000
ENDED = ("completed", "failed", "cancelled")


def keeps_every_promise(events: Sequence[Event]) -> str | None:
    """Monotone per job and group; at most 99 % before, 100 % after completion; frozen after the end; rejected events
    change nothing but counts; attempts are never lost; no float anywhere.
    """
    history = History()
    last = history.snapshot()
    rejected = 0
    for index, event in enumerate(events):
        verdict = history.append(event)
        now = history.snapshot()
        rejected += not verdict.applied
        complaint = compare(last, now, verdict.applied, verdict.ppm, event) or (
            "rejected is not the number of rejected events" if now["rejected"] != rejected else None
        )
        if complaint is not None:
            return f"event {index} ({event['type']}): {complaint}"
        last = now
    return None


def compare(last: dict[str, Any], now: dict[str, Any], applied: bool, ppm: int, event: Event) -> str | None:
    shown = now["percent_ppm"]
    if shown != ppm:
        return "the verdict's percentage is not the job's"
    if shown < last["percent_ppm"]:
        return f"the job fell from {last['percent_ppm']} to {shown}"
    if not 0 <= shown <= (ONE if now["status"] == "completed" else CAP) or (shown == ONE) != (
        now["status"] == "completed"
    ):
        return f"{shown} ppm is shown while {now['status']}"
    if not applied:
        if not last["version"]:
            return None  # the first event creates the job, even one that is rejected
        return None if without_counts(last) == without_counts(now) else "a rejected event changed more than counts"
    if last["status"] in ENDED and event["type"] != "job.reopened":
        return "an event applied after the end"
    groups = {
        step["step"]: step["percent_ppm"] for step in last["steps"] if step["group"] and step["status"] != "removed"
    }
    for step in now["steps"]:
        if not 0 <= step["percent_ppm"] <= ONE:
            return f"step {step['step']} is at {step['percent_ppm']}"
        if step["group"] and step["percent_ppm"] < groups.get(step["step"], 0):
            return f"group {step['step']} fell to {step['percent_ppm']}"
    return lost(last["attempts"], now["attempts"]) or holds_float(now)


def lost(last: list[dict[str, Any]], now: list[dict[str, Any]]) -> str | None:
    """An attempt is there for ever, and what ended stays as it ended."""
    if len(last) == len(now) and last == now:
        return None
    rows = {(row["step"], row["attempt"]): row for row in now}
    for row in last:
        kept = rows.get((row["step"], row["attempt"]))
        if kept is None:
            return f"attempt {row['attempt']} of {row['step']} is lost"
        if row["ended_us"] is not None and kept != row:
            return f"attempt {row['attempt']} of {row['step']} changed after its end"
    return None


def holds_float(value: Any, path: str = "") -> str | None:
    for field, item in value.items():
        kind = type(item)
        if kind is float:
            return f"{path}.{field} is a float"
        if kind is list:
            for part in item:
                if type(part) is float or (type(part) is dict and (found := holds_float(part, f"{path}.{field}"))):
                    return found
        elif kind is dict and field not in ("metadata", "error") and (found := holds_float(item, f"{path}.{field}")):
            return found
    return None


@examples(50)
@given(seeds())
def test_long_histories_keep_every_promise(seed: int) -> None:
    for events in jobs(seed):
        assert broken(keeps_every_promise, events) is None


@examples(60)
@given(histories())
def test_short_histories_keep_every_promise(events: list[Event]) -> None:
    assert keeps_every_promise(events) is None


@examples(10)
@given(seeds())
def test_a_history_is_made_of_valid_reports(seed: int) -> None:
    for events in jobs(seed):
        for event in events:
            check(NewEvent(**{field: value for field, value in event.items() if field != "at"}))
