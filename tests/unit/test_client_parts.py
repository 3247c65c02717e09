"""The client's parts: what is sent, what an answer means, when to try again, and what is never shown."""

from __future__ import annotations

import traceback
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest

import headway
from headway.client import calls
from headway.client.address import Address, Tries
from headway.client.calls import Answer
from headway.client.errors import (
    BadAnswer,
    ClientError,
    Conflict,
    Forbidden,
    InvalidRequest,
    LogDiverged,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
    WrongExpectedVersion,
)
from headway.client.retrying import Backoff
from headway.client.values import JobSnapshot, StreamToken
from headway.errors import HeadwayError, Misuse

KEY = "hw_ab12_s3cr3tS3CR3Ts3cr3t"
JOB = b'{"job_id":"a","status":"running","percent":12.5,"cursor":"c","steps":[],"new_field":{"x":1}}'


def sent(call: calls.Call[Any]) -> Any:
    return msgspec.json.decode(call.request.body or b"null")


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_each_event_has_an_id_of_version_7_before_it_is_sent_and_keeps_its_own() -> None:
    events = sent(calls.append("a", [{"type": "x"}, {"type": "y", "event_id": "mine"}]))
    assert events[0]["event_id"][14] == "7"
    assert events[1]["event_id"] == "mine"


def test_with_an_idempotency_key_the_server_makes_the_ids() -> None:
    call = calls.append("a", {"type": "x"}, idempotency_key="k")
    assert (sent(call), call.request.headers["idempotency-key"]) == ([{"type": "x"}], "k")


def test_the_callers_event_is_not_changed() -> None:
    event = {"type": "x"}
    calls.append("a", [event])
    assert event == {"type": "x"}


@pytest.mark.parametrize(
    ("expected", "headers"),
    [(None, {}), (0, {"if-none-match": "*"}), (7, {"if-match": '"7"'})],
)
def test_an_expected_version_is_a_precondition(expected: int | None, headers: dict[str, str]) -> None:
    assert calls.append("a", [], expected=expected).request.headers == {"content-type": "application/json"} | headers


def test_many_events_are_parted_by_number_and_by_size() -> None:
    by_number = list(calls.append_many({"job_id": "a", "type": "x"} for _ in range(1_001)))
    assert [len(sent(call)) for call in by_number] == [500, 500, 1]
    by_size = list(calls.append_many({"job_id": "a", "type": "x", "data": {"m": "x" * 60_000}} for _ in range(40)))
    assert max(len(call.request.body or b"") for call in by_size) <= 900 * 1024 + 2
    assert sum(len(sent(call)) for call in by_size) == 40


def test_parameters_are_encoded_and_lists_repeated() -> None:
    asked = calls.events("build:7", type=["a", "b"], text="ä &?", applied=False, since=None).request
    assert asked.target == "/v1/jobs/build:7/events?limit=500&type=a&type=b&text=%C3%A4+%26%3F&applied=false"


@pytest.mark.parametrize("job_id", ["a/../../x", "a?b", "a#b", "a b", "\r\nx"])
def test_a_job_id_stays_one_segment_of_the_path(job_id: str) -> None:
    target = calls.job(job_id).request.target
    assert target.count("/") == 3
    assert not set(target) & set("?# \r\n")


@pytest.mark.parametrize("job_id", [None, 7, b"job", ""])
def test_what_is_no_jobs_id_is_refused_before_it_is_sent(job_id: Any) -> None:
    with pytest.raises(Misuse, match="is no job's id"):
        calls.job(job_id)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(Misuse, match="zone"):
        calls.job("a", at=datetime(2026, 1, 1))


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(Misuse, match="mapping"):
        calls.append("a", ["step.started"])


def test_fields_of_a_newer_server_are_passed_over_and_missing_ones_have_a_default() -> None:
    read = calls.job("a").read(answer(200, JOB))
    assert isinstance(read, JobSnapshot)
    assert (read.percent, read.title, read.eta) == (12.5, None, None)


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (400, "malformed", InvalidRequest, False),
        (401, "unauthorized", Unauthorized, False),
        (403, "forbidden", Forbidden, False),
        (404, "not_found", NotFound, False),
        (409, "wrong_expected_version", WrongExpectedVersion, False),
        (409, "log_diverged", LogDiverged, False),
        (409, "job_full", Conflict, False),
        (412, "precondition_failed", Conflict, False),
        (413, "too_large", InvalidRequest, False),
        (422, "out_of_range", InvalidRequest, False),
        (429, "too_many_requests", Unavailable, True),
        (500, "internal_error", Unavailable, False),
        (503, "storage_full", Unavailable, True),
    ],
)
def test_a_problem_document_is_an_error_of_one_tree(
    status: int, code: str, kind: type[Refused], retryable: bool
) -> None:
    document = {"title": "T", "status": status, "code": code, "detail": "d", "request_id": "r1", "actual": 7}
    with pytest.raises(HeadwayError) as raised:
        calls.job("a").read(answer(status, msgspec.json.encode(document), content_type="application/problem+json"))
    error = raised.value
    assert type(error) is kind
    assert isinstance(error, ClientError)
    assert (error.status, error.code, error.detail, error.request_id) == (status, code, "d", "r1")
    assert (error.retryable, error.facts) == (retryable, {"actual": 7})


