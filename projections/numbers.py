"""Exact integers from the numbers that people write: percent → ppm, weight → micro.

Both go through the decimal of the number's shortest text: 0.57 % is 5,700 ppm, while `int(0.57 * 10_000)` is 5,699.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Final

from eventstore.codec import MAX_US, MIN_US
from eventstore.events import to_us

_TEN_THOUSAND: Final = Decimal(10_000)
_MILLION: Final = Decimal(1_000_000)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def later(us: int, last: int | None) -> int:
    """A time, not before the last one."""
    return us if last is None else max(us, last)


def is_finite(value: float) -> bool:
    """Whether this is neither NaN nor infinite; an integer of any size is not."""
    return type(value) is int or math.isfinite(value)


def ppm(percent: float) -> int:
    """Percent 0…100 as parts per million 0…1,000,000; floor, never round."""
    if type(percent) is int:
        return percent * 10_000
    near = round(percent * 10_000)
    if near / 10_000 == percent:
        return near  # at most four decimals: the nearest double of near/10⁴ is this one, so that is its shortest text
    return int(Decimal(repr(percent)) * _TEN_THOUSAND)


def micro(value: float) -> int:
    """A weight or the end of a range, times 10⁶; floor, never round."""
    if type(value) is int:
        return value * 1_000_000
    return int(Decimal(repr(value)) * _MILLION)


def moment(text: str) -> int | None:
    """A time in RFC 3339 with a zone as microseconds since 1970; None if it is none."""
    if _RFC3339.fullmatch(text) is None:
        return None
    try:
        us = to_us(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError):
        return None
    return us if MIN_US <= us <= MAX_US else None
