"""The percentage is what the rules say: worked out anew, by the old formula, and in any order of reports."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tests.property.bulk import broken, examples, jobs
from tests.property.histories import histories, ranges, seeds
from tests.property.naive import Naive
from tests.support.given import Event, History

ONE = 1_000_000
CAP = 990_000


def agrees_with_the_naive_model(events: Sequence[Event]) -> str | None:
    """The percentages that are kept up to date event by event are those that the whole tree gives, worked out anew.

    Up to a plan that names a group without children: that a leaf comes of it the model does not know, a vector does.
    """
    history, naive = History(), Naive()
    for index, event in enumerate(events):
        if makes_a_leaf_of_a_group(history, event):
            return None
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


def makes_a_leaf_of_a_group(history: History, event: Event) -> bool:
    if event["type"] != "job.planned":
        return False
    entries = event["data"]["steps"]
    groups = {name for name, step in history.state.steps.items() if step.group is not None}
    return bool(groups & {entry["step"] for entry in entries} - {entry.get("parent") for entry in entries})


@examples(30)
@given(seeds())
def test_percentages_kept_up_to_date_are_those_of_the_whole_tree(seed: int) -> None:
    for events in jobs(seed, tame=True):
        assert broken(agrees_with_the_naive_model, events) is None


@examples(50)
@given(histories(tame=True))
def test_percentages_of_short_histories_are_those_of_the_whole_tree(events: list[Event]) -> None:
    assert agrees_with_the_naive_model(events) is None


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