def test_an_answer_of_somebody_else_is_named_as_such() -> None:
    with pytest.raises(Unavailable) as proxy:
        calls.job("a").read(answer(502, b"<html>bad gateway\n</html>", content_type="text/html"))
    assert proxy.value.retryable
    assert "<html>bad gateway </html>" in str(proxy.value)
    with pytest.raises(BadAnswer):
        calls.job("a").read(answer(418, b"teapot"))
    with pytest.raises(BadAnswer):
        calls.job("a").read(answer(200, b"<html>"))


def test_a_redirect_is_not_followed_but_told_without_its_query() -> None:
    with pytest.raises(BadAnswer) as moved:
        calls.job("a").read(answer(308, location="https://elsewhere/?token=s3cr3t"))
    assert moved.value.code == "redirected"
    assert "https://elsewhere/" in str(moved.value)
    assert "s3cr3t" not in str(moved.value)


@pytest.mark.parametrize("following", ["https://elsewhere/v1/jobs", "//elsewhere/v1/", "/other"])
def test_the_next_page_is_never_fetched_elsewhere(following: str) -> None:
    with pytest.raises(BadAnswer):
        calls.jobs().read(answer(200, msgspec.json.encode({"jobs": [], "next": following})))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0), (" 0 ", 0.0), ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0), ("Thu, 01 Jan 1970 00:00:01 GMT", 0.0),
        (None, None), ("soon", None), ("-1", None), ("1e3", None), ("9" * 40, None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert calls.retry_after(text, now=lambda: 10.0) == seconds


def test_pauses_grow_to_a_limit_and_are_never_shorter_than_asked() -> None:
    backoff = Backoff(first=1, longest=8)
    for most in (1, 2, 4, 8, 8, 8):
        assert most / 2 <= backoff.next() <= most
    assert 60 <= backoff.next(60) <= 75
    assert len({Backoff().next() for _ in range(9)}) > 1


def test_a_call_is_not_tried_beyond_its_time() -> None:
    slow = Unavailable("busy", status=503)
    slow.retry_after = 60.0
    with pytest.raises(Unavailable):
        Tries(10).pause(slow)
    assert Tries(1000).pause(slow) >= 60


@pytest.mark.parametrize("url", ["http://x/v1", "http://x:8000/base/v1//"])
@pytest.mark.parametrize("kind", [headway.Client, headway.AsyncClient])
def test_an_address_with_the_version_of_the_api_is_refused_with_what_to_do(kind: Any, url: str) -> None:
    with pytest.raises(Misuse, match="leave out /v1"):
        kind(url)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x", "http://", "http://me:pw@x", "http://x/?a=1", "http://x/#a"],
)
def test_an_address_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(Misuse) as refused:
        headway.Client(url)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize("key", ["", "two words", "hw_x\r\nx-evil: 1", "schlüssel", 7])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: Any) -> None:
    with pytest.raises(Misuse) as refused:
        headway.Client("http://x", key)
    assert str(key or "two") not in str(refused.value)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    with pytest.raises(Misuse):
        headway.Client("http://x", timeout=timeout)


def test_the_key_is_in_the_request_and_in_nothing_that_is_printed() -> None:
    address = Address("http://localhost:8000/", KEY, None)
    request = address.http(calls.job("a").request)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert str(request.url) == "http://localhost:8000/v1/jobs/a"
    client = headway.Client("http://localhost:1", KEY, timeout=0.01)
    with client, pytest.raises(ClientError) as failed:
        client.job("a")
    shown = "".join(
        traceback.TracebackException.from_exception(failed.value, capture_locals=True, compact=False).format()
    )
    for text in (repr(client), repr(request), repr(vars(address)), repr(StreamToken(token=KEY)), shown):
        assert KEY not in text
        assert "s3cr3t" not in text


def test_a_key_and_a_token_together_are_refused() -> None:
    with pytest.raises(Misuse):
        headway.Client("http://x", KEY, token="t")


def test_a_request_is_plain_for_httpx() -> None:
    request = Address("http://h/base", None, StreamToken(token="t")).http(calls.jobs(text="a/b c").request)
    assert isinstance(request, httpx.Request)
    assert request.url == "http://h/base/v1/jobs?text=a%2Fb+c"
    assert request.headers["authorization"] == "Bearer t"
