"""Durations in classes that grow by 2 %: small, mergeable by addition, and never more than 1 % off.

Class 0 holds everything up to 1 ms; class n what lies above 1.02ⁿ⁻¹ ms, up to 1.02ⁿ ms. A quantile is told as the
middle of its class, which is less than 1 % from the exact value (nearest rank), for durations from 1 ms to about 30
years; what is longer counts as that. The method is DDSketch's (Masson, Rim, Lee 2019) with fixed bounds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

GROWTH: Final = 1.02
CLASSES: Final = 1_397
BOUNDS: Final = [round(1_000 * GROWTH**n) for n in range(CLASSES)]
"""The upper bound of each class, in microseconds."""

Counts = Mapping[int, int]
"""Class → how many."""


def class_of(us: int) -> int:
    """The class of a duration in microseconds; of a negative one that of 0."""
    return min(bisect_left(BOUNDS, us), CLASSES - 1)


def seconds_of(number: int) -> float:
    """What a class stands for, in seconds."""
    return 0.001 * GROWTH**number * (2 / (1 + GROWTH) if number else 1)


def quantile(counts: Counts, part: float, *, beyond: float = 0.0) -> float | None:
    """The duration in seconds that this part (0 to 1) of all does not exceed; None without any.

    `beyond`: only of those that took longer than so many seconds.
    """
    classes = sorted(number for number in counts if seconds_of(number) > beyond) if beyond else sorted(counts)
    total = sum(counts[number] for number in classes)
    if total <= 0:
        return None
    wanted, seen = max(part * total, 1e-9), 0
    for number in classes:
        seen += counts[number]
        if seen >= wanted:
            return seconds_of(number)
    return seconds_of(classes[-1])


def count(counts: Counts, *, beyond: float = 0.0) -> int:
    """How many there are, or how many took longer than `beyond` seconds."""
    return sum(n for number, n in counts.items() if not beyond or seconds_of(number) > beyond)
