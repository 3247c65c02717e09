"""What every subscription promises, by whichever way live events arrive: Redis, NOTIFY, polling alone, memory."""

from __future__ import annotations

import asyncio
import itertools
import threading

import anyio
import anyio.to_thread
import pytest

from eventstore import live
from eventstore.errors import InvalidCursor, InvalidFilter, LogDiverged, NoSuchLog
from eventstore.events import NewEvent
from eventstore.subscription import PAGE_BYTES, CaughtUp
from eventstore.wire import cursor_of
from tests.support.following import collect, folding_world, noted, tails, take, until_caught_up, way, world

__all__ = ["folding_world", "way", "world"]

pytestmark = pytest.mark.anyio


# -- from where -------------------------------------------------------------------------------------------------------


async def test_from_the_start_every_event_comes_once_and_in_order(world):
    world.append("a", 3)
    world.append("b", 2)
    events = await until_caught_up(world.follow())
    assert events == world.writer.read_log()
    assert [event.position for event in events] == [1, 2, 3, 4, 5]


async def test_from_a_cursor_comes_what_follows_it(world):
    world.append("a", 9)
    for start in (world.cursor(4), "4", 4):
        assert [e.position for e in await until_caught_up(world.follow(after=start))] == [5, 6, 7, 8, 9]


async def test_from_now_comes_only_what_is_appended_later(world):
    world.append("a", 3)
    async with world.follow(after="now") as sub:
        caught_up = await sub.batch()
        assert (caught_up.events, caught_up.caught_up, caught_up.cursor) == ([], True, world.cursor(3))
        await world.append_async("a", 2)
        assert [event.position for event in await take(sub, 2)] == [4, 5]


async def test_more_than_a_page_of_history_comes_whole(world):
    for _ in range(3):
        world.append("a", 1_000)
    world.append("a", 7)
    assert [event.position for event in await until_caught_up(world.follow(after=1))] == list(range(2, 3_008))


async def test_a_history_of_exactly_one_page_ends_with_having_caught_up(world):
    world.append("a", 1_000)
    assert len(await until_caught_up(world.follow())) == 1_000


@pytest.mark.parametrize("jobs", [None, ["a"], ["a", "b"]])
async def test_large_events_come_a_few_at_once_so_that_who_stands_still_holds_little(world, jobs):
    for _ in range(4):
        world.append("a", 0, *[large() for _ in range(12)])
        world.append("b", 0, *[large() for _ in range(5)])
    wanted = [e.position for e in world.writer.read_log() if jobs is None or e.job_id in jobs]
    found = []
    async with world.follow(jobs=jobs) as sub:
        while (batch := await sub.batch()) is not None:
            assert sum(len(event.data_json) for event in batch.events) <= PAGE_BYTES
            found += [event.position for event in batch.events]
            if batch.caught_up:
                break
    assert found == wanted


def large() -> NewEvent:
    return NewEvent(type="step.progressed", step="s", data={"percent": 1, "lines": ["x" * 8_000] * 6})


async def test_an_empty_log_is_caught_up_at_once(world):
    assert await until_caught_up(world.follow()) == []


async def test_garbage_is_no_cursor_and_a_missing_log_is_named(world):
    for garbage in ("abc", "1e3", "+5", " 5", "-2", str(2**63), 2**60):
        with pytest.raises(InvalidCursor):
            world.follow(after=garbage)
    with pytest.raises(NoSuchLog):
        await world.reader.for_log("never-made").subscribe().batch()


# -- live -------------------------------------------------------------------------------------------------------------


async def test_a_marker_stands_between_history_and_what_follows_live(world):
    world.append("a", 2)
    seen = []
    async for item in world.follow().items():
        seen.append("caught up" if isinstance(item, CaughtUp) else item.position)
        if item == CaughtUp(world.cursor(2)):
            await world.append_async("a", 2)
        if len(seen) == 5:
            break
    assert seen == [1, 2, "caught up", 3, 4]


async def test_no_event_is_missed_where_history_meets_the_live_stream(world):
    stop = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if stop.wait(0.0005):
                return
            world.append(f"a-{number // 5_000}", 3)  # a job is full at 50,000 events

    world.append("a", 5)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        # Each starts at another moment of the appends, so the seam lies elsewhere each time.
        for _ in range(10):
            start = world.writer.head().position - 2
            assert await collect(world, 60, after=start) == list(range(start + 1, start + 61))
    finally:
        stop.set()
        await anyio.to_thread.run_sync(writer.join)


