"""Bad input over HTTP: each row of the fault table is refused by a stable code and a path, and nothing is written."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.http import Server, serving

JOB = "/v1/jobs/build:7/events"
MANY = "/v1/events"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database, log=f"log-{uuid.uuid4().hex[:12]}") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


class Bad(NamedTuple):
    """A body that must be refused. `field`: the path in the problem document, None where there is none."""

    name: str
    body: bytes | Any
    status: int
    code: str
    field: str | None = None
    headers: dict[str, str] | None = None
    path: str = JOB


def progressed(percent: str) -> bytes:
    return b'{"type":"step.progressed","step":"push","data":{"percent":%s}}' % percent.encode()


def counted(done: str) -> bytes:
    return b'{"type":"step.progressed","step":"push","data":{"done":%s}}' % done.encode()


def noted(**data: Any) -> dict[str, Any]:
    return {"type": "job.noted", "data": {"level": "info", "message": "x", **data}}


def planned(steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "job.planned", "data": {"steps": steps}}


def nested(levels: int) -> bytes:
    """`data` with so many levels, itself counted."""
    inner = b"[" * (levels - 1) + b"]" * (levels - 1)
    return b'{"type":"job.noted","data":{"level":"info","message":"x","deep":%s}}' % inner


def of_job(job_id: Any) -> list[dict[str, Any]]:
    return [{"job_id": "fine", "type": "job.started"}, {"job_id": job_id, "type": "job.started"}]


BAD_JOB_IDS = [
    "../..", "a/b", "%2e%2e", "..", "*", "[a-z]", "{x}", "'; drop table events", "🚀", "\n", "abc\n", "-a", "",
    "a" * 201, "x" * 9616, "аbc",
]  # fmt: skip

ROWS = [
    *(
        Bad(f"I1-{text}", progressed(text), 422, "not_finite", "data.percent")
        for text in ("NaN", "Infinity", "-Infinity", "1e999")
    ),
    *(
        Bad(f"I2-{text}", progressed(text), 422, "out_of_range", "data.percent")
        for text in ("-1", "101", "100.0000001", "-1e-300")
    ),
    *(
        Bad(f"I3-{text}", progressed(text), 422, "wrong_type", "data.percent")
        for text in ('"50"', "true", "null", "[]", "{}")
    ),
    Bad("I3-no-percent", {"type": "step.progressed", "step": "push", "data": {}}, 422, "required", "data.percent"),
    Bad("I3-type-is-a-number", {"type": 7}, 422, "wrong_type", "type"),
    Bad("I3-type-is-missing", {"data": {}}, 422, "required", "type"),
    Bad("I3-step-is-a-list", {"type": "step.started", "step": ["a"]}, 422, "wrong_type", "step"),
    Bad("I3-attempt-is-a-bool", {"type": "job.started", "attempt": True}, 422, "wrong_type", "attempt"),
    Bad("I3-attempt-is-a-fraction", {"type": "job.started", "attempt": 1.5}, 422, "wrong_type", "attempt"),
    Bad("I3-attempt-is-zero", {"type": "job.started", "attempt": 0}, 422, "out_of_range", "attempt"),
    Bad("I3-seq-is-below-zero", {"type": "job.started", "seq": -1}, 422, "out_of_range", "seq"),
    Bad("I3-seq-is-text", {"type": "job.started", "seq": "1"}, 422, "wrong_type", "seq"),
    Bad("I3-data-is-null", {"type": "job.started", "data": None}, 422, "wrong_type", "data"),
    Bad("I3-data-is-a-list", {"type": "job.started", "data": []}, 422, "wrong_type", "data"),
    Bad("I3-body-is-text", "job.started", 422, "wrong_type"),
    Bad("I3-body-is-null", b"null", 422, "wrong_type"),
    Bad("I3-body-is-NaN", b"NaN", 422, "wrong_type"),
    Bad("I3-an-event-is-a-list", [[]], 422, "wrong_type", "events[0]"),
    Bad("I4-done-below-zero", counted("-1"), 422, "out_of_range", "data.done"),
    Bad(
        "I4-total-below-zero",
        {"type": "step.progressed", "step": "push", "data": {"done": 1, "total": -1}},
        422,
        "out_of_range",
        "data.total",
    ),
    *(
        Bad(f"I5-{name}", counted(digits), 422, "out_of_range", "data.done")
        for name, digits in (
            ("2^53+1", str(2**53 + 1)),
            ("2^63", str(2**63)),
            ("2^64", str(2**64)),
            ("40-digits", "7" * 40),
            ("5000-digits", "7" * 5_000),
        )
    ),
    Bad("I5-attempt-of-5000-digits", b'{"type":"job.started","attempt":%s}' % (b"9" * 5_000), 422, "out_of_range"),
    Bad("I6-body-of-10-MB", b" " * 10 * MIB, 413, "too_large"),
    Bad("I6-one-byte-too-many", b'{"type":"job.started"}'.ljust(MIB + 1), 413, "too_large"),
    Bad(
        "I6-gzip-bomb",
        gzip.compress(b" " * 10 * MIB),
        415,
        "unsupported_media_type",
        None,
        {"content-encoding": "gzip"},
    ),
    Bad("I6-brotli", b"x", 415, "unsupported_media_type", None, {"content-encoding": "br"}),
    Bad("I7-message-over-8-KiB", noted(message="x" * 8193), 422, "too_long", "data.message"),
    Bad("I7-message-over-8-KiB-in-bytes", noted(message="́" * 4097), 422, "too_long", "data.message"),
    Bad("I8-nul-in-a-message", noted(message="a\0b"), 422, "nul_not_allowed", "data.message"),
    Bad("I8-nul-in-a-name", noted(**{"a\0": 1}), 422, "nul_not_allowed"),
    Bad("I8-nul-in-a-step", {"type": "step.started", "step": "a\0b"}, 422, "nul_not_allowed", "step"),
    Bad("I8-a-raw-nul", b'{"type":"job.started","data":{"x":"\0"}}', 400, "malformed"),
    Bad("I9-lone-surrogate", b'{"type":"job.noted","data":{"level":"info","message":"\\ud800"}}', 400, "not_unicode"),
    Bad("I9-lone-low-surrogate", b'{"type":"job.started","data":{"x":"a\\udc00b"}}', 400, "not_unicode", "data.x"),
    Bad("I9-lone-surrogate-in-a-name", b'{"type":"job.started","data":{"\\ud800":1}}', 400, "not_unicode"),
    Bad("I9-lone-surrogate-in-a-step", b'{"type":"step.started","step":"\\ud800"}', 400, "not_unicode", "step"),
    Bad("I9-surrogate-in-UTF-8", b'{"type":"job.started","data":{"x":"\xed\xa0\x80"}}', 400, "malformed"),
    Bad("I9-invalid-UTF-8", b'{"type":"job.started","data":{"x":"\xff"}}', 400, "malformed"),
    Bad("I9-overlong-UTF-8", b'{"type":"job.started","data":{"x":"\xc0\x80"}}', 400, "malformed"),
    Bad("I9-BOM", b'\xef\xbb\xbf{"type":"job.started"}', 400, "malformed"),
    Bad("I9-UTF-16", '{"type":"job.started"}'.encode("utf-16"), 400, "malformed"),
    *(Bad(f"I10-nesting-{levels}", nested(levels), 422, "too_deep") for levels in (33, 34, 35, 1_000, 100_000)),
    Bad("I10-never-closed", b"[" * 100_000, 422, "too_deep"),
    Bad("I11-duplicate-keys", b'{"type":"job.started","type":"job.completed"}', 400, "duplicate_key"),
    Bad("I11-duplicate-keys-in-data", progressed('1,"percent":99'), 400, "duplicate_key"),
    Bad("I11-duplicate-keys-escaped", progressed('1,"p\\u0065rcent":99'), 400, "duplicate_key"),
    Bad(
        "I11-duplicate-keys-deep-inside",
        b'[{"type":"job.started","data":{"a":[{"b":{"c":1,"d:":":","c":1}}],"x":"\\":\\\\"}}]',
        400,
        "duplicate_key",
    ),
    Bad("I12-1e100000", progressed("1e100000"), 422, "not_finite", "data.percent"),
    Bad("I12-1e100000-where-nothing-reads-it", noted() | {"data": "RAW"}, 422, "not_finite", "data.other"),
    Bad(
        "I13-65-metadata-keys",
        {"type": "job.progressed", "data": {"percent": 1, "metadata": {str(n): n for n in range(65)}}},
        422,
        "too_long",
        "data.metadata",
    ),
    Bad(
        "I13-10000-metadata-keys",
        {"type": "job.progressed", "data": {"percent": 1, "metadata": {str(n): n for n in range(10_000)}}},
        422,
        "too_long",
    ),
    Bad(
        "I13-a-name-of-129-bytes",
        {"type": "job.progressed", "data": {"percent": 1, "metadata": {"k" * 129: 1}}},
        422,
        "too_long",
        "data.metadata",
    ),
    Bad("I13-a-name-of-1-MB", noted(**{"k" * 1_000_000: 1}), 422, "too_long", "data"),
    *(
        Bad(f"I14-job-id-{ascii(job_id)[:24]}", of_job(job_id), 422, "bad_job_id", "events[1].job_id", path=MANY)
        for job_id in BAD_JOB_IDS
    ),
    Bad("I14-job-id-is-a-number", of_job(7), 422, "wrong_type", "events[1].job_id", path=MANY),
    Bad("I14-job-id-is-missing", [{"type": "job.started"}], 422, "required", "events[0].job_id", path=MANY),
    Bad("I14-job-id-of-the-log-itself", of_job("headway.log"), 422, "reserved", "events[1].job_id", path=MANY),
    Bad("I14-job-id-in-the-path", {"type": "job.started"}, 422, "bad_job_id", "job_id", path="/v1/jobs/%2A/events"),
    Bad("I14-final-newline-in-the-path", {"type": "job.started"}, 422, "bad_job_id", path="/v1/jobs/abc%0A/events"),
    Bad("I14-dots-in-the-path", {"type": "job.started"}, 422, "bad_job_id", path="/v1/jobs/%2e%2e/events"),
    Bad("I14-slash-in-the-path", {"type": "job.started"}, 404, "not_found", path="/v1/jobs/a%2Fb/events"),
    Bad("I14-step-with-a-control", {"type": "step.started", "step": "a\x1b[2J"}, 422, "control_not_allowed", "step"),
    Bad("I14-step-with-a-blank-end", {"type": "step.started", "step": "a "}, 422, "blank_at_end", "step"),
    Bad("I14-step-of-201", {"type": "step.started", "step": "é" * 201}, 422, "too_long", "step"),
    *(
        Bad(f"I16-event-id-{text[:12]}", {"type": "job.started", "event_id": text}, 422, "bad_uuid", "event_id")
        for text in (
            "x",
            "",
            "0197-",
            "{01976f3e-0000-7000-8000-000000000001}",
            " 01976f3e-0000-7000-8000-000000000001",
        )
    ),
    Bad("I16-event-id-is-a-number", {"type": "job.started", "event_id": 7}, 422, "wrong_type", "event_id"),
    Bad(
        "I16-event-id-is-nil", {"type": "job.started", "event_id": str(uuid.UUID(int=0))}, 422, "wrong_type", "event_id"
    ),
    Bad("I19-unknown-envelope-field", {"type": "job.started", "percent": 4}, 422, "unknown_field", "percent"),
    Bad("I19-unknown-event-type", {"type": "job.exploded"}, 422, "unknown_type", "type"),
    Bad("I19-event-type-of-the-log", {"type": "log.erased"}, 422, "unknown_type", "type"),
    Bad("I19-version-99", {"type": "job.started", "version": 99}, 422, "unknown_field", "version"),
    Bad("I19-job-id-beside-the-path", {"type": "job.started", "job_id": "build:7"}, 422, "unknown_field", "job_id"),
    Bad("I20-10001-steps", planned([{"step": str(n)} for n in range(10_001)]), 422, "too_long", "data"),
    Bad("I20-weight-0", planned([{"step": "a", "weight": 0}]), 422, "out_of_range", "data.steps[0].weight"),
    Bad("I20-weight-1e308", planned([{"step": "a", "weight": 1e308}]), 422, "out_of_range", "data.steps[0].weight"),
    Bad(
        "I21-cyclic-parents",
        planned([{"step": "a", "parent": "b"}, {"step": "b", "parent": "a"}]),
        422,
        "cycle",
    ),
    Bad(
        "I21-1000-deep-parents",
        planned([{"step": "0"}] + [{"step": str(n), "parent": str(n - 1)} for n in range(1, 1_000)]),
        422,
        "out_of_range",
    ),
    *(
        Bad(f"I22-{text}", {"type": "job.started", "occurred_at": text}, 422, code, "occurred_at")
        for text, code in (
            ("0000-01-01T00:00:00Z", "bad_time"),
            ("10000-01-01T00:00:00Z", "bad_time"),
            ("infinity", "bad_time"),
            ("2026-01-31T12:00:00+99:99", "bad_time"),
            ("2026-02-30T12:00:00Z", "bad_time"),
            ("2026-01-31", "bad_time"),
            ("2026-01-31T12:00:00", "no_zone"),
            ("0001-01-01T00:00:00+23:00", "out_of_range"),
        )
    ),
    Bad("I22-a-number", {"type": "job.started", "occurred_at": 1_700_000_000}, 422, "wrong_type", "occurred_at"),
    *(
        Bad(
            f"I23-{given or 'empty'}",
            {"type": "job.started"},
            415,
            "unsupported_media_type",
            None,
            {"content-type": given},
        )
        for given in (
            "text/plain",
            "",
            "application/x-www-form-urlencoded",
            "application/json; charset=utf-7",
            'application/json;charset="utf-16"',
            "application/jsonp",
            "application/json, text/plain",
        )
    ),
    *(
        Bad(f"A4-{name}", {"type": "job.started", name: value}, 422, "unknown_field", name)
        for name, value in (
            ("tenant", "b"),
            ("log", "b"),
            ("pos", 1),
            ("position", 1),
            ("hash", "00"),
            ("recorded_at", "2026-01-31T12:00:00Z"),
            ("applied", True),
            ("reason", "x"),
            ("percent", 100),
            ("salt", ""),
            ("epoch", 1),
        )
    ),
    Bad("C8-empty-array", [], 422, "out_of_range", "events"),
    Bad("C8-empty-array-of-many", [], 422, "out_of_range", "events", path=MANY),
    Bad("C8-501-events", [{"type": "job.started"}] * 501, 422, "out_of_range", "events"),
    Bad("C8-no-body", b"", 400, "malformed"),
    Bad("C8-half-a-body", b'{"type":"job.sta', 400, "malformed"),
    Bad("C8-two-bodies", b'{"type":"job.started"} {"type":"job.started"}', 400, "malformed"),
    Bad("C8-trailing-comma", b'{"type":"job.started",}', 400, "malformed"),
    *(
        Bad(
            f"precondition-if-match-{given}", {"type": "job.started"}, 400, "malformed", "if-match", {"if-match": given}
        )
        for given in (
            "7",
            'W/"7"',
            '"7", "8"',
            '"x"',
            '"07"',
            '"-1"',
            "*",
            '""',
            '"' + "9" * 17 + '"',
            '"٣"'.encode().decode("latin-1"),
        )
    ),
    *(
        Bad(
            f"precondition-if-none-match-{given}",
            {"type": "job.started"},
            400,
            "malformed",
            "if-none-match",
            {"if-none-match": given},
        )
        for given in ('"7"', "", "**")
    ),
    Bad(
        "precondition-both",
        {"type": "job.started"},
        400,
        "malformed",
        "if-match",
        {"if-match": '"0"', "if-none-match": "*"},
    ),
    Bad("precondition-of-many-jobs", of_job("b"), 400, "malformed", "if-match", {"if-match": '"0"'}, path=MANY),
    Bad(
        "precondition-none-of-many-jobs",
        of_job("b"),
        400,
        "malformed",
        "if-none-match",
        {"if-none-match": "*"},
        path=MANY,
    ),
    *(
        Bad(
            f"idempotency-key-{ascii(given)[:12]}",
            {"type": "job.started"},
            400,
            "malformed",
            "idempotency-key",
            {"idempotency-key": given},
        )
        for given in ("", "a b", "x" * 256, "é")
    ),
]


@pytest.mark.parametrize("bad", ROWS, ids=[row.name for row in ROWS])
def test_bad_input_is_refused_by_a_stable_code_and_nothing_is_written(server, client, bad: Bad):
    before = server.services.store.head()
    body = bad.body if isinstance(bad.body, bytes) else json.dumps(bad.body).encode()
    body = body.replace(b'"data": "RAW"', b'"data": {"level": "info", "message": "x", "other": 1e100000}')
    headers = {name: value.encode("latin-1") for name, value in (bad.headers or {}).items()}
    answer = client.post(bad.path, content=body, headers={"content-type": b"application/json", **headers})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (bad.status, bad.code), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == bad.status
    assert problem["title"]
    assert problem["detail"]
    if bad.field is not None:
        assert problem["field"] == bad.field
    assert server.services.store.head().hash == before.hash


@pytest.mark.parametrize("path", [JOB, MANY])
def test_C7_one_bad_event_of_500_refuses_all_and_is_named_by_its_index(server, client, path):
    before = server.services.store.head()
    events = [{"type": "step.progressed", "step": "a", "data": {"percent": 1}} for _ in range(500)]
    if path == MANY:
        events = [{**event, "job_id": "b"} for event in events]
    events[250]["data"] = {"percent": 101}
    answer = client.post(path, json=events)
    assert (answer.status_code, answer.json()["field"]) == (422, "events[250].data.percent")
    assert server.services.store.head().hash == before.hash


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        (b'{"type":"job.started","data":{"x":NaN}}', 422, "not_finite"),
        (b'{"type":"job.started","x":1}', 422, "unknown_field"),
        (b'{"type":"job.started"', 400, "malformed"),
        (b'{"type":"a","type":"b"}', 400, "duplicate_key"),
        (b'[{"type":"job.started"}]', 422, "wrong_type"),
        (b'{"type":"job.started"},{"type":"job.started"}', 400, "malformed"),
        (b'{"type":"job.started","data":{"x":"\xff"}}', 400, "malformed"),
        (b'\xef\xbb\xbf{"type":"job.started"}', 400, "malformed"),
    ],
)
def test_a_bad_line_refuses_all_lines_and_is_named_by_its_number(server, client, line, status, code):
    before = server.services.store.head()
    body = b'{"type":"job.started"}\n\n  \r\n' + line + b'\n{"type":"job.started"}\n'
    answer = client.post(JOB, content=body, headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["code"], answer.json()["line"]) == (status, code, 4)
    assert server.services.store.head().hash == before.hash


@pytest.mark.parametrize("lines", [0, 501])
def test_no_line_or_501_of_them_are_refused(server, client, lines):
    before = server.services.store.head()
    body = b'{"type":"job.started"}\n' * lines + b"\n\n"
    answer = client.post(JOB, content=body, headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.json()["code"]) == (422, "out_of_range")
    assert server.services.store.head().hash == before.hash


def test_I6_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(server, client):
    before = server.services.store.head()

    def endless() -> Iterator[bytes]:
        for _ in range(160):
            yield b" " * 64 * 1024

    answer = client.post(JOB, content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    assert server.services.store.head().hash == before.hash


def test_I23_a_missing_content_type_is_refused(server, client):
    request = client.build_request("POST", JOB, content=b'{"type":"job.started"}')
    request.headers.pop("content-type", None)
    answer = client.send(request)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "application/x-ndjson" in answer.headers["accept-post"]


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_I23_a_method_override_is_ignored(client, name):
    answer = client.post("/v1/jobs/override/events", json={"type": "job.started"}, headers={name: "DELETE"})
    assert answer.status_code == 201


@pytest.mark.parametrize("name", ["if-match", "if-none-match", "idempotency-key"])
def test_a_condition_that_is_sent_twice_is_refused(server, client, name):
    before = server.services.store.head()
    headers = [(name, "*"), (name, "*")]
    answer = client.post(JOB, json={"type": "job.started"}, headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (400, name)
    assert server.services.store.head().hash == before.hash
