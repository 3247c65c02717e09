"""Following a stream without a network: what is asked for after what came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.client.calls import Answer
from headway.client.errors import BadAnswer, Forbidden, Gap, LogDiverged, TokenExpired, Unauthorized
from headway.client.following import CaughtUp, Following, position_of, stream
from headway.client.values import Event, JobSnapshot
from headway.errors import Misuse


def cursor(position: int, sign: str = "0") -> str:
    return f"0001_{position:016d}_{sign * 8}"


def event(position: int, prev: int | str | None = None, **fields: Any) -> bytes:
    told = {"position": position, "job_id": "a", "type": "job.noted", **fields}
    if prev is not None:
        told["prev"] = prev if isinstance(prev, str) else cursor(prev)
    return f"id: {cursor(position)}\ndata: {json.dumps(told)}\n\n".encode()


def control(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode()


def snapshot(position: int) -> bytes:
    return control("snapshot", job={"job_id": "a", "status": "running", "percent": 40}, cursor=cursor(position))


def opened(following: Following, status: int = 200, body: bytes = b"", **headers: str) -> bool:
    return following.opened(Answer(status, {"content-type": "text/event-stream"} | headers, body))


def following(job_id: str | None = None, *, can_renew: bool = False, latest: bool = False, **given: Any) -> Following:
    options = {"jobs": None, "prefix": None, "after": None, "events": None} | given
    made = stream(job_id, **options, latest=latest, can_renew=can_renew)
    assert opened(made)
    return made


def positions(made: Following) -> list[int]:
    return [item.position for item in made.items if isinstance(item, Event)]


def test_what_is_asked_for_first_is_where_the_caller_wants_to_start() -> None:
    asked = following(after="0001_0000000000000007_00000000", jobs=["a", "b"], prefix="c", events="all").request()
    assert asked.target == "/v1/stream?jobs=a%2Cb&prefix=c&events=all&after=0001_0000000000000007_00000000"
    assert "last-event-id" not in asked.headers
    assert asked.headers["accept"] == "text/event-stream"


def test_after_an_event_the_next_connection_names_it() -> None:
    made = following(after=3)
    assert made.feed(event(4, 3) + event(6, 4)[:-1])
    made.lost()
    asked = made.request()
    assert (asked.target, asked.headers["last-event-id"]) == ("/v1/stream", cursor(4))


def test_what_was_had_is_not_handed_out_again() -> None:
    made = following()
    made.feed(event(1) + event(2, 1))
    made.lost()
    assert opened(made)
    made.feed(event(1) + event(2, 1) + event(3, 2))
    assert positions(made) == [1, 2, 3]


def test_a_job_begins_with_its_snapshot_and_goes_on_behind_it() -> None:
    made = following("a")
    assert made.request().target == "/v1/jobs/a/stream"
    made.feed(snapshot(5) + event(7, 5))
    first, second = made.items
    assert isinstance(first, JobSnapshot)
    assert (first.cursor, first.percent, first.type) == (cursor(5), 40, "snapshot")
    assert isinstance(second, Event)
    assert (second.cursor, second.position) == (cursor(7), 7)


def test_what_the_snapshot_shows_is_not_told_again_and_a_hole_behind_it_is_noticed() -> None:
    made = following("a")
    assert made.feed(snapshot(5) + event(4, 3) + event(5, 4) + event(6, 5))
    assert positions(made) == [6]
    other = following("a")
    assert not other.feed(snapshot(5) + event(9, 8))
    assert positions(other) == []


def test_a_stream_that_broke_after_the_snapshot_goes_on_behind_it_and_shows_no_second_one() -> None:
    made = following("a")
    made.feed(snapshot(5) + control("caught_up", cursor=cursor(8)))
    made.lost()
    assert made.request().headers["last-event-id"] == cursor(5)
    assert opened(made)
    made.feed(snapshot(9) + event(6, 5) + event(9, 6))
    assert positions(made) == [6, 9]
    assert [type(item) for item in made.items] == [JobSnapshot, CaughtUp, Event, Event]


def test_several_jobs_begin_with_a_snapshot_each_and_anew_if_the_stream_broke_among_them() -> None:
    made = following(jobs=["a", "b"])
    made.feed(snapshot(5))
    made.lost()
    assert "last-event-id" not in made.request().headers
    assert opened(made)
    made.feed(snapshot(6) + snapshot(6) + event(7, 6))
    assert [type(item) for item in made.items] == [JobSnapshot, JobSnapshot, JobSnapshot, Event]
    assert made.request().headers["last-event-id"] == cursor(7)


def test_with_a_cursor_of_its_own_a_job_shows_no_snapshot_but_what_follows_the_cursor() -> None:
    made = following("a", after=cursor(2))
    made.feed(snapshot(9) + event(3, 2) + event(9, 3))
    assert positions(made) == [3, 9]
    assert len(made.items) == 2


def test_a_hole_is_asked_for_again_once_and_then_told() -> None:
    made = following()
    assert made.feed(event(1, 0))
    assert not made.feed(event(3, 2))
    assert (made.pause, made.failure) == (0, None)
    assert made.request().headers["last-event-id"] == cursor(1)
    assert opened(made)
    assert not made.feed(event(3, 2))
    assert isinstance(made.failure, Gap)
    assert (made.failure.cursor, made.failure.prev) == (cursor(1), cursor(2))
    assert positions(made) == [1]


def test_a_hole_that_the_next_connection_fills_was_none() -> None:
    made = following()
    made.feed(event(1, 0))
    assert not made.feed(event(3, 2))
    assert opened(made)
    assert made.feed(event(2, 1) + event(3, 2))
    assert not made.feed(event(9, 8))
    assert made.failure is None
    assert positions(made) == [1, 2, 3]


def test_another_event_at_the_place_that_was_had_is_a_hole_too() -> None:
    made = following()
    made.feed(event(1, 0))
    assert not made.feed(event(2, cursor(1, "f")))


def test_a_filtered_stream_may_jump_over_what_is_not_asked_for() -> None:
    made = following("a", after=cursor(10))
    assert made.feed(event(500, 10) + event(900, 500))
    later = following("a", after=cursor(600))
    assert later.feed(event(900, 500))


def test_a_job_that_has_not_begun_has_no_snapshot_but_a_place_to_wait_at() -> None:
    made = following("a")
    made.feed(control("snapshot", job=None, cursor=cursor(5)) + event(6, 5))
    assert positions(made) == [6]
    assert len(made.items) == 1


def test_with_latest_frames_may_be_left_out() -> None:
    made = following(latest=True)
    assert made.request().target == "/v1/stream?mode=latest"
    assert made.feed(event(1, 0) + event(9, 8))


def test_divergence_is_told_with_the_common_cursor() -> None:
    made = following(after=cursor(9))
    assert not made.feed(event(10, 9) + control("gap", reason="epoch", common=cursor(4)))
    assert positions(made) == [10]
    assert isinstance(made.failure, LogDiverged)
    assert (made.failure.common, made.failure.reason) == (cursor(4), "epoch")


def test_a_used_up_token_is_renewed_at_once_and_more_slowly_if_that_does_not_help() -> None:
    made = following(can_renew=True)
    assert not made.feed(b"retry: 30000\n\n" + control("reauth"))
    assert (made.renew, made.pause) == (True, 0)
    assert opened(made)
    assert not made.feed(control("reauth"))
    assert made.renew
    assert made.pause > 0


def test_a_token_that_nobody_knows_any_more_is_renewed_once() -> None:
    made = following(can_renew=True)
    refused = b'{"code":"unauthorized","detail":"no"}'
    assert not opened(made, 401, refused)
    assert (made.renew, made.failure) == (True, None)
    assert not opened(made, 401, refused)
    assert isinstance(made.failure, Unauthorized)


def test_a_used_up_token_that_cannot_be_renewed_is_an_error() -> None:
    made = following()
    assert not made.feed(control("reauth"))
    assert isinstance(made.failure, TokenExpired)


def test_the_end_of_the_job_is_the_end_and_so_is_204() -> None:
    made = following("a")
    assert not made.feed(snapshot(1) + control("end"))
    assert made.ended
    again = following("a", after=cursor(1))
    assert not opened(again, 204)
    assert again.ended


def test_the_server_says_how_long_to_wait() -> None:
    made = following()
    made.feed(b"retry: 7000\n\n")
    made.lost()
    assert 7 <= made.pause <= 7 * 1.25


def test_pauses_grow_while_nobody_answers_and_are_short_again_after_an_event() -> None:
    made = following()
    made.feed(event(1))
    pauses = []
    for _ in range(12):
        made.lost()
        pauses.append(made.pause)
    assert pauses[0] <= 0.2
    assert 15 <= pauses[-1] <= 30
    assert opened(made)
    made.feed(event(2))
    made.lost()
    assert made.pause <= 0.2


def test_busy_is_waited_for_and_forbidden_is_told() -> None:
    made = following()
    assert not opened(made, 503, **{"retry-after": "4"})
    assert made.failure is None
    assert 4 <= made.pause <= 5
    assert not opened(made, 403, b'{"code":"forbidden","detail":"no"}')
    assert isinstance(made.failure, Forbidden)


def test_now_is_kept_from_the_moment_that_history_was_through() -> None:
    made = following(after="now")
    made.feed(control("caught_up", cursor=cursor(41)))
    assert list(made.items) == [CaughtUp(cursor(41))]
    made.lost()
    assert made.request().headers["last-event-id"] == cursor(41)


def test_names_that_are_not_known_are_passed_over() -> None:
    made = following()
    assert made.feed(control("weather", sun=True) + event(1))
    assert positions(made) == [1]


@pytest.mark.parametrize("raw", [b"id: 1\ndata: {\n\n", b"data: 7\n\n", b'data: {"position":"x"}\n\n'])
def test_what_is_no_event_is_a_bad_answer(raw: bytes) -> None:
    made = following()
    assert not made.feed(raw)
    assert isinstance(made.failure, BadAnswer)


def test_a_page_instead_of_a_stream_is_a_bad_answer() -> None:
    made = following()
    assert not opened(made, 200, **{"content-type": "text/html"})
    assert isinstance(made.failure, BadAnswer)


@pytest.mark.parametrize("given", [{"job_id": ""}, {"job_id": ".."}, {"job_id": "a", "prefix": "b"}, {"jobs": "a,b"}])
def test_what_cannot_be_followed_is_refused_before_anything_is_sent(given: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        following(**given)


def test_positions_of_cursors() -> None:
    assert [position_of(text) for text in (None, "", "-1", -1, "0", 12, "12", cursor(5), "now", "0001_5_x")] == [
        0, 0, 0, 0, 0, 12, 12, 5, None, None,
    ]  # fmt: skip


@given(
    length=st.integers(1, 12),
    tries=st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 4), st.sampled_from([0, 0, 0, 1, 2]), st.integers(1, 200)),
        max_size=12,
    ),
)
def test_whatever_becomes_of_the_connections_each_event_comes_once_and_in_order_or_a_gap_is_told(
    length: int, tries: list[tuple[int, int, int, int]]
) -> None:
    """Each connection is cut after some bytes, repeats some events, leaves some out, comes in pieces of some size."""
    made = following()
    seen: list[int] = []
    for cut, repeated, left_out, size in [*tries, (10**6, 0, 0, 10**6)]:
        begin = max(0, int(made.request().headers.get("last-event-id", cursor(0)).split("_")[1]) - repeated)
        numbers = range(begin + 1, length + 1)
        hole = numbers[repeated : repeated + left_out]
        raw = b"".join(event(n, n - 1) for n in numbers if n not in hole)[:cut]
        wanted = True
        for start in range(0, len(raw), size):
            wanted = made.feed(raw[start : start + size])
            if not wanted:
                break
        seen += positions(made)
        made.items.clear()
        assert seen == list(range(1, len(seen) + 1))
        if made.failure is not None:
            assert isinstance(made.failure, Gap)
            return
        if wanted:
            made.lost()
        assert opened(made)
    assert seen == list(range(1, length + 1))
