"""When to try again: exponential, with jitter, never sooner than the server asks, never past the deadline."""

from __future__ import annotations

import random
from typing import Final

FIRST: Final = 0.2  # seconds
LONGEST: Final = 30.0  # seconds

_random: Final = random.Random()  # noqa: S311 - it spreads clients, it guards nothing


class Backoff:
    """Growing pauses: the n-th is half to all of `first` × 2ⁿ, at most `longest`, and at least what is asked for."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self.first, self._longest = first, longest
        self.failures = 0

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait now. What is asked for becomes up to a quarter longer, so that not all come back at once."""
        pause = min(self._longest, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return max(pause * _random.uniform(0.5, 1.0), at_least * _random.uniform(1.0, 1.25))

    def reset(self) -> None:
        self.failures = 0
