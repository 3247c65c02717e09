"""What must hold of the fold over any history, tried on more than 100,000 random events per run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import islice, permutations
from math import floor
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from eventstore.events import NewEvent
from projections.check import check
from tests.property.histories import histories, ranges, reports, seeds, shrink
from tests.property.naive import Naive
from tests.support.given import Event, History

ONE = 1_000_000
CAP = 990_000
ENDED = ("completed", "failed", "cancelled")
COUNTED = ("rejected", "version", "position")
"""What a rejected event may change."""

BULK = 1_000
"""Events of one bulk example, over as many jobs as it takes."""


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def jobs(seed: int, total: int = BULK, *, longest: int = 400, tame: bool = False) -> Iterator[list[Event]]:
    """Histories of jobs, `total` events together; each ends soon after its job completed, or at `longest`."""
    rng = Random(seed)
    while total > 0:
        folded, events, after = History(), [], 0
        for event in islice(reports(rng, tame=tame), min(total, longest)):
            folded.append(event)
            events.append(event)
            after += folded.state.status == "completed"
            if after > 15:
                break
        total -= len(events)
        yield events


def without_counts(snapshot: dict[str, Any]) -> dict[str, Any]:
    """The snapshot without what a rejected event changes."""
    job = {field: value for field, value in snapshot.items() if field not in COUNTED}
    job["steps"] = [{field: value for field, value in step.items() if field != "rejected"} for step in job["steps"]]
    return job


def broken(promise: Callable[[Sequence[Event]], str | None], events: Sequence[Event]) -> str | None:
    """What a promise says of a history; when it breaks, the shortest history that breaks it is noted."""
    complaint = promise(events)
    if complaint is not None:
        short = shrink(events, lambda some: promise(some) is not None)
        note(f"{promise(short)}; shortest history:\n" + "\n".join(json.dumps(e, ensure_ascii=False) for e in short))
    return complaint


# ------------------------------------------------------------------------------------------------ event by event


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


@examples(40)
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


# ------------------------------------------------------------------------------------------------ the naive model


def agrees_with_the_naive_model(events: Sequence[Event]) -> str | None:
    """The percentages that are kept up to date event by event are those that the whole tree gives, worked out anew."""
    history, naive = History(), Naive()
    for index, event in enumerate(events):
        if history.append(event).applied:
            naive.apply(event)
        state = history.state
        if state.status == "completed":
            naive.shown = ONE
        if state.percent != naive.shown:
            return f"event {index}: the job shows {state.percent}, the model {naive.shown}"
        for name, step in state.steps.items():
            if step.status != "removed" and step.frac != naive.fraction(name):
                return f"event {index}: step {name} is at {step.frac}, the model says {naive.fraction(name)}"
    return None


@examples(30)
@given(seeds())
def test_percentages_kept_up_to_date_are_those_of_the_whole_tree(seed: int) -> None:
    for events in jobs(seed, tame=True):
        assert broken(agrees_with_the_naive_model, events) is None


@examples(50)
@given(histories(tame=True))
def test_percentages_of_short_histories_are_those_of_the_whole_tree(events: list[Event]) -> None:
    assert agrees_with_the_naive_model(events) is None


# ------------------------------------------------------------------------------------------------ again, and from a cut


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
    same = whole.snapshot() == pieces.snapshot() and fold.encode_state(whole.state) == fold.encode_state(pieces.state)
    return None if same else "the replay ends in another state"


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


@pytest.mark.parametrize("names", list(permutations(("p", "o", "x", "a"))))
def test_the_order_in_which_steps_lie_decides_no_time_either(names: tuple[str, ...]) -> None:
    plan = [{"step": "p"}, {"step": "o", "parent": "p"}, {"step": "x", "parent": "o"}, {"step": "a", "parent": "o"}]
    history = History().when(
        {"type": "step.progressed", "step": "x", "data": {"percent": 50}, "at": 1_900_000_000_000_000},
        {"type": "job.planned", "data": {"steps": plan}},
        {"type": "step.failed", "step": "a", "data": {"error": {"message": "boom"}}},
    )
    kept, decode = history.fold.encode_state(history.state), history.fold.decode_state
    other = History()
    history.state, other.state, other.version = decode(kept), decode(kept), history.version
    history.state.steps = {step["step"]: history.state.steps[step["step"]] for step in plan}
    other.state.steps = {name: other.state.steps[name] for name in names}
    for one in (history, other):
        one.append({"type": "step.reset", "step": "o", "data": {}})
    assert history.snapshot() == other.snapshot()


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


# ------------------------------------------------------------------------------------------------ out of order


@examples(150)
@given(st.randoms(use_true_random=False))
def test_late_reports_never_raise_the_percentage_above_what_the_reports_say(rng: Random) -> None:
    names = [f"s{n}" for n in range(rng.randint(1, 5))]
    weights = [rng.choice((1, 2, 5, 0.5)) for _ in names]
    plan: Event = {
        "type": "job.planned",
        "data": {
            "steps": [{"step": n, "weight": w} for n, w in zip(names, weights, strict=True)],
            "auto_complete": False,
        },
    }
    sent: list[Event] = []
    says = dict.fromkeys(names, 0)
    for _ in range(rng.randint(1, 30)):
        at = rng.randrange(len(names))
        if rng.random() < 0.1:
            sent.append({"type": "step.completed", "step": names[at], "data": {}})
            says[names[at]] = ONE
            continue
        reached = rng.randint(0, 1000)
        data: Event = {"percent": reached / 10} if at % 2 else {"done": reached, "total": 1000}
        sent.append({"type": "step.progressed", "step": names[at], "data": data})
        says[names[at]] = max(says[names[at]], reached * 1000)
    share = sum(Fraction(w) * says[n] for n, w in zip(names, weights, strict=True)) / sum(map(Fraction, weights))
    told = min(floor(share), CAP)
    rng.shuffle(sent)
    history = History().when(plan)
    for event in sent:
        history.append(event)
        assert history.state.percent <= told
    assert history.state.percent == told
    late = rng.sample(sent, len(sent))
    assert history.when(*late).state.percent == told


def calculate_step_progress(start: Fraction, end: Fraction, percent: Fraction) -> Fraction:
    """The old system's formula, in percent."""
    return start + (end - start) * percent / 100


