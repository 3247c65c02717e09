"""The pieces of a stream on their own: frames, chunks, sieves, what may be seen, one question for many, one clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st

from api.auth import ALL_SCOPES, Principal
from api.streams.asked import _visible
from api.streams.feed import newest, status_after
from api.streams.frames import Chunk, Control, control, frame_of
from api.streams.gathered import Gathered
from api.streams.wheel import STILL, Wheel
from eventstore.cursor import Cursor
from eventstore.events import RecordedEvent
from tests.support.sse_client import Chunked, Parser

START = b"0001_0000000000000000_00000000"


def event(position: int = 1, kind: str = "step.progressed", **fields: Any) -> RecordedEvent:
    values: dict[str, Any] = {
        "position": position, "job_id": "a", "version": position, "event_id_bytes": bytes(16), "type": kind,
        "step": None, "attempt": None, "seq": None, "data_json": b"{}", "applied": True, "reason": None, "ppm": 0,
        "actor": None, "occurred_us": None, "recorded_us": 0, "hash": position.to_bytes(32, "little"),
    }  # fmt: skip
    return RecordedEvent(**(values | fields))


# -- frames -----------------------------------------------------------------------------------------------------------

NASTY = st.lists(
    st.sampled_from(
        ["\n", "\r", "\r\n", "\n\n", "data: ", "id: 7", "event: end", "retry: 1", ":", "\u2028", "\u2029", "\x85",
         "\x0b", "\x0c", "\x1c", "\x1e", "\ufeff", '"', "\\", "\\u2028", "推送", "💥", "\x7f", "}\n\n", "</script>"]
    ) | st.text(max_size=5),
    max_size=8,
).map("".join)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(message=NASTY, step=NASTY, actor=NASTY, cut=st.integers(1, 40))
def test_whatever_people_write_a_frame_is_one_frame_and_says_what_they_wrote(
    message: str, step: str, actor: str, cut: int
) -> None:
    data = msgspec.json.encode({"message": message, message or "x": 1})
    frame = frame_of(event(step=step, actor=actor, data_json=data), 1)
    raw = frame.after(START)
    assert len(raw.decode().splitlines()) == 3, "id, data, and the empty line"
    parser = Parser()
    found = [one for start in range(0, len(raw), cut) for one in parser.feed(raw[start : start + cut])]
    assert not parser.torn
    assert (len(found), found[0].id, found[0].event) == (1, frame.cursor.decode(), None)
    shown = found[0].data
    assert (shown["data"]["message"], shown["step"], shown["actor"], shown["prev"]) == (
        message,
        step,
        actor,
        START.decode(),
    )
    assert (shown["position"], shown["cursor"]) == (1, frame.cursor.decode())


@pytest.mark.parametrize("name", list(Control))
def test_a_control_frame_has_a_name_and_no_id(name: Control) -> None:
    (found,) = Parser().feed(control(name, {"why": "x\n\nid: 1\u2028"}))
    assert (found.id, found.event, found.data) == (None, name.value, {"why": "x\n\nid: 1\u2028"})


def test_a_chunk_differs_between_readers_in_its_first_frame_only() -> None:
    frames = [frame_of(event(n), 1) for n in (4, 5, 7)]
    chunk = Chunk(frames, Cursor(9, 1, "aaaaaaaa"))
    for prev in (START, frames[0].cursor):
        found = Parser().feed(chunk.body(prev))
        assert [one.data["prev"] for one in found] == [
            prev.decode(), frames[0].cursor.decode(), frames[1].cursor.decode()
        ]  # fmt: skip
        assert Chunked().feed(chunk.wire(prev)) == chunk.body(prev)
    assert chunk.wire(START) is chunk.wire(START)
    assert [frame.position for frame in chunk.beyond(4).frames] == [5, 7]


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_the_end_of_a_job_is_its_last_word_about_it_and_only_if_it_counted() -> None:
    failed, reopened = event(1, "job.failed"), event(2, "job.reopened")
    assert status_after([failed]) == "failed"
    assert status_after([failed, reopened]) == "running"
    assert status_after([failed, event(2, "job.reopened", applied=False)]) == "failed"
    assert status_after([event(1, "step.completed", ppm=1_000_000)]) == "completed"
    assert status_after([event(1, "step.completed", ppm=999_999)]) is None
    assert status_after([event(1, "job.completed", applied=False)]) is None


def test_the_newest_of_each_step_and_of_each_word_of_the_job_stay_in_order() -> None:
    events = [
        event(1, "job.planned"), event(2, step="a"), event(3, step="b"), event(4, step="a"), event(5, "job.noted"),
        event(6, "job.noted"), event(7, step="a", job_id="other"),
    ]  # fmt: skip
    assert [one.position for one in newest(events)] == [1, 3, 4, 6, 7]


def who(prefix: str = "", jobs: list[str] | None = None) -> Principal:
    named = None if jobs is None else frozenset(jobs)
    return Principal(key_id="k", log="default", log_id=1, scopes=ALL_SCOPES, prefix=prefix, jobs=named)


@pytest.mark.parametrize(
    ("principal", "named", "prefix", "seen"),
    [
        (who(), None, "", None),
        (who(), None, "b", ["b*"]),
        (who("build:"), None, "", ["build:*"]),
        (who("build:"), None, "build:7", ["build:7*"]),
        (who("build:"), None, "b", ["build:*"]),
        (who("build:"), None, "deploy:", []),
        (who("build:"), ["build:1", "deploy:1"], "", ["build:1"]),
        (who("build:"), ["deploy:1"], "", []),
        (who(), ["a", "b"], "b", ["b"]),
        (who(jobs=["b", "a"]), None, "", ["a", "b"]),
        (who(jobs=["a"]), ["a", "b"], "", ["a"]),
        (who("x", ["a", "xa"]), None, "", ["xa"]),
    ],
)
def test_a_filter_never_shows_more_than_its_asker_may_see(
    principal: Principal, named: list[str] | None, prefix: str, seen: list[str] | None
) -> None:
    assert _visible(principal, named, prefix) == seen


# -- many who ask at once ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_many_who_ask_at_once_cost_few_questions_and_an_answer_is_good_for_a_moment() -> None:
    asked: list[list[str]] = []
    answer = anyio.Event()

    async def ask(keys: Any) -> dict[str, int]:
        asked.append(list(keys))
        await answer.wait()
        return {key: len(key) for key in keys if key != "nobody"}

    gathered = Gathered(ask)
    found: list[int | None] = []

    async def get(key: str) -> None:
        found.append(await gathered.get(key))

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(get, "aa")
        await anyio.wait_all_tasks_blocked()
        for number in range(40):
            tasks.start_soon(get, f"k{number}")
        tasks.start_soon(get, "nobody")
        await anyio.wait_all_tasks_blocked()
        assert asked == [["aa"]]
        answer.set()
    assert [len(keys) for keys in asked] == [1, 32, 9]
    assert found.count(2) == 110
    assert found.count(None) == 1
    assert await gathered.get("aa", good=lambda value: value == 2) == 2
    assert len(asked) == 3
    assert await gathered.get("aa", good=lambda value: value > 2) == 2
    await get("aa")
    assert asked[3:] == [["aa"], ["aa"]], "what was remembered was not good, or nobody said that it may be used"


@pytest.mark.anyio
async def test_an_error_goes_to_all_who_wait_and_is_not_remembered() -> None:
    answers: list[Any] = [ValueError("no"), {"a": 1}]

    async def ask(keys: Any) -> dict[str, int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    gathered = Gathered(ask)
    with pytest.raises(ValueError, match="no"):
        await gathered.get("a")
    assert await gathered.get("a") == 1


# -- one clock --------------------------------------------------------------------------------------------------------


class Ticking:
    def __init__(self, due: float) -> None:
        self.due = due
        self.ticks = 0
        self.bytes: int | None = None
        self.was_cut = False

    def tick(self, now: float) -> None:
        self.ticks += 1
        self.due = now + 15

    def taken(self) -> int | None:
        return self.bytes

    def cut(self) -> None:
        self.was_cut = True


@pytest.mark.anyio
async def test_the_wheel_calls_when_it_is_time_and_cuts_who_stands_still() -> None:
    wheel = Wheel()
    with freeze_time("2026-11-21", real_asyncio=True) as clock:
        stream = Ticking(wheel.clock() + 15)
        wheel.add(stream)
        for ticks in (0, 1, 1, 2):
            clock.tick(timedelta(seconds=8))
            wheel.turn()
            assert stream.ticks == ticks
        stream.bytes = 100
        wheel.watch(stream)
        wheel.turn()
        for taken in (100, 200):  # it moves again just in time
            clock.tick(timedelta(seconds=STILL - 1))
            stream.bytes = taken
            wheel.turn()
        clock.tick(timedelta(seconds=STILL - 1))
        wheel.turn()
        assert not stream.was_cut
        clock.tick(timedelta(seconds=1))
        wheel.turn()
        assert stream.was_cut
        wheel.remove(stream)


@pytest.mark.anyio
async def test_who_has_taken_everything_is_not_watched_any_more() -> None:
    wheel = Wheel()
    with freeze_time("2026-11-21", real_asyncio=True) as clock:
        stream = Ticking(wheel.clock() + 1_000)
        wheel.add(stream)
        wheel.watch(stream)
        wheel.turn()
        stream.bytes = 100
        clock.tick(timedelta(seconds=100))
        wheel.turn()
        assert not stream.was_cut
        wheel.remove(stream)
