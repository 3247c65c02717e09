"""What the committer hands over is taken in order and without a hole, or not at all."""

from __future__ import annotations

import anyio
import pytest

from eventstore import handoff
from eventstore.batch import Head
from eventstore.events import RecordedEvent
from eventstore.handoff import Handoff

pytestmark = pytest.mark.anyio


def event(position: int, data: bytes = b"{}") -> RecordedEvent:
    return RecordedEvent(
        position, "job:1", position, bytes(16), "job.noted", None, None, None, data, True, None, 0, None, None, 0,
        bytes(32),
    )  # fmt: skip


def head(position: int, *, log_id: int = 1, epoch: int = 1) -> Head:
    return Head(log_id, "default", epoch, position, bytes(32), 0, "s", "t", 0)


def put(there: Handoff, first: int, last: int, *, log_id: int = 1, epoch: int = 1) -> None:
    there.put(head(last, log_id=log_id, epoch=epoch), [event(n) for n in range(first, last + 1)])


def taken(there: Handoff, after: int, epoch: int = 1) -> list[int]:
    return [each.position for each in there.take(after, epoch)]


@pytest.fixture
def rung() -> list[int]:
    return []


@pytest.fixture
async def there(rung: list[int]) -> Handoff:
    made = Handoff(1, rung.append)
    made.open()
    return made


async def test_batches_that_follow_each_other_are_taken_together(there: Handoff) -> None:
    put(there, 4, 5)
    put(there, 6, 6)
    assert taken(there, 3) == [4, 5, 6]
    assert taken(there, 6) == []


async def test_what_was_published_already_is_left_out(there: Handoff) -> None:
    put(there, 1, 5)
    put(there, 6, 9)
    assert taken(there, 7) == [8, 9]


async def test_nothing_is_taken_over_a_hole_until_the_hole_was_read(there: Handoff) -> None:
    put(there, 1, 2)
    put(there, 5, 6)
    assert taken(there, 0) == [1, 2]
    assert taken(there, 2) == []
    assert taken(there, 4) == [5, 6]


async def test_another_log_and_another_epoch_are_not_taken(there: Handoff) -> None:
    put(there, 1, 2, log_id=2)
    put(there, 1, 2, epoch=2)
    assert taken(there, 0) == []
    put(there, 1, 2)
    assert taken(there, 0) == [1, 2]


async def test_what_does_not_fit_is_dropped_and_shows_as_a_hole(
    there: Handoff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "MAX_EVENTS", 4)
    put(there, 1, 3)
    put(there, 4, 6)
    put(there, 7, 7)
    assert taken(there, 0) == [1, 2, 3]
    assert taken(there, 3) == []
    assert taken(there, 6) == [7]


async def test_large_events_are_bounded_by_their_bytes(there: Handoff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "MAX_BYTES", 100)
    there.put(head(1), [event(1, bytes(60))])
    there.put(head(2), [event(2, bytes(60))])
    assert taken(there, 0) == [1]
    there.put(head(2), [event(2, bytes(60))])
    assert taken(there, 1) == [2]


async def test_news_of_several_batches_ring_once_with_the_newest_head(there: Handoff, rung: list[int]) -> None:
    put(there, 1, 1)
    put(there, 2, 2)
    await anyio.wait_all_tasks_blocked()
    assert rung == [2]
    put(there, 3, 3)
    await anyio.wait_all_tasks_blocked()
    assert rung == [2, 3]


async def test_nothing_is_kept_while_it_is_closed(there: Handoff, rung: list[int]) -> None:
    put(there, 1, 1)
    there.close()
    put(there, 2, 2)
    there.open()
    assert taken(there, 0) == []


def test_a_loop_that_is_gone_does_not_disturb_who_appends() -> None:
    there = Handoff(1, lambda _: None)

    async def begin() -> None:
        there.open()

    anyio.run(begin)
    put(there, 1, 1)
    put(there, 2, 2)
