"""The client follows a real server: jobs from their snapshot, the log from a cursor, with keys and with tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

import headway
from eventstore.store import EventStore
from headway.client import AsyncClient, Event, Forbidden, JobSnapshot, LogDiverged, NotFound, TokenExpired, Unauthorized
from projections.progress import Progress
from tests.support.http import Server, serving
from tests.support.keys import make_key
from tests.support.relays import until

PLAN = {"type": "job.planned", "data": {"title": "Build", "steps": [{"step": "a"}, {"step": "b"}]}}
STORY = [
    {"type": "step.started", "step": "a"},
    {"type": "step.progressed", "step": "a", "data": {"percent": 50}},
    {"type": "step.progressed", "step": "a", "data": {"percent": 20}},
    {"type": "step.completed", "step": "a"},
    {"type": "step.completed", "step": "b"},
]


def noted(message: str) -> dict[str, object]:
    return {"type": "job.noted", "data": {"level": "info", "message": message}}


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[headway.Client]:
    with headway.Client(server.url) as client:
        yield client


def test_a_job_is_followed_from_its_snapshot_to_its_end_and_its_bar_never_goes_back(client: headway.Client) -> None:
    client.append("follow:1", PLAN)
    follower = client.follow("follow:1")
    first = next(follower)
    assert isinstance(first, JobSnapshot)
    assert (first.title, first.percent, first.cursor) == ("Build", 0.0, follower.cursor)
    told = client.append("follow:1", STORY)
    rest = list(follower)
    assert [item.cursor for item in rest] == [event.cursor for event in told.events if event.applied]
    assert [item.percent for item in rest] == [0.0, 25.0, 50.0, 100.0]
    assert follower.status == "completed"


def test_a_job_that_has_ended_is_its_snapshot(client: headway.Client) -> None:
    client.append("follow:2", [PLAN, *STORY])
    items = list(client.follow("follow:2"))
    assert [(item.type, item.percent) for item in items] == [("snapshot", 100.0)]
    assert list(client.follow("follow:2", after=items[0].cursor)) == []


def test_who_kept_a_cursor_gets_what_follows_it(client: headway.Client) -> None:
    told = client.append("follow:3", [PLAN, *STORY])
    kept = told.events[2].cursor
    assert [item.cursor for item in client.follow("follow:3", after=kept)] == [
        event.cursor for event in told.events[3:] if event.applied
    ]
    everything = client.follow("follow:3", after=kept, events="all")
    assert [item.cursor for item in everything] == [event.cursor for event in told.events[3:]]


def test_the_log_is_replayed_and_then_followed(client: headway.Client) -> None:
    reached: list[str] = []
    start = client.append("follow:4", noted("before")).events[0].cursor
    client.append_many({"job_id": f"part:{n % 5}", **noted(str(n))} for n in range(700))
    with client.follow(after=start, caught_up=reached.append) as follower:
        old = list(islice(follower, 700))
        assert [item.data["message"] for item in old if isinstance(item, Event)] == [str(n) for n in range(700)]
        assert reached == []
        told = client.append("part:1", noted("new")).events[0]
        assert next(follower).cursor == told.cursor == follower.cursor
        assert len(reached) == 1
        assert old[-1].cursor <= reached[0] <= told.cursor


def test_some_jobs_begin_with_a_snapshot_each_and_others_are_not_shown(client: headway.Client) -> None:
    for job_id in ("some:1", "some:2", "other:1"):
        client.append(job_id, PLAN)
    with client.follow(jobs=["some:1", "some:2"]) as follower:
        assert sorted(item.job_id for item in islice(follower, 2)) == ["some:1", "some:2"]
        client.append("other:1", STORY)
        told = client.append("some:2", STORY[0]).events[0]
        assert next(follower).cursor == told.cursor
    with client.follow(prefix="some:", after=0, types=["step.started"]) as follower:
        assert next(follower).cursor == told.cursor


def test_a_job_may_be_waited_for(client: headway.Client) -> None:
    with pytest.raises(NotFound):
        next(client.follow("follow:5"))
    with client.follow("follow:5", wait=True, caught_up=lambda _: client.append("follow:5", PLAN)) as follower:
        assert next(follower).type == "job.planned"


def test_a_cursor_that_is_not_on_the_history_is_told_with_the_one_that_is(client: headway.Client) -> None:
    told = client.append("follow:6", noted("x")).events[0]
    forged = told.cursor[:-8] + ("00000000" if told.cursor[-8:] != "00000000" else "11111111")
    with pytest.raises(LogDiverged) as diverged:
        next(client.follow(after=forged))
    assert diverged.value.reason == "hash"
    common = diverged.value.common
    assert common is not None
    assert common < told.cursor


@pytest.mark.anyio
async def test_asynchronous_clients_follow_too(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        await client.append("follow:7", PLAN)
        async with client.follow("follow:7") as follower:
            assert (await anext(follower)).type == "snapshot"
            told = await client.append("follow:7", STORY)
            assert [item.cursor async for item in follower] == [e.cursor for e in told.events if e.applied]


def keys(database_url: str, *scopes: str) -> list[str]:
    """A key for each scope, in a log that is there."""
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
    return [make_key(database_url, scopes=[scope]) for scope in scopes]


def test_with_keys_only_who_may_read_follows_and_a_token_shows_only_its_jobs(database_url: str) -> None:
    reads, appends = keys(database_url, "read", "append")
    with serving(database_url, keyless=False) as server:
        with headway.Client(server.url, appends) as writer, headway.Client(server.url, reads) as reader:
            writer.append("key:1", [PLAN, *STORY])
            writer.append("key:2", PLAN)
            token = reader.stream_token(jobs=["key:1"])
            with pytest.raises(Forbidden):
                next(writer.follow("key:1"))
        with headway.Client(server.url) as nobody, pytest.raises(Unauthorized):
            next(nobody.follow("key:1"))
        with headway.Client(server.url, token=token) as page:
            assert [item.percent for item in page.follow("key:1")] == [100.0]
            with pytest.raises(NotFound):
                next(page.follow("key:2"))


def test_a_token_that_ends_during_a_stream_is_renewed_and_nothing_is_missed(database_url: str) -> None:
    """S8: `reauth` ends the stream, the next token takes it up; without a next one there is an error, no 401."""
    reads, appends = keys(database_url, "read", "append")
    with (
        serving(database_url, keyless=False) as server,
        headway.Client(server.url, reads) as reader,
        headway.Client(server.url, appends) as writer,
    ):
        first = writer.append("s8", noted("before")).events[0]
        tokens = [reader.stream_token(ttl=ttl).token for ttl in (1, 60)]
        with headway.Client(server.url, token=lambda: tokens.pop(0)) as page, page.follow("s8", after=0) as follower:
            assert next(follower).cursor == first.cursor
            with headway.Client(server.url, token=reader.stream_token(ttl=1)) as alone, pytest.raises(TokenExpired):
                list(alone.follow("s8", after="now"))

            def one_more_comes_and_the_token_was_renewed() -> bool:
                told = writer.append("s8", noted("after")).events[0]
                assert next(follower).cursor == told.cursor
                return tokens == []

            until(one_more_comes_and_the_token_was_renewed)
