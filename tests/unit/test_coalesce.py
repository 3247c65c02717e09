"""Few reports a second, and never the last one lost."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from headway.coalesce import Coalescer


def test_the_first_value_goes_at_once_and_the_next_is_held() -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    assert gate.offer("a", {"percent": 1}, now=0.0) == {"percent": 1}
    gate.arrived("a")
    assert gate.offer("a", {"percent": 2}, now=0.05) is None
    assert list(gate.due(0.09)) == []
    assert list(gate.due(0.1)) == [("a", {"percent": 2})]


def test_while_a_value_is_on_its_way_the_newest_waits_however_late_it_is() -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    gate.offer("a", {"percent": 1}, now=0.0)
    for percent in range(2, 50):
        assert gate.offer("a", {"percent": percent}, now=float(percent)) is None
    assert list(gate.due(100.0)) == []
    assert gate.next_due() is None
    gate.arrived("a")
    assert list(gate.due(100.0)) == [("a", {"percent": 49})]


def test_a_message_outlives_newer_values_without_one() -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    gate.offer("a", {"percent": 1}, now=0.0)
    gate.offer("a", {"percent": 2, "message": "正在推送", "metadata": {"n": 1}}, now=0.01)
    gate.offer("a", {"percent": 3}, now=0.02)
    assert gate.take("a") == {"percent": 3, "message": "正在推送", "metadata": {"n": 1}}


def test_a_source_that_ended_leaves_nothing_behind() -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    gate.offer("a", {"percent": 1}, now=0.0)
    gate.offer("a", {"percent": 2}, now=0.0)
    gate.forget("a")
    assert gate.sources() == []
    assert gate.next_due() is None
    assert gate.offer("a", {"percent": 1}, now=0.0) is not None


def test_sources_do_not_hold_up_each_other() -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    assert gate.offer("a", {"percent": 1}, now=0.0) is not None
    assert gate.offer("b", {"percent": 1}, now=0.0) is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.2), st.booleans()), max_size=200))
def test_each_source_sends_at_most_its_rate_in_order_and_ends_with_its_last_value(
    steps: list[tuple[str, float, bool]],
) -> None:
    gate: Coalescer[str] = Coalescer(0.1)
    now = 0.0
    sent: dict[str, list[tuple[float, int]]] = {s: [] for s in "abc"}
    last: dict[str, int] = {}
    for count, (source, pause, arrives) in enumerate(steps, 1):
        now += pause
        last[source] = count
        value = gate.offer(source, {"done": count}, now)
        if value is not None:
            sent[source].append((now, value["done"]))
        if arrives:
            for known in "abc":
                gate.arrived(known)
        for due, value in gate.due(now):
            sent[due].append((now, value["done"]))
    for source in "abc":
        times = [at for at, _ in sent[source]]
        assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(times))
        held = gate.take(source)
        values = [done for _, done in sent[source]] + ([held["done"]] if held else [])
        assert values == sorted(set(values))
        assert values[-1:] == ([last[source]] if source in last else [])