async def test_live_events_are_the_ones_that_the_log_holds(world):
    async with world.follow(after="now") as sub:
        await sub.batch()
        event = NewEvent(
            type="step.progressed", step="推送 模板", attempt=2, seq=7, data={"percent": 42.5, "message": "正在"}
        )
        await anyio.to_thread.run_sync(world.append, "build:1", 1, event)
        assert await take(sub, 1) == world.writer.read_log()


async def test_fifty_subscribers_see_the_same_events_in_the_same_order(world):
    world.append("a", 20)
    seen: list[list[int]] = []

    async def follow(start: int) -> None:
        seen.append([start, *await collect(world, 100 - start, after=start)])

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(follow, number % 20)
        for _ in range(16):
            await world.append_async("a", 5)
    assert len(seen) == 50
    assert all(positions == list(range(positions[0], 101)) for positions in seen)


async def test_a_slow_consumer_misses_nothing_and_holds_up_nobody(world, monkeypatch):
    monkeypatch.setattr(live, "RING", 40)
    slow = world.follow(after="now").items()
    async with world.follow(after="now") as fast:
        await fast.batch()
        assert isinstance(await anext(slow), CaughtUp)
        await world.append_async("a", 1)
        assert (await anext(slow)).position == 1
        await take(fast, 1)
        for turn in range(10):  # the fast one gets each while the slow one still handles the first
            await world.append_async("a", 30)
            assert [e.position for e in await take(fast, 30)] == list(range(turn * 30 + 2, turn * 30 + 32))
        assert len(tails()[0]._ring) <= 60
        assert [(await anext(slow)).position for _ in range(300)] == list(range(2, 302))
        assert isinstance(await anext(slow), CaughtUp)
        await world.append_async("a", 1)
        assert (await anext(slow)).position == 302
    await slow.aclose()


# -- filters ----------------------------------------------------------------------------------------------------------


async def test_a_prefix_gives_all_jobs_that_begin_so(world):
    for job in ("build:1", "deploy:1", "build:2", "builder"):
        world.append(job, 2)
    jobs = [event.job_id for event in await until_caught_up(world.follow(jobs=["build:*"]))]
    assert jobs == ["build:1", "build:1", "build:2", "build:2"]
    assert len(await until_caught_up(world.follow(jobs=["build*", "deploy:1"]))) == 8
    assert len(await until_caught_up(world.follow(jobs="*"))) == 8
    assert await until_caught_up(world.follow(jobs=[])) == []


async def test_types_and_steps_are_filters_too(world):
    started = NewEvent(type="step.started", step="one")
    world.append("a", 1, started, NewEvent(type="step.started", step="two"), noted(), NewEvent(type="job.completed"))
    assert [e.position for e in await until_caught_up(world.follow(types="job.*"))] == [3, 4]
    assert [e.position for e in await until_caught_up(world.follow(types=["job.noted", "step.started"]))] == [1, 2, 3]
    assert [e.position for e in await until_caught_up(world.follow(steps=["two"]))] == [2]
    async with world.follow(after="now", steps="one", types="step.*") as sub:
        await sub.batch()
        await anyio.to_thread.run_sync(world.append, "a", 1, noted(), started, noted())
        assert [e.position for e in await take(sub, 1)] == [6]


async def test_what_counted_and_what_did_not_can_be_followed_apart(folding_world):
    world = folding_world
    for percent in (10, 60, 40, 70):
        world.append("a", 1, NewEvent(type="step.progressed", step="s", data={"percent": percent}))
    counted = await until_caught_up(world.follow(applied=True))
    rejected = await until_caught_up(world.follow(applied=False))
    assert [event.data["percent"] for event in counted] == [10, 60, 70]
    assert [(event.data["percent"], event.reason) for event in rejected] == [(40, "regression")]
    async with world.follow(after="now", applied=True, jobs="a") as sub:
        await sub.batch()
        for percent in (50, 80):
            await anyio.to_thread.run_sync(
                world.append, "a", 1, NewEvent(type="step.progressed", step="s", data={"percent": percent})
            )
        assert [event.data["percent"] for event in await take(sub, 1)] == [80]


@pytest.mark.parametrize(
    "wrong",
    [{"jobs": "-x"}, {"jobs": ["a b"]}, {"jobs": ["a*b"]}, {"jobs": [""]}, {"types": "step.*.x"}, {"types": ""}],
)
async def test_a_filter_that_can_match_nothing_is_refused(world, wrong):
    with pytest.raises(InvalidFilter, match=next(iter(wrong))):
        world.follow(**wrong)


