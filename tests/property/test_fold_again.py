"""Again, from a cut, or in another order: the same events end in the same state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property.bulk import broken, examples, jobs, without_counts
from tests.property.histories import histories, seeds
from tests.support.given import Event, History


def survives_cuts(events: Sequence[Event], cuts: Sequence[int] = ()) -> str | None:
    """A state that went through JSON goes on as the one that did not: snapshot + tail = full replay, byte for byte."""
    whole, pieces = History(), History()
    fold = whole.fold
    rng = Random(len(events))
    at = set(cuts) or {rng.randrange(len(events)) for _ in range(5)}
    for index, event in enumerate(events):
        if index in at:
            kept = fold.encode_state(pieces.state)
            pieces.state = fold.decode_state(kept)
            if fold.encode_state(pieces.state) != kept:
                return f"event {index}: the state is not the same after JSON"
        if whole.append(event) != pieces.append(event):
            return f"event {index}: another verdict after JSON"
    return (
        None
        if fold.encode_state(whole.state) == fold.encode_state(pieces.state)
        else "the replay ends in another state"
    )


@examples(25)
@given(seeds())
def test_a_snapshot_and_the_tail_give_the_full_replay(seed: int) -> None:
    for events in jobs(seed):
        assert broken(survives_cuts, events) is None


@examples(50)
@given(histories(), st.data())
def test_any_cut_of_a_short_history_gives_the_full_replay(events: list[Event], data: st.DataObject) -> None:
    assert survives_cuts(events, [data.draw(st.integers(0, len(events) - 1))]) is None


def lies_in_any_order(events: Sequence[Event]) -> str | None:
    """In which order the steps lie in the state (as planned, as loaded, as decoded) decides nothing."""
    rng = Random(len(events))
    laid, mixed = History(), History()
    for index, event in enumerate(events):
        steps = list(mixed.state.steps.items())
        rng.shuffle(steps)
        mixed.state.steps = dict(steps)
        if laid.append(event) != mixed.append(event):
            return f"event {index}: another verdict when the steps lie in another order"
    encode = laid.fold.encode_state
    return None if encode(laid.state) == encode(mixed.state) else "another state when the steps lie in another order"


@examples(15)
@given(seeds())
def test_the_order_in_which_steps_lie_decides_nothing(seed: int) -> None:
    for events in jobs(seed):
        assert broken(lies_in_any_order, events) is None


def test_the_order_in_which_steps_lie_decides_no_time_either() -> None:
    plan = [{"step": "p"}, {"step": "o", "parent": "p"}, {"step": "x", "parent": "o"}, {"step": "a", "parent": "o"}]
    events: list[Event] = [
        {"type": "step.progressed", "step": "x", "data": {"percent": 50}, "at": 1_900_000_000_000_000},
        {"type": "job.planned", "data": {"steps": plan}},
        {"type": "step.failed", "step": "a", "data": {"error": {"message": "boom"}}},
        {"type": "step.reset", "step": "o", "data": {}},
    ]
    ends = []
    for names in permutations(("p", "o", "x", "a")):
        history = History().when(*events[:-1])
        history.state.steps = {name: history.state.steps[name] for name in names}
        ends.append(history.when(events[-1]).snapshot())
    assert all(end == ends[0] for end in ends)


def test_a_group_starts_with_the_first_child_that_does() -> None:
    plan = [{"step": "g"}, *({"step": name, "parent": "g"} for name in "abc")]
    history = History().when({"type": "job.planned", "data": {"steps": plan}})
    history.when({"type": "step.cancelled", "step": "a", "data": {}}, {"type": "step.started", "step": "b", "data": {}})
    started = {step["step"]: step["started_us"] for step in history.snapshot()["steps"]}
    assert started["g"] == started["b"]


def test_an_empty_label_given_again_is_no_news() -> None:
    history = History().when({"type": "step.started", "step": "a", "data": {}})
    history.when({"type": "step.added", "step": "a", "data": {"label": "", "weight": 2}}, times=2)
    assert history.verdicts[-1].reason == "already"


def timed(events: Sequence[Event]) -> list[Event]:
    """Every report with a time of its own: its repetition brings the same."""
    return [{**event, "at": event.get("at", 1_800_000_000_000_000 + 1_000_000 * n)} for n, event in enumerate(events)]


def repeats_without_effect(events: Sequence[Event]) -> str | None:
    """Each report twice in a row ends where each once ends."""
    once, twice = History(), History()
    for index, event in enumerate(timed(events)):
        once.append(event)
        twice.when(event, times=2)
        if once.state.percent != twice.state.percent or once.state.status != twice.state.status:
            return f"event {index} ({event['type']}): said twice it is not what it is said once"
    if without_counts(once.snapshot()) == without_counts(twice.snapshot()):
        return None
    return "said twice it ends elsewhere"


@examples(25)
@given(seeds())
def test_an_immediate_repetition_changes_nothing(seed: int) -> None:
    for events in jobs(seed, longest=100):
        assert broken(repeats_without_effect, events) is None


@examples(50)
@given(histories())
def test_an_immediate_repetition_changes_nothing_in_short_histories(events: list[Event]) -> None:
    assert repeats_without_effect(events) is None


def reached(snapshot: dict[str, Any]) -> Any:
    """What a late report must not touch: percentages, attempts, and which steps have ended how."""
    over = {s["step"]: s["status"] for s in snapshot["steps"] if s["status"] not in ("running", "waiting")}
    percent = {step["step"]: step["percent_ppm"] for step in snapshot["steps"]}
    return (
        snapshot["percent_ppm"],
        percent,
        over,
        [(row["step"], row["attempt"], row["status"]) for row in snapshot["attempts"]],
    )


def ignores_late_repetitions(events: Sequence[Event]) -> str | None:
    """Of a report that carries its attempt, a repetition at any later time moves no percentage and opens, ends and
    changes no attempt. (That a step waits, or a last message, only `seq` can protect.)
    """
    history = History()
    for index, event in enumerate(events):
        late = event.get("late") and any({**earlier, "late": True} == event for earlier in events[:index])
        before = history.snapshot() if late else None
        history.append(event)
        if before is not None and reached(before) != reached(history.snapshot()):
            return f"event {index}: the late {event['type']} of {event['step']} was taken for news"
    return None


LATE = frozenset(f"step.{verb}" for verb in "started progressed completed failed skipped cancelled".split())
UNCAREFUL = frozenset(("step.reset", "step.removed", "step.added", "job.reopened"))


def with_late_repetitions(events: Sequence[Event], rng: Random) -> list[Event]:
    """The history of careful workers whose network is not: each report of a step names its attempt, and comes again at
    any time, counted as it was at first (another total is news by rule). Nobody resets, re-plans or reports a group.
    """
    attempt: dict[str, int] = {}
    counted: dict[str | None, Any] = {}
    sent: list[Event] = []
    careful: list[Event] = []
    groups = {entry.get("parent") for event in events for entry in event["data"].get("steps", ())}
    for event in timed(events):
        name, kind = event.get("step"), event["type"]
        if kind in UNCAREFUL or name in groups or (kind == "job.planned" and careful):
            continue
        if kind == "step.progressed":
            way = ("percent" in event["data"], event["data"].get("total"))
            if counted.setdefault(name, way) != way:
                continue
        if name is not None:
            if kind == "step.started":
                attempt[name] = attempt.get(name, 0) + 1
            careful.append({**event, "attempt": max(attempt.get(name, 0), 1)})
            if kind in LATE:
                sent.append(careful[-1])
        else:
            careful.append(event)
        if sent and rng.random() < 0.4:
            careful.append({**rng.choice(sent), "late": True})
    return careful


@examples(15)
@given(seeds())
def test_a_late_repetition_that_names_its_attempt_is_no_news(seed: int) -> None:
    for events in jobs(seed, longest=150):
        careful = with_late_repetitions(events, Random(seed))
        assert broken(ignores_late_repetitions, careful) is None
