"""Quantiles from classes: never more than 1 % from the exact ones, and they add up."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from projections.histogram import BOUNDS, CLASSES, class_of, count, quantile, seconds_of

DURATION = st.integers(1_000, 30 * 365 * 86_400 * 1_000_000)


def exact(durations: list[int], part: float) -> float:
    """The nearest rank, in seconds."""
    return sorted(durations)[max(math.ceil(part * len(durations)), 1) - 1] / 1e6


@given(st.lists(DURATION, min_size=1, max_size=60), st.sampled_from([0.1, 0.25, 0.5, 0.9, 0.95, 1.0]))
@example([1_000], 0.5)
@example([BOUNDS[700], BOUNDS[700] + 1], 0.5)
def test_a_quantile_is_less_than_one_percent_off(durations: list[int], part: float) -> None:
    found = quantile(Counter(map(class_of, durations)), part)
    assert found is not None
    assert abs(found - exact(durations, part)) <= 0.01 * exact(durations, part)


@given(st.lists(DURATION), st.lists(DURATION))
def test_classes_of_two_places_add_up_to_the_classes_of_both(one: list[int], other: list[int]) -> None:
    assert Counter(map(class_of, one)) + Counter(map(class_of, other)) == Counter(map(class_of, one + other))


def test_what_is_shorter_than_a_millisecond_or_longer_than_all_has_a_class_too() -> None:
    assert (class_of(-5), class_of(0), class_of(1_000), class_of(1_001)) == (0, 0, 0, 1)
    assert class_of(2**62) == CLASSES - 1
    assert seconds_of(0) == 0.001
    assert seconds_of(CLASSES - 1) > 30 * 365 * 86_400


def test_the_bounds_grow_and_each_is_in_its_own_class() -> None:
    assert all(a < b for a, b in itertools.pairwise(BOUNDS))
    assert [class_of(bound) for bound in BOUNDS] == list(range(CLASSES))


def test_quantiles_of_those_that_took_longer_leave_the_others_out() -> None:
    counts = Counter(map(class_of, [1_000_000, 2_000_000, 4_000_000, 8_000_000]))
    beyond = quantile(counts, 0.5, beyond=3.0)
    assert beyond is not None
    assert abs(beyond - 4.0) < 0.04
    assert count(counts, beyond=3.0) == 2
    assert quantile(counts, 0.5, beyond=100.0) is None
    assert quantile({}, 0.5) is None