async def test_prev_names_the_frame_before_under_the_same_filter(world):
    for job in ("a", "b", "a", "b", "b", "a"):
        world.append(job)
    sub = world.follow(after=world.cursor(1), jobs=["a", "b*"], types=["job.*"])
    frames = []
    async for event in sub:
        frames.append((sub.prev, event.position))
        if event.position == 6:
            break
    assert frames == [(world.cursor(n - 1), n) for n in range(2, 7)]
    sub, frames = world.follow(jobs=["a"]), []
    async for event in sub:
        frames.append((sub.prev, event.position))
        if event.position == 6:
            break
    assert frames == [(world.cursor(0), 1), (world.cursor(1), 3), (world.cursor(3), 6)]


async def test_prev_goes_on_through_the_seam_and_over_what_the_filter_left_out(world):
    world.append("a")
    sub = world.follow(jobs="a*")
    items = sub.items()
    assert (await anext(items)).position == 1
    assert isinstance(await anext(items), CaughtUp)
    await world.append_async("b", 3)
    await world.append_async("a", 1)
    assert (await anext(items)).position == 5
    assert sub.prev == world.cursor(1)
    await items.aclose()


# -- streams of jobs --------------------------------------------------------------------------------------------------


async def test_a_job_is_followed_while_others_append(world):
    for _ in range(3):
        world.append("other", 400)
        world.append("mine", 2)
    async with world.follow(jobs=["mine"]) as sub:
        assert [event.version for event in await take(sub, 6)] == [1, 2, 3, 4, 5, 6]
        await sub.batch(0.001)
        for _ in range(4):
            await world.append_async("other", 7)
            await world.append_async("mine", 1)
        assert [event.version for event in await take(sub, 4)] == [7, 8, 9, 10]


async def test_a_job_stream_starts_at_a_cursor_of_the_log_and_its_cursor_is_good_on_the_log(world):
    for job in ("a", "b", "a", "b", "a"):
        world.append(job, 2)
    sub = world.follow(after=world.cursor(3), jobs="a")
    assert [event.position for event in await until_caught_up(sub)] == [5, 6, 9, 10]
    assert sub.cursor == world.cursor(10)
    world.append("b")
    assert [event.position for event in await until_caught_up(world.follow(after=sub.cursor))] == [11]


async def test_several_jobs_come_in_the_order_of_the_log(world):
    for turn in range(40):
        world.append(f"job-{turn % 4}", 30)
    wanted = [e.position for e in world.writer.read_log(limit=2_000) if e.job_id in ("job-1", "job-3")]
    assert [e.position for e in await until_caught_up(world.follow(jobs=["job-1", "job-3"]))] == wanted
    many = [f"job-{n}" for n in range(1, 100)]
    wanted = [e.position for e in world.writer.read_log(limit=2_000) if e.job_id in many]
    assert [e.position for e in await until_caught_up(world.follow(jobs=many))] == wanted


async def test_a_job_of_many_pages_comes_whole(world):
    for _ in range(3):
        world.append("a", 900)
        world.append("b", 10)
    versions = [event.version for event in await until_caught_up(world.follow(jobs="a"))]
    assert versions == list(range(1, 2_701))


async def test_a_job_that_does_not_exist_yet_is_followed_from_its_first_event(world):
    world.append("other", 2)
    async with world.follow(jobs="later") as sub:
        assert (await sub.batch()).caught_up
        await world.append_async("other", 2)
        await world.append_async("later", 1)
        assert [event.version for event in await take(sub, 1)] == [1]


# -- the cursor -------------------------------------------------------------------------------------------------------


async def test_the_cursor_moves_when_the_next_event_is_asked_for(world):
    world.append("a", 3)
    sub = world.follow()
    assert sub.cursor == "-1"
    events = aiter(sub)
    await anext(events)
    assert sub.cursor == world.cursor(0)
    await anext(events)
    assert sub.cursor == world.cursor(1)
    sub.handled()
    assert sub.cursor == world.cursor(2)
    await events.aclose()
    assert sub.cursor == world.cursor(2)


async def test_an_event_whose_handling_failed_comes_again(world):
    world.append("a", 3)
    sub = world.follow()
    with pytest.raises(ZeroDivisionError):
        async for event in sub:
            if event.position == 2:
                raise ZeroDivisionError
    assert sub.cursor == world.cursor(1)
    assert [event.position for event in await until_caught_up(sub)] == [2, 3]


