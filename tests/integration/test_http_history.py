"""`GET /v1/events` and `GET /v1/jobs/{job}/events`: pages, filters, NDJSON, CSV, time travel."""

from __future__ import annotations

import csv
import gzip
import io
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest

from eventstore.events import Appended, NewEvent
from tests.support.http import Server, serving

Post = Callable[..., list[Appended]]
PLAN = {"type": "job.planned", "data": {"steps": [{"step": "a"}, {"step": "b"}]}}
NDJSON = {"accept": "application/x-ndjson"}


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


def progress(percent: float, **data: Any) -> dict[str, Any]:
    return {"type": "step.progressed", "step": "a", "data": {"percent": percent, **data}}


def page(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def versions(answer: httpx.Response) -> list[int]:
    return [event["version"] for event in page(answer)["events"]]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    return found


def test_an_event_comes_back_as_it_was_recorded(client: httpx.Client, post: Post) -> None:
    event = progress(10, message="line\nbreak 🚚 <b>")
    posted = post("one:1", PLAN, event)[-1]
    shown = page(client.get("/v1/jobs/one:1/events"))["events"][-1]
    assert shown["data"] == event["data"]
    assert (shown["position"], shown["cursor"], shown["version"]) == (posted.position, posted.cursor, 2)
    assert (shown["applied"], shown["job_id"], shown["step"], shown["percent"]) == (True, "one:1", "a", 5.0)


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_pages_follow_one_another_until_the_history_is_complete(client: httpx.Client, post: Post, order: str) -> None:
    post(f"pages:{order}", PLAN, *(progress(percent) for percent in range(10)))
    answer = client.get(f"/v1/jobs/pages:{order}/events?limit=4&order={order}")
    found = versions(answer)
    while (following := answer.json()["next"]) is not None:
        assert answer.links["next"]["url"] == following
        answer = client.get(following)
        found += versions(answer)
    assert answer.json()["complete"]
    assert found == (list(range(1, 12)) if order == "oldest" else list(range(11, 0, -1)))


def test_who_goes_on_from_the_last_cursor_gets_what_was_appended_since(client: httpx.Client, post: Post) -> None:
    post("poll:1", PLAN)
    cursor = page(client.get("/v1/jobs/poll:1/events"))["cursor"]
    assert versions(client.get(f"/v1/jobs/poll:1/events?after={cursor}")) == []
    post("poll:1", progress(1))
    assert versions(client.get(f"/v1/jobs/poll:1/events?after={cursor}")) == [2]


def test_a_history_is_filtered(client: httpx.Client, post: Post) -> None:
    post(
        "filter:1", PLAN, progress(50, message="Straße 推送"), progress(40), {"type": "step.started", "step": "b"},
        {"type": "step.failed", "step": "b", "data": {"error": {"message": "Disk FULL"}}},
    )  # fmt: skip

    def found(**asked: Any) -> list[int]:
        return versions(client.get("/v1/jobs/filter:1/events", params=asked))

    assert found(type="step.*") == [2, 3, 4, 5]
    assert found(type=["job.planned", "step.failed"]) == [1, 5]
    assert found(step=["b", "nobody"]) == [4, 5]
    assert found(applied="false") == found(reason="regression") == [3]
    assert found(applied="true") == [1, 2, 4, 5]
    assert found(text="disk full") == [5] and found(text="推送") == [2]
    assert found(actor="nobody") == []
    assert found(since="2001-01-01T00:00:00+01:00", until="2999-01-01T00:00:00Z") == [1, 2, 3, 4, 5]
    assert found(until="2001-01-01T00:00:00Z") == found(since="2999-01-01T00:00:00Z", clock="occurred") == []
    everywhere = client.get("/v1/events", params={"prefix": "filter:", "text": "DISK"})
    assert [event["job_id"] for event in page(everywhere)["events"]] == ["filter:1"]


def test_a_job_that_is_not_there_has_no_history(client: httpx.Client, post: Post) -> None:
    post("there:1", PLAN)
    for headers in ({}, NDJSON, {"accept": "text/csv"}):
        problem(client.get("/v1/jobs/nobody/events", headers=headers), 404, "not_found")
        assert client.get("/v1/jobs/there:1/events?text=nothing", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("type=job.*,step.*", "type"), ("type=step.flying", "type"),
        ("reason=Bad%20word", "reason"), ("applied=1", "applied"),
        ("since=2026-01-31", "since"), ("since=2026-01-31T12:00:00", "since"), ("since=2026-13-31T12:00:00Z", "since"),
        ("since=0001-01-01T00:00:00%2B23:59", "since"),
        ("since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("reason=regression&applied=true", "reason"), ("text=", "text"), ("text=a%00", "text"), ("limit=1e3", "limit"),
        ("limit=1001", "limit"), ("clock=mine", "clock"), ("order=down", "order"), ("format=xml", "format"),
        ("formulas=true", "formulas"), ("job=a", "job"), ("after=1&after=1", "after"), ("step=" + "x" * 201, "step"),
        ("&".join(["actor=a"] * 51), "actor"),
    ],
)  # fmt: skip
def test_a_filter_that_breaks_its_rule_is_named(client: httpx.Client, query: str, field: str) -> None:
    assert problem(client.get(f"/v1/events?{query}"), 400, "malformed")["field"] == field


@pytest.mark.parametrize("cursor", ["abc", "1e3", str(2**63), "+5", " 5", "-2", "0001_0_0", "٣"])
@pytest.mark.parametrize("name", ["after", "before"])
def test_garbage_is_no_cursor(client: httpx.Client, name: str, cursor: str) -> None:
    for headers in ({}, NDJSON):
        problem(client.get("/v1/events", params={name: cursor}, headers=headers), 400, "invalid_cursor")


@pytest.mark.parametrize("headers", [{}, NDJSON, {"accept": "text/csv"}])
def test_a_cursor_of_another_history_is_a_conflict(client: httpx.Client, post: Post, headers: dict[str, str]) -> None:
    cursor = post("diverged:1", PLAN)[-1].cursor
    for name in ("after", "before"):
        other = problem(client.get(f"/v1/events?{name}=0009{cursor[4:]}", headers=headers), 409, "log_diverged")
        assert other["reason"] == "epoch" and other["common"]
        ahead = client.get(f"/v1/jobs/diverged:1/events?{name}=9007199254740992", headers=headers)
        assert problem(ahead, 409, "log_diverged")["reason"] == "ahead"


def test_a_format_that_is_not_there_is_refused_and_the_parameter_goes_before_the_header(client: httpx.Client) -> None:
    assert problem(client.get("/v1/events", headers={"accept": "text/html"}), 406, "not_acceptable")["formats"]
    both = client.get("/v1/events?format=json&limit=1", headers={"accept": "text/csv"})
    assert both.headers["content-type"] == "application/json"
    best = client.get("/v1/events?limit=1", headers={"accept": "text/html, text/csv;q=0.5, application/json;q=0.4"})
    assert best.headers["content-type"].startswith("text/csv")


# -- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_stream_of_lines_has_every_event_once_in_order(client: httpx.Client, post: Post, coding: str) -> None:
    job = f"lines:{coding}"
    for start in range(0, 2_500, 500):
        post(job, *({"type": "job.noted", "data": {"level": "info", "message": f"m{start + n}"}} for n in range(500)))
    answer = client.get(f"/v1/jobs/{job}/events", headers=NDJSON | {"accept-encoding": coding})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert ("content-encoding" in answer.headers) == (coding == "gzip")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["version"] for line in lines] == list(range(1, 2_501))
    assert lines[:1_000] == page(client.get(f"/v1/jobs/{job}/events?limit=1000"))["events"]
    log = client.get(f"/v1/events?prefix={job}&limit=7", headers=NDJSON)
    assert [json.loads(line)["version"] for line in log.text.splitlines()] == list(range(1, 8))
    backwards = client.get(f"/v1/jobs/{job}/events?format=ndjson&order=newest&text=m17")
    assert [json.loads(line)["version"] for line in backwards.text.splitlines()][-1] == 18


