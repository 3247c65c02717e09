"""`GET /v1/jobs/{job}` and `GET /v1/jobs`: snapshots, the past, conditional requests, lists and their pages."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from eventstore.events import Appended, NewEvent
from tests.support.http import Server, serving

Post = Callable[..., list[Appended]]
PLAN = {
    "type": "job.planned",
    "data": {"title": "Deploy 推送", "kind": "deploy", "steps": [{"step": "a"}, {"step": "b"}]},
}


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def post(server: Server) -> Post:
    def append(job: str, *events: dict[str, Any]) -> list[Appended]:
        return server.services.store.append(job, msgspec.convert(events, list[NewEvent]))

    return append


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    return found


def test_a_job_is_shown_with_steps_attempts_percentage_and_the_cursor_that_it_reflects(
    client: httpx.Client, post: Post
) -> None:
    posted = post(
        "show:1", PLAN, {"type": "step.started", "step": "a", "data": {"worker": "w1"}},
        {"type": "step.progressed", "step": "a", "data": {"percent": 50}},
    )  # fmt: skip
    shown = client.get("/v1/jobs/show:1").json()
    assert (shown["status"], shown["percent"], shown["cursor"]) == ("running", 25.0, posted[-1].cursor)
    assert [(step["step"], step["percent"]) for step in shown["steps"]] == [("a", 50.0), ("b", 0.0)]
    assert shown["steps"][0]["attempts"][0]["worker"] == "w1"
    assert shown["eta"] is None and shown["conditions"] == []


def test_a_job_that_has_worked_for_a_while_says_what_is_left(client: httpx.Client, post: Post) -> None:
    ago = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
    post(
        "eta:1", {**PLAN, "occurred_at": ago}, {"type": "step.started", "step": "a", "occurred_at": ago},
        {"type": "step.progressed", "step": "a", "data": {"percent": 80}},
    )  # fmt: skip
    eta = client.get("/v1/jobs/eta:1").json()["eta"]
    assert eta["basis"] == "rate" and 0 < eta["low"] < eta["high"]


def test_a_job_that_is_not_there_is_a_404(client: httpx.Client, post: Post) -> None:
    problem(client.get("/v1/jobs/nobody"), 404, "not_found")
    problem(client.get("/v1/jobs/nobody?min_version=1"), 404, "not_found")
    problem(client.get("/v1/jobs/nobody?at=0"), 404, "not_found")


@pytest.mark.parametrize("at", ["position", "cursor", "time"])
def test_a_job_is_shown_as_it_was_at_a_position_a_cursor_or_a_time(client: httpx.Client, post: Post, at: str) -> None:
    job = f"past:{at}"
    started = post(job, PLAN, {"type": "step.started", "step": "a"})[-1]
    then = client.get(f"/v1/jobs/{job}/events").json()["events"][-1]["recorded_at"]
    post(job, {"type": "step.completed", "step": "a"})
    place = {"position": str(started.position), "cursor": started.cursor, "time": then}[at]
    was = client.get(f"/v1/jobs/{job}", params={"at": place}).json()
    assert (was["percent"], was["version"], was["cursor"]) == (0.0, 2, started.cursor)
    assert client.get(f"/v1/jobs/{job}").json()["percent"] == 50.0


def test_the_past_may_be_asked_for_by_the_workers_own_time(client: httpx.Client, post: Post) -> None:
    post(
        "past:occurred", {**PLAN, "occurred_at": "2020-01-01T00:00:00Z"},
        {"type": "step.started", "step": "a", "occurred_at": "2020-01-01T01:00:00Z"},
        {"type": "step.completed", "step": "a", "occurred_at": "2020-01-01T02:00:00Z"},
    )  # fmt: skip
    asked = {"at": "2020-01-01T01:30:00Z", "occurred": "true"}
    assert client.get("/v1/jobs/past:occurred", params=asked).json()["percent"] == 0.0
    problem(client.get("/v1/jobs/past:occurred", params={"at": "1", "occurred": "true"}), 400, "malformed")


def test_a_place_beyond_the_head_is_a_conflict_that_names_the_last_common_cursor(
    client: httpx.Client, post: Post
) -> None:
    last = post("ahead:1", PLAN)[-1]
    for path in ("/v1/jobs/ahead:1?at=", "/v1/jobs/ahead:1/diff?to=", "/v1/events?after="):
        found = problem(client.get(f"{path}{last.position + 1_000_000}"), 409, "log_diverged")
        assert found["reason"] == "ahead"
        assert found["common"] == client.get("/v1/events?order=newest&limit=1").json()["events"][0]["cursor"]


def test_a_cursor_of_another_history_is_a_conflict(client: httpx.Client, post: Post) -> None:
    cursor = post("forged:1", PLAN)[-1].cursor
    forged = cursor[:-8] + ("00000000" if cursor[-8:] != "00000000" else "11111111")
    assert problem(client.get(f"/v1/jobs/forged:1?at={forged}"), 409, "log_diverged")["reason"] == "hash"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("at=2026-01-31T12:00:00", "at"), ("at=yesterday", "at"), ("at=1e3", "at"), ("at=%2B5", "at"),
        ("at=%205", "at"),
        ("min_version=-1", "min_version"), ("min_version=1.0", "min_version"), ("min_version=", "min_version"),
        ("at=1&at=2", "at"), ("min_version=1&at=1", "min_version"),
        ("att=1", "att"), ("occurred=1", "occurred"),
    ],
)  # fmt: skip
def test_a_parameter_that_breaks_its_rule_is_named(client: httpx.Client, post: Post, query: str, field: str) -> None:
    post("strict:1", PLAN)
    assert problem(client.get(f"/v1/jobs/strict:1?{query}"), 400, "malformed")["field"] == field


def test_an_unknown_parameter_names_the_known_ones_and_the_one_that_was_meant(client: httpx.Client, post: Post) -> None:
    found = problem(client.get("/v1/jobs?limt=3"), 400, "malformed")
    assert "Did you mean limit?" in found["detail"] and "prefix" in found["known"]


def test_who_knows_the_version_of_an_append_is_not_shown_an_older_one(client: httpx.Client, post: Post) -> None:
    version = post("min:1", PLAN, {"type": "job.started"})[-1].version
    assert client.get(f"/v1/jobs/min:1?min_version={version}").json()["version"] == version
    found = problem(client.get(f"/v1/jobs/min:1?min_version={version + 1}"), 409, "wrong_expected_version")
    assert found["actual"] == version


def test_what_did_not_change_is_not_sent_again(client: httpx.Client, post: Post) -> None:
    post("tag:1", PLAN)
    first = client.get("/v1/jobs/tag:1")
    known = {"if-none-match": first.headers["etag"]}
    post("tag:other", PLAN)  # moves the head of the log, not this job
    again = client.get("/v1/jobs/tag:1", headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    post("tag:1", {"type": "job.started"})
    assert client.get("/v1/jobs/tag:1", headers=known).status_code == 200


def test_what_seems_wrong_changes_the_tag_without_an_event(client: httpx.Client, post: Post) -> None:
    until = (datetime.now(UTC) - timedelta(seconds=59.5)).isoformat()
    post("tag:2", PLAN, {"type": "job.waiting", "data": {"until": until}})
    shown = client.get("/v1/jobs/tag:2")
    while not shown.json()["conditions"]:
        tag = shown.headers["etag"]
        shown = client.get("/v1/jobs/tag:2", headers={})
    assert shown.json()["conditions"][0]["kind"] == "overdue"
    assert shown.headers["etag"] != tag


def test_a_large_answer_is_packed_for_who_takes_that_and_a_small_one_is_not(client: httpx.Client, post: Post) -> None:
    steps = [{"step": f"step {number}"} for number in range(50)]
    post("gzip:1", {"type": "job.planned", "data": {"steps": steps}})
    plain = client.get("/v1/jobs/gzip:1", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with client.stream("GET", "/v1/jobs/gzip:1", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip" and "accept-encoding" in answer.headers["vary"]
    assert len(raw) < len(plain.content) / 5
    assert json.loads(gzip.decompress(raw)) == plain.json()
    refused = client.get("/v1/jobs/gzip:1", headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


# -- the list ----------------------------------------------------------------------------------------------------------


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["job_id"] for job in answer.json()["jobs"]]


def test_jobs_are_listed_from_either_end_and_page_by_page(client: httpx.Client, post: Post) -> None:
    names = [f"list:{number}" for number in range(5)]
    for name in names:
        post(name, PLAN)
    asked = {"prefix": "list:", "limit": "2"}
    assert ids(client.get("/v1/jobs", params=asked)) == names[:2:-1]
    assert ids(client.get("/v1/jobs", params=asked | {"order": "oldest"})) == names[:2]
    for order in ("newest", "oldest"):
        answer, found = client.get("/v1/jobs", params=asked | {"order": order}), []
        while True:
            found += ids(answer)
            if answer.json()["next"] is None:
                assert "link" not in answer.headers
                break
            assert answer.links["next"]["url"] == answer.json()["next"]
            answer = client.get(answer.json()["next"])
        assert found == (names if order == "oldest" else names[::-1])


def test_a_list_has_the_jobs_of_a_status_a_kind_or_a_text(client: httpx.Client, post: Post) -> None:
    post("find:1", {"type": "job.planned", "data": {"title": "Grüße", "kind": "x.[a]", "steps": [{"step": "a"}]}})
    post("find:2", {"type": "job.started"}, {"type": "job.waiting", "data": {"reason": "r"}})
    post("find:3", {"type": "job.started"}, {"type": "job.completed", "data": {"message": "100% (done)"}})

    def found(**asked: str) -> list[str]:
        return ids(client.get("/v1/jobs", params={"prefix": "find:", **asked}))

    assert found(status="waiting") == ["find:2"]
    assert found(kind="x.[a]") == ["find:1"] and found(kind="x.") == []
    assert found(text="GRÜSSE") == [] and found(text="grüße") == ["find:1"] and found(text="% (") == ["find:3"]
    assert found(text="ND:2") == ["find:2"]
    assert found(text=".*") == []


@pytest.mark.parametrize(
    "query",
    ["status=done", "limit=0", "limit=1001",
     "limit=ten", "limit=1_0", "limit=%D9%A1", "page=zz", "page=", "order=updated",
     "text=", "kind=%00", "prefix=%25", "kind=a&kind=b", "prefix=%FF"],
)  # fmt: skip
def test_what_a_list_can_not_have_is_refused(client: httpx.Client, post: Post, query: str) -> None:
    problem(client.get(f"/v1/jobs?{query}"), 400, "malformed")


def test_any_page_of_fourteen_digits_is_a_place(client: httpx.Client, post: Post) -> None:
    for page in ("0" * 14, "f" * 14):
        for order in ("newest", "oldest"):
            assert client.get(f"/v1/jobs?page={page}&order={order}").status_code == 200


def test_a_list_that_did_not_change_is_not_sent_again(client: httpx.Client, post: Post) -> None:
    post("same:1", PLAN)
    first = client.get("/v1/jobs?prefix=same:")
    assert client.get("/v1/jobs?prefix=same:", headers={"if-none-match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("%2e%2e%2f..", 404), ("a%2Fb", 404), ("%252e%252e", 422), ("*", 422), ("%5Ba-z%5D", 422), ("%7Bx%7D", 422),
        ("'%3B%20drop%20table", 422), ("%F0%9F%9A%9A", 422), ("%0A", 422), ("abc%0A", 422), ("-a", 422), ("%00", 422),
        ("x" * 201, 422), ("x" * 9_616, 422), ("%FF", 422), ("%", 422),
    ],
)  # fmt: skip
def test_what_no_job_can_be_called_is_refused_by_every_route_of_a_job(
    server: Server, written: str, status: int
) -> None:
    for rest in ("", "/events", "/diff"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(f"GET /v1/jobs/{written}{rest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            head = raw.makefile("rb").readline()
        assert int(head.split()[1]) == status, head
