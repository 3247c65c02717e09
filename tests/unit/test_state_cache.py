"""The cache of job states: never more than its limit, never a state that somebody else may have moved."""

from __future__ import annotations

from typing import NamedTuple

from eventstore.state_cache import StateCache


class State(NamedTuple):
    version: int
    size: int = 10


def cache(limit: int = 100) -> StateCache:
    return StateCache(lambda state: state.size, limit)


def test_what_was_put_is_there_until_it_is_dropped():
    states = cache()
    states.put("a", State(1))
    assert states.get("a") == State(1)
    states.put("a", State(2))
    assert states.get("a") == State(2)
    states.drop("a")
    states.drop("a")
    assert states.get("a") is None


def test_the_least_recently_used_goes_first():
    states = cache(limit=30)
    for job in "abc":
        states.put(job, State(1))
    states.get("a")
    states.put("d", State(1))
    assert [job for job in "abcd" if states.get(job)] == ["a", "c", "d"]


def test_a_state_above_the_limit_is_not_kept_and_the_others_make_room():
    states = cache(limit=30)
    states.put("a", State(1))
    states.put("b", State(1, size=31))
    assert states.get("b") is None
    states.put("c", State(1))
    assert states.get("c") == State(1)


def test_a_state_that_grew_counts_with_its_new_size():
    states = cache(limit=30)
    for _ in range(10):
        states.put("a", State(1, size=20))
    states.put("b", State(1))
    assert states.get("a") == State(1, size=20)
    assert states.get("b") == State(1)


def test_a_suspected_state_is_used_only_after_its_version_was_seen():
    states = cache()
    for job in "abc":
        states.put(job, State(3))
    states.suspect()
    assert [states.get(job) for job in "abc"] == [None] * 3
    assert states.suspects(["c", "x", "a"]) == ["c", "a"]
    states.confirm({"a": 3, "b": 4, "x": 1})
    assert [states.get(job) for job in "abc"] == [State(3), None, None]
    assert states.suspects("abc") == ["c"]


def test_a_new_state_takes_the_place_of_a_suspected_one():
    states = cache(limit=20)
    states.put("a", State(1))
    states.suspect()
    states.put("a", State(2))
    states.confirm({"a": 1})
    assert states.get("a") == State(2)
    states.put("b", State(1))
    assert states.get("a") == State(2)


def test_suspected_states_make_room_before_trusted_ones():
    states = cache(limit=30)
    for job in "ab":
        states.put(job, State(1))
    states.suspect()
    for job in "cd":
        states.put(job, State(1))
    assert states.suspects("ab") == ["b"]
    states.put("e", State(1))
    assert [job for job in "cde" if states.get(job)] == ["c", "d", "e"]


def test_room_is_given_back_in_every_way_a_state_can_leave():
    states = cache(limit=30)
    for way in range(4):
        for job in "abc":
            states.put(job, State(1))
        match way:
            case 0:
                for job in "abc":
                    states.drop(job)
            case 1:
                states.suspect()
                states.confirm(dict.fromkeys("abc", 2))
            case 2:
                states.suspect()
                for job in "abc":
                    states.drop(job)
            case _:
                states.clear()
        for job in "xyz":
            states.put(job, State(1))
        assert all(states.get(job) for job in "xyz"), way
        states.clear()
