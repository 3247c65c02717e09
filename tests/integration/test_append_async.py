"""The asynchronous shell: no thread per append, withdrawn when cancelled, one wake-up per batch."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventstore.aio import AsyncEventStore
from eventstore.errors import InvalidEvent, OutcomeUnknown, StoreBusy, WrongExpectedVersion
from eventstore.events import NO_JOB, NewEvent
from eventstore.store import EventStore
from tests.support.sessions import Watcher, holding_log, wait_until

pytestmark = pytest.mark.anyio


def noted(message: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message}, **fields)


@pytest.fixture
def blocking(shared_database: str) -> Iterator[EventStore]:
    with EventStore(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", pool_size=3) as store:
        store.create_log()
        yield store


@pytest.fixture
def watcher(shared_database: str) -> Iterator[Watcher]:
    watcher = Watcher(shared_database)
    yield watcher
    watcher.close()


def messages(store: EventStore) -> list[str]:
    return [str(e.data["message"]) for e in store.read_log()]


async def test_a_thousand_appends_at_once_hold_no_thread_each(blocking):
    store = AsyncEventStore(blocking)
    await store.append("a", [noted("first")])
    before, most = threading.active_count(), 0
    answers: list[int] = []

    async def append(n: int) -> None:
        nonlocal most
        answers.append((await store.append(f"job-{n % 10}", [noted(str(n))]))[0].position)
        most = max(most, threading.active_count())

    async with anyio.create_task_group() as tasks:
        for n in range(1_000):
            tasks.start_soon(append, n)
    assert sorted(answers) == list(range(2, 1_002))
    assert most <= before + 1


async def until(condition: Any, what: str) -> None:
    await anyio.to_thread.run_sync(wait_until, condition, what)


async def test_a_cancelled_append_that_nobody_took_is_withdrawn(blocking, shared_database, watcher):
    store = AsyncEventStore(blocking)
    await store.append("a", [noted("0")])
    with holding_log(shared_database, blocking.log) as holder:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.append, "a", [noted("in flight")])
            await anyio.to_thread.run_sync(watcher.until_waiting)
            async with anyio.create_task_group() as withdrawn:
                withdrawn.start_soon(store.append, "a", [noted("cancelled")])
                await until(lambda: blocking.committer().queued == 1, "it is queued")
                withdrawn.cancel_scope.cancel()
            tasks.start_soon(store.append, "a", [noted("after")])
            await until(lambda: blocking.committer().queued == 2, "the next one is queued")
            holder.rollback()
    assert messages(blocking) == ["0", "in flight", "after"]


async def test_a_cancelled_append_that_was_taken_is_appended_once(blocking, shared_database, watcher):
    store = AsyncEventStore(blocking)
    event = noted("taken", event_id=uuid.uuid4())
    await store.append("a", [noted("0")])
    with holding_log(shared_database, blocking.log) as holder:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.append, "a", [event])
            await anyio.to_thread.run_sync(watcher.until_waiting)
            tasks.cancel_scope.cancel()
        holder.rollback()
    assert (await store.append("a", [event]))[0].duplicate
    assert messages(blocking) == ["0", "taken"]


async def test_deadlines_say_what_is_known(blocking, shared_database, watcher):
    store = AsyncEventStore(blocking)
    taken = noted("taken", event_id=uuid.uuid4())
    await store.append("a", [noted("0")])
    errors: list[BaseException] = []

    async def append(event: NewEvent, timeout: float) -> None:
        try:
            await store.append("a", [event], timeout=timeout)
        except (OutcomeUnknown, StoreBusy) as error:
            errors.append(error)

    with holding_log(shared_database, blocking.log) as holder:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(append, taken, 0.2)
            await anyio.to_thread.run_sync(watcher.until_waiting)
            await append(noted("queued"), 0.0)
        holder.rollback()
    assert [type(error) for error in errors] in ([StoreBusy, OutcomeUnknown], [OutcomeUnknown, StoreBusy])
    assert (await store.append("a", [taken]))[0].position == 2
    assert messages(blocking) == ["0", "taken"]


async def test_errors_of_one_call_reach_its_caller_alone(blocking):
    store = AsyncEventStore(blocking)
    results: dict[str, Any] = {}

    async def append(name: str, job: str, events: list[NewEvent], **options: Any) -> None:
        try:
            results[name] = await store.append(job, events, **options)
        except Exception as error:
            results[name] = error

    await store.append("a", [noted("0")])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(append, "good", "a", [noted("1")])
        tasks.start_soon(lambda: append("wrong", "a", [noted("2")], expected=NO_JOB))
        tasks.start_soon(append, "invalid", "a", [])
        tasks.start_soon(append, "other", "b", [noted("3")])
    assert isinstance(results["wrong"], WrongExpectedVersion)
    assert isinstance(results["invalid"], InvalidEvent)
    assert results["good"][0].version == 2
    assert results["other"][0].version == 1


async def test_two_loops_and_threads_share_a_store(blocking):
    """Each loop gets its own answers; a loop that was closed meanwhile disturbs nobody."""
    done: list[int] = []

    def other_loop() -> None:
        async def work() -> None:
            store = AsyncEventStore(blocking)
            for n in range(20):
                done.append((await store.append("b", [noted(str(n))]))[0].version)

        anyio.run(work)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, other_loop)
        store = AsyncEventStore(blocking)
        for n in range(20):
            assert (await store.append("a", [noted(str(n))]))[0].version == n + 1
        await anyio.to_thread.run_sync(lambda: [blocking.append("c", [noted()]) for _ in range(20)])
    assert done == list(range(1, 21))
    assert blocking.head().position == 60


async def test_an_answer_to_a_closed_loop_disturbs_nobody(blocking, shared_database, watcher):
    with holding_log(shared_database, blocking.log) as holder:

        def short_lived() -> None:
            async def give_up() -> None:
                with anyio.move_on_after(0):
                    await AsyncEventStore(blocking).append("a", [noted("left")])

            anyio.run(give_up)

        blocking.committer()
        await anyio.to_thread.run_sync(short_lived)
        holder.rollback()
    answer = await AsyncEventStore(blocking).append("a", [noted("next")])
    assert answer[0].position == blocking.head().position
