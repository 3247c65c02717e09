"""Appending over HTTP: what is answered, retries, expectations, lines, traces, and that what goes in comes out."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.redact import redact_data
from tests.support.http import Server, serving

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-00"


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database, log=f"log-{uuid.uuid4().hex[:12]}") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def job() -> str:
    return f"build:{uuid.uuid4().hex[:12]}"


def route(job: str) -> str:
    return f"/v1/jobs/{job}/events"


def noted(message: str = "x", **data: Any) -> dict[str, Any]:
    return {"type": "job.noted", "data": {"level": "info", "message": message, **data}}


def progressed(percent: float, step: str = "push") -> dict[str, Any]:
    return {"type": "step.progressed", "step": step, "data": {"percent": percent}}


def stored(server: Server, job: str) -> list[Any]:
    return server.services.store.read_job(job)


# -- what is answered -------------------------------------------------------------------------------------------------


def test_an_append_is_answered_with_its_place_and_where_the_job_stands(server, client, job):
    plan = {"type": "job.planned", "data": {"title": "Release", "steps": [{"step": "push"}, {"step": "test"}]}}
    first = client.post(route(job), json=plan)
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    answer = client.post(route(job), json=[progressed(50), progressed(40)])
    assert (answer.status_code, answer.headers["etag"]) == (201, '"3"')
    recorded = stored(server, job)[1:]
    assert answer.json()["events"] == [
        {
            "event_id": str(event.event_id),
            "position": event.position,
            "version": event.version,
            "applied": event.applied,
            "reason": event.reason,
            "percent": 25.0,
            "duplicate": False,
            "cursor": f"0001_{event.position:016d}_{event.hash[:4].hex()}",
        }
        for event in recorded
    ]
    assert [(event.applied, event.reason) for event in recorded] == [(True, None), (False, "regression")]
    assert answer.json()["job"] == {
        "job_id": job, "title": "Release", "kind": None, "status": "running", "percent": 25.0, "message": None,
        "reason": None, "current_step": "push", "steps_total": 2, "steps_open": 2, "steps_done": 0, "steps_failed": 0,
        "rejected": 1, "version": 3, "position": recorded[-1].position,
    }  # fmt: skip


def test_the_job_in_the_answer_is_the_one_that_a_reader_gets(client, job):
    told = client.post(route(job), json=[progressed(50), {"type": "job.failed", "data": {"error": {"message": "no"}}}])
    read = client.get(f"/v1/jobs/{job}").json()
    assert told.json()["job"].items() <= read.items()


def test_an_answer_over_many_jobs_names_each_job_once(client, job):
    events = [{"job_id": f"{job}:{name}", **noted()} for name in ("b", "a", "b")]
    answer = client.post("/v1/events", json=events)
    assert answer.status_code == 201
    assert [event["version"] for event in answer.json()["events"]] == [1, 1, 2]
    assert [(job["job_id"], job["version"]) for job in answer.json()["jobs"]] == [(f"{job}:b", 2), (f"{job}:a", 1)]
    assert "etag" not in answer.headers


def test_one_event_of_a_named_job_needs_no_array(client, job):
    assert client.post("/v1/events", json={"job_id": job, **noted()}).status_code == 201


def test_500_events_are_one_append(server, client, job):
    answer = client.post(route(job), json=[noted(str(n)) for n in range(500)])
    assert answer.status_code == 201
    positions = [event["position"] for event in answer.json()["events"]]
    assert positions == list(range(positions[0], positions[0] + 500))
    assert [event.data["message"] for event in stored(server, job)] == [str(n) for n in range(500)]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\"",
                                  "application/vnd.headway+json", "application/json; profile=x"])  # fmt: skip
def test_json_by_its_other_names_is_read(client, job, kind):
    answer = client.post(route(job), content=b'{"type":"job.started"}', headers={"content-type": kind})
    assert answer.status_code == 201


def test_a_null_field_of_the_envelope_is_one_that_was_not_given(server, client, job):
    fields = dict.fromkeys(("step", "attempt", "seq", "occurred_at", "event_id", "actor"))
    assert client.post(route(job), json={"type": "job.started", **fields}).status_code == 201
    assert stored(server, job)[0].occurred_at is None


def test_a_body_in_pieces_is_one_body(server, client, job):
    whole = json.dumps(noted("in pieces")).encode()
    pieces = (whole[start : start + 5] for start in range(0, len(whole), 5))
    assert client.post(route(job), content=pieces, headers={"content-type": "application/json"}).status_code == 201
    assert stored(server, job)[0].data["message"] == "in pieces"


def test_a_body_of_exactly_one_MiB_is_read(client, job):
    body = json.dumps(noted()).encode().ljust(1024 * 1024)
    assert client.post(route(job), content=body, headers={"content-type": "application/json"}).status_code == 201


# -- retries ----------------------------------------------------------------------------------------------------------


def test_a_retry_with_the_same_event_id_is_answered_200_with_the_first_place(server, client, job):
    event = {"event_id": str(uuid.uuid4()), **noted()}
    first = client.post(route(job), json=event)
    again = client.post(route(job), json=event)
    assert (first.status_code, again.status_code, again.headers["etag"]) == (201, 200, '"1"')
    assert again.json()["events"][0] == first.json()["events"][0] | {"duplicate": True}
    assert again.json()["job"] == first.json()["job"]
    assert len(stored(server, job)) == 1


def test_I16_an_event_id_in_upper_case_is_the_same_id(client, job):
    ident = uuid.uuid4()
    assert client.post(route(job), json={"event_id": str(ident).upper(), **noted()}).status_code == 201
    again = client.post(route(job), json={"event_id": str(ident), **noted()})
    assert (again.status_code, again.json()["events"][0]["event_id"]) == (200, str(ident))


def test_a_request_that_brings_one_new_event_among_known_ones_is_answered_201(client, job):
    known = {"event_id": str(uuid.uuid4()), **noted("known")}
    client.post(route(job), json=known)
    answer = client.post(route(job), json=[known, noted("new")])
    assert (answer.status_code, [e["duplicate"] for e in answer.json()["events"]]) == (201, [True, False])


def test_C2_another_body_under_a_taken_id_is_a_conflict(server, client, job):
    ident = str(uuid.uuid4())
    client.post(route(job), json={"event_id": ident, **noted("one")})
    head = server.services.store.head()
    answer = client.post(route(job), json=[noted("new"), {"event_id": ident, **noted("two")}])
    assert (answer.status_code, answer.json()["code"], answer.json()["event_id"]) == (409, "event_id_conflict", ident)
    assert server.services.store.head().hash == head.hash


def test_an_idempotency_key_makes_a_retry_of_events_without_ids(server, client, job):
    events, key = [noted("a"), noted("b")], {"Idempotency-Key": "deploy-17"}
    first = client.post(route(job), json=events, headers=key)
    again = client.post(route(job), json=events, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert [e["position"] for e in again.json()["events"]] == [e["position"] for e in first.json()["events"]]
    assert len(stored(server, job)) == 2


def test_an_idempotency_key_means_something_else_on_another_path(client, job):
    key = {"Idempotency-Key": "deploy-17"}
    assert client.post(route(job), json=noted(), headers=key).status_code == 201
    assert client.post(route(f"{job}-2"), json=noted(), headers=key).status_code == 201
    assert client.post("/v1/events", json={"job_id": job, **noted()}, headers=key).status_code == 201


def test_the_same_idempotency_key_with_other_content_is_a_conflict(client, job):
    key = {"Idempotency-Key": "x" * 255}
    client.post(route(job), json=noted("one"), headers=key)
    answer = client.post(route(job), json=noted("two"), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (409, "event_id_conflict")


def test_an_event_id_wins_over_the_idempotency_key(client, job):
    ident = str(uuid.uuid4())
    answer = client.post(route(job), json={"event_id": ident, **noted()}, headers={"Idempotency-Key": "k"})
    assert answer.json()["events"][0]["event_id"] == ident


def test_I16_an_id_of_another_log_is_no_conflict(shared_database, server, client, job):
    """Nobody can claim ids of another tenant in advance, nor find out which it has."""
    event = {"event_id": str(uuid.uuid4()), **noted("mine")}
    assert client.post(route(job), json=event).status_code == 201
    with serving(shared_database, log=f"log-{uuid.uuid4().hex[:12]}") as other:
        answer = httpx.post(other.url + route(job), json={**event, **noted("theirs")})
    assert (answer.status_code, answer.json()["events"][0]["version"]) == (201, 1)


# -- expectations -----------------------------------------------------------------------------------------------------


def test_if_match_appends_only_at_that_version(server, client, job):
    etag = client.post(route(job), json=noted()).headers["etag"]
    assert client.post(route(job), json=noted(), headers={"If-Match": etag}).headers["etag"] == '"2"'
    refused = client.post(route(job), json=noted(), headers={"If-Match": etag})
    assert refused.status_code == 409
    problem = refused.json()
    assert (problem["code"], problem["job_id"], problem["actual"]) == ("wrong_expected_version", job, 2)
    assert len(stored(server, job)) == 2


def test_if_none_match_appends_only_to_a_new_job(client, job):
    new = {"If-None-Match": "*"}
    assert client.post(route(job), json=noted(), headers=new).status_code == 201
    refused = client.post(route(job), json=noted(), headers=new)
    assert (refused.status_code, refused.json()["actual"]) == (409, 1)


def test_a_retry_is_a_retry_even_if_the_expected_version_has_passed(client, job):
    headers = {"If-None-Match": "*", "Idempotency-Key": "create"}
    assert client.post(route(job), json=noted(), headers=headers).status_code == 201
    assert client.post(route(job), json=noted(), headers=headers).status_code == 200


# -- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_are_appended_in_order_and_blank_ones_skipped(server, client, job, end):
    lines = [json.dumps(noted(str(n))).encode() for n in range(3)]
    body = end.join([b"", lines[0], b"   ", lines[1], lines[2]])
    answer = client.post(route(job), content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 201
    assert [event.data["message"] for event in stored(server, job)] == ["0", "1", "2"]


def test_lines_over_many_jobs_are_all_or_none(server, client, job):
    lines = [json.dumps({"job_id": f"{job}:{n % 2}", **noted(str(n))}).encode() for n in range(500)]
    kind = {"content-type": "application/x-ndjson"}
    bad = client.post("/v1/events", content=b"\n".join([*lines[:-1], b'{"job_id":"a","type":"x"}']), headers=kind)
    assert (bad.status_code, bad.json()["field"], bad.json()["line"]) == (422, "events[499].type", 500)
    assert not stored(server, f"{job}:0")
    assert client.post("/v1/events", content=b"\n".join(lines), headers=kind).status_code == 201
    assert len(stored(server, f"{job}:0")) == len(stored(server, f"{job}:1")) == 250


# -- the trace --------------------------------------------------------------------------------------------------------


def test_the_traceparent_of_a_request_is_kept_in_its_events(server, client, job):
    own = noted(traceparent="mine")
    client.post(route(job), json=[noted(), own, {"type": "job.started"}], headers={"traceparent": TRACE})
    assert [event.data["traceparent"] for event in stored(server, job)] == [TRACE, "mine", TRACE]


@pytest.mark.parametrize("bad", ["", "x", TRACE.upper(), TRACE + "0", TRACE[:-1]])
def test_a_traceparent_that_is_none_is_ignored(server, client, job, bad):
    assert client.post(route(job), json=noted(), headers={"traceparent": bad}).status_code == 201
    assert "traceparent" not in stored(server, job)[0].data


def test_a_retry_in_another_trace_is_still_a_retry(server, client, job):
    event = {"event_id": str(uuid.uuid4()), **noted()}
    first = client.post(route(job), json=event, headers={"traceparent": TRACE})
    for headers in ({"traceparent": OTHER_TRACE}, {}):
        again = client.post(route(job), json=event, headers=headers)
        assert again.status_code == 200
        assert again.json()["events"][0]["position"] == first.json()["events"][0]["position"]
    assert stored(server, job)[0].data["traceparent"] == TRACE


def test_data_at_its_limit_is_kept_without_the_trace(server, client, job):
    filler = noted("x")
    filler["data"]["filler"] = "y" * (
        64 * 1024 - len(json.dumps(filler["data"] | {"filler": ""}, separators=(",", ":")))
    )
    assert client.post(route(job), json=filler, headers={"traceparent": TRACE}).status_code == 201
    assert "traceparent" not in stored(server, job)[0].data


def test_traces_are_not_kept_when_the_setting_says_so(shared_database, job):
    with serving(shared_database, log=f"log-{uuid.uuid4().hex[:12]}", keep_traceparent=False) as server:
        httpx.post(server.url + route(job), json=noted(), headers={"traceparent": TRACE})
        assert "traceparent" not in stored(server, job)[0].data


# -- at the limits, and round trips -----------------------------------------------------------------------------------


def test_I2_minus_zero_is_zero_and_a_denormal_is_a_number(server, client, job):
    body = b'[{"type":"step.progressed","step":"a","data":{"percent":-0.0}},'
    body += b'{"type":"step.progressed","step":"b","data":{"percent":1e-320}}]'
    answer = client.post(route(job), content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 201
    assert [event.data_json for event in stored(server, job)] == [b'{"percent":0}', b'{"percent":1e-320}']


def test_I7_a_message_of_8_KiB_is_kept(server, client, job):
    message = "x" * 4096 + "é" * 2048
    assert client.post(route(job), json=noted(message)).status_code == 201
    assert stored(server, job)[0].data["message"] == message


def test_I10_32_levels_are_kept(server, client, job):
    deep: Any = []
    for _ in range(30):
        deep = [deep]
    assert client.post(route(job), json=[noted(deep=deep)]).status_code == 201
    assert stored(server, job)[0].data["deep"] == deep


def test_I13_64_metadata_names_and_a_name_of_128_bytes_are_kept(server, client, job):
    metadata = {str(n): n for n in range(63)} | {"é" * 64: True}
    event = {"type": "job.progressed", "data": {"percent": 1, "metadata": metadata}}
    assert client.post(route(job), json=event).status_code == 201
    assert stored(server, job)[0].data["metadata"] == metadata


def test_a_stack_of_40_KiB_is_cut_in_the_middle_and_marked(server, client, job):
    stack = "".join(f"  line {n}\n" for n in range(4_000))
    event = {"type": "job.failed", "data": {"error": {"message": "boom", "stack": stack}}}
    assert client.post(route(job), json=event).status_code == 201
    kept = stored(server, job)[0].data["error"]["stack"]
    assert len(kept.encode()) <= 32 * 1024
    assert "bytes left out" in kept
    assert kept.startswith("  line 0\n")
    assert kept.endswith("  line 3999\n")


@pytest.mark.parametrize("text", ["../..", "a/b", "%2e%2e", "*", "{x}", "'; drop table", "🚀", "-v", "<img onerror=x>",
                                  "\u202egnp.exe", "٣", "data: x", '"\\', "=cmd|x"])  # fmt: skip
def test_I14_names_and_messages_are_free_text(server, client, job, text):
    event = {"type": "step.noted", "step": text, "data": {"level": "info", "message": text + "\n\t\r\x1b[2J"}}
    assert client.post(route(job), json=event).status_code == 201
    recorded = stored(server, job)[0]
    assert (recorded.step, recorded.data["message"]) == (text, text + "\n\t\r\x1b[2J")
    assert client.get(f"/v1/jobs/{job}").json()["steps"][0]["step"] == text


def test_I15_names_that_only_look_alike_are_different_steps(client, job):
    names = ["caf\u00e9", "cafe\u0301", "a", "\u0430", "\uff41", "A"]
    client.post(route(job), json=[{"type": "step.started", "step": name} for name in names])
    assert [step["step"] for step in client.get(f"/v1/jobs/{job}").json()["steps"]] == names


def test_I19_unknown_members_of_data_are_kept(server, client, job):
    data = {"percent": 1, "colour": {"r": [1, None, True, "x"]}, "percent2": 1.5}
    assert client.post(route(job), json={"type": "job.progressed", "data": data}).status_code == 201
    assert stored(server, job)[0].data == data


_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(data=st.dictionaries(_TEXT, _JSON, max_size=5), message=_TEXT, indent=st.sampled_from([None, 1]),
       plain=st.booleans())  # fmt: skip
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_accepted_is_read_back_equal(client, data, message, indent, plain):
    """Secrets are taken out before an event is stored; everything else comes back as it went in."""
    job = f"round:{uuid.uuid4().hex}"
    whole = {**data, "level": "info", "message": message}
    event = {"type": "job.noted", "data": whole}
    body = json.dumps(event, indent=indent, ensure_ascii=plain).encode()
    answer = client.post(route(job), content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 201, answer.text
    (read,) = _numbers(client.get(route(job)).content)["events"]
    assert read["data"] == _numbers(json.dumps(redact_data(whole)))
    told = _numbers(answer.content)["events"][0]
    assert told.pop("duplicate") is False
    assert told.items() <= read.items()


def _numbers(text: str | bytes) -> Any:
    """JSON as JavaScript reads it: every number is a double."""
    return json.loads(text, parse_int=float)


def test_large_bodies_follow_each_other_on_one_connection(client, job):
    for size in (60, 70, 200, 900):
        body = json.dumps(noted()).encode().ljust(size * 1024)
        assert client.post(route(job), content=body, headers={"content-type": "application/json"}).status_code == 201


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a_body_so_large_that_a_thread_reads_it_is_judged_as_any_other(server, client, job, kind):
    events = [noted(f"{n} " + "x" * 1_000) for n in range(400)]

    def send() -> httpx.Response:
        lines = kind.endswith("ndjson")
        body = "\n".join(map(json.dumps, events)) if lines else json.dumps(events)
        return client.post(route(job), content=body.encode(), headers={"content-type": kind})

    events[250]["data"]["level"] = "loud"
    refused = send()
    assert (refused.status_code, refused.json()["field"]) == (422, "events[250].data.level")
    assert not stored(server, job)
    events[250]["data"]["level"] = "info"
    assert send().status_code == 201
    assert [event.data for event in stored(server, job)] == [event["data"] for event in events]
