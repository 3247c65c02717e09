"""Limits per key and per process (A5), each at the limit and one past it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from api.auth import ALL_SCOPES, Principal, everybody
from api.limits import Limits
from api.problems import Stopping, TooManyRequests, problem_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def holder(key_id: str = "k") -> Principal:
    return Principal(key_id=key_id, log="default", log_id=1, scopes=ALL_SCOPES)


def taken(limits: Limits, who: Principal, most: int = 10_000) -> int:
    """How often the key may append now."""
    for count in range(most):
        try:
            limits.append(who)
        except TooManyRequests:
            return count
    return most


def test_the_burst_is_taken_and_one_past_it_is_not():
    limits = Limits(rate=200, burst=1_000, clock=Clock())
    assert taken(limits, holder()) == 1_000


def test_after_a_pause_there_is_the_rate_times_its_length_and_never_more_than_the_burst():
    clock = Clock()
    limits = Limits(rate=200, burst=1_000, clock=clock)
    taken(limits, holder())
    for seconds, count in ((0.5, 100), (1.0, 200), (0.004, 0), (0.001, 1), (3_600.0, 1_000)):
        clock.now += seconds
        assert taken(limits, holder()) == count


def test_a_clock_that_is_set_back_gives_nothing_and_takes_nothing():
    clock = Clock()
    limits = Limits(rate=1, burst=10, clock=clock)
    assert taken(limits, holder(), 4) == 4
    clock.now -= 50
    assert taken(limits, holder()) == 6


def test_who_is_refused_hears_when_there_is_room():
    clock = Clock()
    limits = Limits(rate=0.1, burst=1, clock=clock)
    limits.append(holder())
    with pytest.raises(TooManyRequests) as refused:
        limits.append(holder())
    assert problem_of(refused.value).headers["retry-after"] == "10"
    clock.now += 10
    limits.append(holder())


def test_one_keys_flood_is_not_anothers():
    limits = Limits(rate=1, burst=5, clock=Clock())
    assert taken(limits, holder("a")) == 5
    assert taken(limits, holder("b")) == 5


def test_where_no_key_is_needed_there_is_no_limit_of_appends():
    assert taken(Limits(rate=1, burst=1, clock=Clock()), everybody("default"), 500) == 500


def test_a_key_has_so_many_streams_and_one_that_ends_makes_room():
    limits = Limits(streams_per_key=3, streams=100)
    with ExitStack() as three:
        for _ in range(3):
            three.enter_context(limits.open_stream(holder()))
        with pytest.raises(TooManyRequests), limits.open_stream(holder()):
            pass
        with limits.open_stream(holder("other")):
            assert limits.streams == 4
    assert limits.streams == 0
    with limits.open_stream(holder()):
        pass


def test_a_process_has_so_many_streams_whoever_asks():
    limits = Limits(streams_per_key=100, streams=2)
    with limits.open_stream(everybody("default")), limits.open_stream(holder()):
        with pytest.raises(Stopping) as refused, limits.open_stream(holder("other")):
            pass
        assert problem_of(refused.value).status == 503
        assert "retry-after" in problem_of(refused.value).headers
    assert limits.streams == 0


def test_a_stream_that_fails_is_not_counted_any_more():
    limits = Limits(streams_per_key=1)
    with pytest.raises(KeyError), limits.open_stream(holder()):
        raise KeyError
    with limits.open_stream(holder()):
        pass
