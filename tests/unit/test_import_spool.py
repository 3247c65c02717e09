"""Rows in a temporary file, sorted in bounded memory."""

from __future__ import annotations

import random

import pytest

from projections.importing import spool
from projections.importing.spool import Spool


@pytest.mark.parametrize("count", [0, 1, 127, 128, 1_000, 5_000])
@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_rows_come_back_in_ascending_order(monkeypatch: pytest.MonkeyPatch, count: int, order: str) -> None:
    monkeypatch.setattr(spool, "CHUNK", 300)
    rows = [(f"job {place % 7}", place, None if place % 2 else b"\x00", "工单") for place in range(count)]
    given = rows if order == "ascending" else rows[::-1]
    if order == "random":
        random.Random(7).shuffle(given := list(rows))
    with Spool() as kept:
        for row in given:
            kept.add(row)
        assert list(kept) == sorted(rows, key=lambda row: row[:2])
        assert list(kept) == sorted(rows, key=lambda row: row[:2])
        assert kept.rows == count


def test_rows_that_come_in_order_are_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "CHUNK", 10)
    with Spool() as kept:
        for place in range(100):
            kept.add((place,))
        assert list(kept) == [(place,) for place in range(100)]
        assert len(kept._runs) == 1