def test_a_stream_that_nobody_reads_any_more_ends_and_gives_its_place_back(
    server: Server, client: httpx.Client, post: Post
) -> None:
    big = {"type": "job.noted", "data": {"level": "info", "message": "x" * 8_000}}
    for _ in range(8):
        post("gone:1", *([big] * 100))
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"GET /v1/jobs/gone:1/events HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
            assert raw.recv(12) == b"HTTP/1.1 200"
    assert len(client.get("/v1/jobs/gone:1/events", headers=NDJSON).text.splitlines()) == 800


def test_a_table_opens_in_a_spreadsheet_and_runs_nothing_there(client: httpx.Client, post: Post) -> None:
    post("csv:1", PLAN, progress(1, message="=cmd|' /C calc'!A0"), progress(2, message="+1"), progress(3, message="ok"))
    answer = client.get("/v1/jobs/csv:1/events?format=csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="csv-1.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row["message"] for row in rows] == ["", "'=cmd|' /C calc'!A0", "'+1", "ok"]
    plain = client.get("/v1/jobs/csv:1/events?format=csv&formulas=true")
    assert "'+1" not in plain.text and "+1" in plain.text
    packed = client.get("/v1/events?format=csv&prefix=csv:", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip" and packed.text == answer.text


# -- what can't change any more ---------------------------------------------------------------------------------------


def test_a_full_page_below_the_head_may_be_kept_and_no_other(client: httpx.Client, post: Post) -> None:
    post("kept:1", PLAN, *(progress(percent) for percent in range(5)))
    full = client.get("/v1/jobs/kept:1/events?limit=3")
    assert "immutable" in full.headers["cache-control"] and "private" in full.headers["cache-control"]
    for query in ("limit=6", "limit=100", "limit=3&order=newest", "limit=3&after=999999999&text=no"):
        answer = client.get(f"/v1/jobs/kept:1/events?{query}")
        assert "immutable" not in answer.headers["cache-control"]
    again = client.get("/v1/jobs/kept:1/events?limit=3", headers={"if-none-match": full.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "authorization" in full.headers["vary"]


def test_a_page_is_packed_for_who_takes_that(client: httpx.Client, post: Post) -> None:
    post("packed:1", PLAN, *(progress(percent) for percent in range(50)))
    with client.stream("GET", "/v1/jobs/packed:1/events", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert len(json.loads(gzip.decompress(b"".join(answer.iter_raw())))["events"]) == 51


# -- two moments ------------------------------------------------------------------------------------------------------


def test_two_moments_of_a_job_are_compared(client: httpx.Client, post: Post) -> None:
    posted = post("diff:1", PLAN, progress(10, metadata={"n": 1}), progress(60, metadata={"n": 2}))
    found = client.get(f"/v1/jobs/diff:1/diff?from={posted[1].cursor}&to={posted[2].position}").json()
    assert (found["versions"], found["percents"]) == ([2, 3], [5.0, 30.0])
    changes = {(change["step"], change["field"]): (change["before"], change["after"]) for change in found["changes"]}
    assert changes["a", "percent"] == (10.0, 60.0) and changes[None, "percent"] == (5.0, 30.0)
    assert changes["a", "metadata"] == ({"n": 1}, {"n": 2})
    whole = client.get("/v1/jobs/diff:1/diff").json()
    assert whole["versions"] == [0, 3] and whole["percents"] == [0.0, 30.0]
    assert client.get("/v1/jobs/diff:1/diff?from=now").json()["changes"] == []
    assert client.get("/v1/jobs/diff:1/diff?to=0").json()["changes"] == []


def test_moments_are_checked(client: httpx.Client, post: Post) -> None:
    post("diff:2", PLAN)
    problem(client.get("/v1/jobs/nobody/diff"), 404, "not_found")
    for query, field in (
        ("from=x", "from"),
        ("to=2026-01-01T00:00:00", "to"),
        ("occurred=true", "occurred"),
        ("t=1", "t"),
    ):
        assert problem(client.get(f"/v1/jobs/diff:2/diff?{query}"), 400, "malformed")["field"] == field


def test_what_the_log_says_of_itself_is_on_the_routes_of_the_log_only(client: httpx.Client) -> None:
    problem(client.get("/v1/jobs/headway.log"), 422, "reserved")
    problem(client.get("/v1/jobs/headway.log/events"), 422, "reserved")