async def test_the_cursor_passes_what_the_filter_left_out(world):
    world.append("a", 3)
    sub = world.follow(types="job.completed")
    assert (await sub.batch()).cursor == world.cursor(3)
    await world.append_async("a", 2)
    waiting = asyncio.ensure_future(sub.batch())
    while sub.cursor != world.cursor(5):
        await anyio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await sub.aclose()


async def test_the_cursor_of_each_event_of_a_batch_goes_on_right_behind_it(world):
    world.append("a", 5)
    async with world.follow() as sub:
        batch = await sub.batch()
    cursor = cursor_of(batch.events[2], batch.epoch)
    assert [event.position for event in await until_caught_up(world.follow(after=cursor))] == [4, 5]


async def test_waiting_can_be_limited_and_cancelled_without_losing_anything(world):
    async with world.follow() as sub:
        assert (await sub.batch()).caught_up
        assert await sub.batch(timeout=0.02) is None
        with anyio.move_on_after(0.02):
            await sub.batch()
        await world.append_async("a", 2)
        assert [event.position for event in await take(sub, 2)] == [1, 2]


async def test_nothing_is_left_behind(world):
    before = asyncio.all_tasks()
    world.append("a", 2)
    async for _ in world.follow():
        break
    sub = world.follow(after="now")
    waiting = asyncio.ensure_future(anext(aiter(sub)))
    while not any(tail._reading for tail in tails()):
        await anyio.sleep(0.001)
    assert asyncio.all_tasks() - before == {waiting}
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    while tails():
        await anyio.sleep(0.001)
    assert asyncio.all_tasks() == before


# -- another history --------------------------------------------------------------------------------------------------


async def test_a_cursor_ahead_of_the_log_is_told_and_never_waits(world):
    world.append("a", 3)
    for ahead in (4, "0001_0000000000000009_01234567"):
        for jobs in (None, "a"):
            with pytest.raises(LogDiverged) as told:
                await world.follow(after=ahead, jobs=jobs).batch()
            assert (told.value.reason, told.value.common) == ("ahead", world.cursor(3))


async def test_a_cursor_with_another_hash_is_told(world):
    world.append("a", 3)
    with pytest.raises(LogDiverged) as told:
        await world.follow(after="0001_0000000000000002_01234567").batch()
    assert told.value.reason == "hash"


async def test_a_cursor_of_an_older_epoch_is_good_up_to_what_the_epochs_share(world):
    world.append("a", 6)
    good, last, bad = world.cursor(3), world.cursor(4), world.cursor(5)
    await anyio.to_thread.run_sync(world.lose, 4)
    world.append("a", 2)
    assert [e.position for e in await until_caught_up(world.follow(after=good))] == [4, 5, 6, 7]
    sub = world.follow(after=last)
    assert [e.position for e in await until_caught_up(sub)] == [5, 6, 7]
    assert sub.cursor == world.cursor(7)
    assert sub.cursor.startswith("0002_")
    with pytest.raises(LogDiverged) as told:
        await world.follow(after=bad).batch()
    assert (told.value.reason, told.value.common) == ("epoch", world.cursor(4))


@pytest.mark.parametrize("jobs", [None, "a"])
async def test_when_the_log_loses_its_end_those_beyond_are_told_and_the_others_go_on(world, jobs):
    world.append("a", 4)
    async with world.follow(jobs=jobs) as beyond, world.follow(jobs=jobs, types=["job.*"]) as within:
        await take(beyond, 4)
        await take(within, 4)
        await beyond.batch(0.001)
        await within.batch(0.001)
        await world.append_async("a", 2)
        await take(beyond, 2)
        # `within` has not asked: for it the log still ends at 4.
        await anyio.to_thread.run_sync(world.lose, 4)
        with pytest.raises(LogDiverged) as told:
            await beyond.batch()
        assert (told.value.reason, told.value.common) == ("epoch", world.cursor(4))
        await world.append_async("a", 3)
        fresh = await take(within, 3)
        assert [event.position for event in fresh if event.job_id == "a"] == [6, 7, 8]
        batch = await within.batch(0.001)
        assert batch is None
        assert within.cursor == world.cursor(8)


async def test_a_consumer_that_waits_at_the_end_goes_on_into_a_new_epoch(world):
    world.append("a", 4)
    async with world.follow(after="now") as sub:
        await sub.batch()
        await anyio.to_thread.run_sync(world.lose, 4)
        await world.append_async("a", 1)
        assert [event.type for event in await take(sub, 2)] == ["log.epoch_started", "job.noted"]
        assert await sub.batch(0.001) is None
        assert sub.cursor == world.cursor(6)
        assert sub.cursor.startswith("0002_")