@examples(150)
@given(st.randoms(use_true_random=False))
def test_ranges_in_order_show_what_the_old_formula_shows(rng: Random) -> None:
    entries = ranges(rng, [f"s{n}" for n in range(rng.randint(1, 6))])
    history = History().when({"type": "job.planned", "data": {"steps": entries, "auto_complete": False}})

    def shows(percent: Fraction) -> None:
        assert history.state.percent == min(floor(percent * 10_000), CAP)

    for entry in entries:
        start, end = (Fraction(repr(limit)) for limit in entry["range"])
        history.append({"type": "step.started", "step": entry["step"], "data": {}})
        shows(start)
        for reached in sorted(rng.choices(range(0, 1_000_001, rng.choice((1, 100, 10_000))), k=rng.randint(0, 6))):
            percent = reached / 10_000
            history.append({"type": "step.progressed", "step": entry["step"], "data": {"percent": percent}})
            shows(calculate_step_progress(start, end, Fraction(repr(percent))))
        history.append({"type": "step.completed", "step": entry["step"], "data": {}})
        shows(end if entry is not entries[-1] else Fraction(100))


def test_the_bar_moves_at_every_step_when_ninety_are_found_after_five_of_ten() -> None:
    steps = [{"step": f"s{n}"} for n in range(100)]
    history = History().when({"type": "job.planned", "data": {"steps": steps[:10], "auto_complete": False}})
    for n in range(5):
        history.append({"type": "step.completed", "step": f"s{n}", "data": {}})
    history.append({"type": "job.planned", "data": {"steps": steps, "auto_complete": False}})
    assert history.state.percent == 500_000
    for n in range(5, 100):
        before = history.state.percent
        history.append({"type": "step.completed", "step": f"s{n}", "data": {}})
        assert history.state.percent == min(floor(ONE - Fraction(ONE, 2) * (99 - n) / 95), CAP) >= before
        assert history.state.percent > before or before == CAP
