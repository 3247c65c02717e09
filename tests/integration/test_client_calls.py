"""The client against a real server: append, look, page through, and what a refusal looks like."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import headway
from headway.client import (
    AsyncClient,
    BadAnswer,
    EventIdConflict,
    InvalidRequest,
    NewEvent,
    NotFound,
    WrongExpectedVersion,
)
from tests.support.http import Server, serving

PLAN = {
    "type": "job.planned",
    "data": {"title": "Build 推送", "kind": "build", "steps": [{"step": "a"}, {"step": "b"}]},
}
STARTED = {"type": "step.started", "step": "a"}


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[headway.Client]:
    with headway.Client(server.url) as client:
        yield client


def test_what_is_appended_is_told_with_its_verdict_and_shown(client: headway.Client) -> None:
    told = client.append(
        "calls:1",
        [PLAN, STARTED, NewEvent(type="step.progressed", step="a", data={"percent": 50}), STARTED],
    )
    assert [(event.applied, event.reason) for event in told.events] == [
        (True, None), (True, None), (True, None), (False, "already"),
    ]  # fmt: skip
    assert told.job is not None
    assert (told.job.version, told.job.percent) == (4, 25.0)
    shown = client.job("calls:1", min_version=4)
    assert (shown.title, shown.status, shown.percent, shown.version) == ("Build 推送", "running", 25.0, 4)
    step = shown.step("a")
    assert step is not None
    assert (step.percent, step.status, len(step.attempts)) == (50.0, "running", 1)
    assert shown.cursor >= told.events[-1].cursor


def test_one_event_needs_no_list(client: headway.Client) -> None:
    assert len(client.append("calls:2", {"type": "job.started"}).events) == 1


def test_an_event_sent_twice_is_one_event(client: headway.Client) -> None:
    event = {"type": "job.noted", "data": {"level": "info", "message": "x"}, "event_id": headway_id(1)}
    first, second = client.append("calls:3", event), client.append("calls:3", event)
    assert [told.events[0].duplicate for told in (first, second)] == [False, True]
    assert first.events[0].position == second.events[0].position
    with pytest.raises(EventIdConflict) as conflict:
        client.append("calls:3", {**event, "data": {"level": "info", "message": "y"}})
    assert conflict.value.event_id == headway_id(1)
    assert conflict.value.status == 409


def headway_id(number: int) -> str:
    return f"0192d3a0-0000-7000-8000-{number:012d}"


def test_an_idempotency_key_makes_the_same_call_one_call(client: headway.Client) -> None:
    tell = {"type": "job.noted", "data": {"level": "info", "message": "x"}}
    first, second = (client.append("calls:4", [tell, tell], idempotency_key="monday") for _ in range(2))
    assert [event.event_id for event in first.events] == [event.event_id for event in second.events]
    assert all(event.duplicate for event in second.events)


def test_an_expected_version_is_kept(client: headway.Client) -> None:
    client.append("calls:5", {"type": "job.started"}, expected=0)
    with pytest.raises(WrongExpectedVersion) as wrong:
        client.append("calls:5", {"type": "job.completed"}, expected=0)
    assert wrong.value.actual == 1
    client.append("calls:5", {"type": "job.completed"}, expected=1)
    with pytest.raises(WrongExpectedVersion):
        client.append("calls:5", {"type": "job.completed"}, expected=7)


def test_many_jobs_at_once_are_sent_in_parts(client: headway.Client) -> None:
    sent = [
        {"job_id": f"many:{n % 3}", "type": "job.noted", "data": {"level": "info", "message": str(n)}}
        for n in range(1_100)
    ]
    told = client.append_many(sent)
    assert len(told.events) == 1_100
    assert [event.position for event in told.events] == sorted(event.position for event in told.events)
    assert {job.job_id: job.version for job in told.jobs} == {"many:0": 367, "many:1": 367, "many:2": 366}


def test_history_and_lists_are_walked_to_their_end(client: headway.Client) -> None:
    client.append_many(
        [{"job_id": f"walk:{n:03d}", "type": "job.noted", "data": {"level": "info", "message": f"n{n}"}}
         for n in range(120)]
    )  # fmt: skip
    assert len(list(client.jobs(prefix="walk:", limit=50))) == 120
    events = list(client.events(prefix="walk:", limit=50))
    assert [event.data["message"] for event in events] == [f"n{n}" for n in range(120)]
    assert [event.position for event in client.events(prefix="walk:", order="newest", limit=7)] == [
        event.position for event in reversed(events)
    ]
    assert [event.job_id for event in client.events("walk:007", type=["job.noted", "job.planned"])] == ["walk:007"]
    before = datetime.now(UTC) - timedelta(days=1)
    assert list(client.events("walk:007", until=before)) == []


def test_the_past_and_what_changed_since(client: headway.Client) -> None:
    told = client.append("calls:6", [PLAN, STARTED, {"type": "step.completed", "step": "a"}])
    first, _, last = told.events
    assert client.job("calls:6", at=first.position).percent == 0.0
    assert client.job("calls:6", at=last.cursor).percent == 50.0
    changes = client.diff("calls:6", first.cursor, last.cursor)
    assert changes.percents == (0.0, 50.0)
    assert ("a", "status", "pending", "completed") in {
        (change.step, change.field, change.before, change.after)
        for change in changes.changes
        if isinstance(change.after, str)
    }


def test_a_refusal_says_what_broke_which_rule(client: headway.Client) -> None:
    with pytest.raises(NotFound) as missing:
        client.job("calls:nowhere")
    assert (missing.value.code, missing.value.status, missing.value.retryable) == ("not_found", 404, False)
    assert missing.value.request_id is not None
    with pytest.raises(InvalidRequest) as wrong:
        client.append("calls:7", {"type": "job.planned", "data": {"steps": "none"}})
    assert wrong.value.status == 422
    assert "data.steps" in wrong.value.facts["field"]


def test_what_is_no_server_of_this_kind_is_a_bad_answer(server: Server) -> None:
    with headway.Client(server.url + "/docs") as client, pytest.raises((BadAnswer, NotFound)):
        client.job("a")


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(server: Server) -> None:
    async with AsyncClient(server.url) as client:
        told = await client.append("calls:8", [PLAN, STARTED])
        assert (await client.job("calls:8")).version == 2
        await client.append_many([{"job_id": "calls:9", "type": "job.started"}])
        assert [job.job_id async for job in client.jobs(prefix="calls:9")] == ["calls:9"]
        assert [event.position async for event in client.events("calls:8", limit=1)] == [
            event.position for event in told.events
        ]
        assert (await client.diff("calls:8")).versions == (0, 2)
        with pytest.raises(NotFound):
            await client.job("calls:nowhere")


def test_the_client_loads_neither_the_store_nor_a_database_driver() -> None:
    code = (
        "import sys, headway; headway.Client, headway.AsyncClient\n"
        "heavy = {'api', 'eventstore', 'projections', 'sqlalchemy', 'psycopg', 'redis', 'litestar'}\n"
        "print(*sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.split() == []


def test_reporting_to_a_store_loads_no_http_library() -> None:
    code = "import sys, headway; print('httpx' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.split() == ["False"]
