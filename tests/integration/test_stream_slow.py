"""Readers that are slow, or do not read at all, and those beside them (S1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import QueuePool

from eventstore.events import NewEvent
from tests.support.http import Server, serving
from tests.support.sessions import wait_until
from tests.support.sse_client import chained, stream
from tests.support.streams import Ahead, ended, subscribers, until_dispatched, until_stuck

SMALL = 4_096  # bytes that the client's kernel takes
PADDING = "推送" * 200


@pytest.fixture
def server(database_url: str) -> Iterator[Server]:
    with serving(database_url) as running:
        yield running


def flood(server: Server, count: int = 3_000) -> int:
    """Append so much that no buffer holds it; the last position."""
    last = 0
    for start in range(0, count, 500):
        events = [
            NewEvent(type="step.progressed", step=f"s{n % 5}", data={"done": n, "total": 1_000_000, "message": PADDING})
            for n in range(start, start + 500)
        ]
        last = server.services.store.append("a", events)[-1].position
    return last


def test_a_slow_reader_goes_back_to_catch_up_and_gets_everything_and_the_others_do_not_wait(server: Server) -> None:
    path = "/v1/jobs/a/stream?after=-1&wait=true"
    with stream(server.port, path, buffer=SMALL) as slow, stream(server.port, path) as quick:
        (start,), (_,) = slow.until("caught_up"), quick.until("caught_up")
        last = flood(server)
        wanted = list(range(1, last + 1))
        assert chained(quick.events(last), start.data["cursor"]) == wanted
        until_dispatched(server, last)
        (behind,) = until_stuck(server)
        assert not behind._queue
        frames = slow.until("caught_up")
        assert chained([frame.data for frame in frames[:-1]], start.data["cursor"]) == wanted


def test_a_reader_that_takes_nothing_for_10_s_is_cut_and_the_others_go_on(server: Server) -> None:
    clock = Ahead(server)
    path = "/v1/jobs/a/stream?after=-1&wait=true"
    with stream(server.port, path, buffer=SMALL) as silent, stream(server.port, path) as other:
        for reading in (silent, other):
            reading.until("caught_up")
        last = flood(server)
        other.events(last)
        until_stuck(server)
        assert ended(server, "slow") == 0
        clock.go(0)
        for _ in range(20):
            clock.go(11)
            if ended(server, "slow"):
                break
            server.services.store.append("a", [NewEvent(type="job.noted", data={"level": "info", "message": "x"})])
            other.events(1)
        assert (ended(server, "slow"), len(subscribers(server))) == (1, 1)
        server.services.store.append("a", [NewEvent(type="job.noted", data={"level": "info", "message": "x"})])
        other.events(1)
        with pytest.raises((ConnectionError, AssertionError)):
            silent.events(last + 1_000)


def test_what_is_held_for_a_reader_that_does_not_read_is_bounded(server: Server) -> None:
    with stream(server.port, "/v1/stream?after=now", buffer=SMALL) as silent:
        silent.until("caught_up")
        until_dispatched(server, flood(server))
        (behind,) = until_stuck(server)
        assert behind._link.pending() < 512 * 1024
        assert (len(behind._queue), behind._seated) == (0, False)


def test_many_who_read_everything_and_leave_take_their_work_with_them(server: Server) -> None:
    """S7."""
    last = flood(server, 10_000)
    with ExitStack() as stack:
        readings = [stack.enter_context(stream(server.port, "/v1/stream?after=-1", buffer=SMALL)) for _ in range(10)]
        for reading in readings:
            assert [event["position"] for event in reading.events(1_500)] == list(range(1, 1_501))
        assert all(one._behind for one in subscribers(server)), "nobody is done"
        for one in subscribers(server):
            assert one._link.pending() < 512 * 1024
    wait_until(lambda: not subscribers(server), "they have left")
    pool = server.services.store.database.engine.pool
    assert isinstance(pool, QueuePool)
    wait_until(lambda: pool.checkedout() == 0, "no question is under way")
    assert ended(server, "gone") == 10
    with stream(server.port, f"/v1/stream?after={last - 1}") as reading:
        assert [event["position"] for event in reading.events(1)] == [last]


def test_the_latest_mode_leaves_out_what_a_slow_screen_has_missed(server: Server) -> None:
    path = "/v1/jobs/a/stream?wait=true&mode=latest"
    with stream(server.port, path + "&after=-1") as live:
        (start,) = live.until("caught_up")
        last = flood(server)
        with stream(server.port, path + "&after=-1") as late:
            frames = late.until("caught_up")
        seen: list[dict[str, Any]] = [frame.data for frame in frames[:-1]]
        positions = chained(seen, start.data["cursor"])
        assert positions == sorted(positions)
        assert len(seen) < last / 10
        assert {event["step"]: event["data"]["done"] for event in seen} == {f"s{n}": 2_995 + n for n in range(5)}
        shown: list[dict[str, Any]] = []
        while not shown or shown[-1]["position"] < last:
            shown += live.events(1)
        assert chained(shown, start.data["cursor"]) == sorted({event["position"] for event in shown})
        assert len(shown) < last / 10
