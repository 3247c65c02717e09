"""Appends over HTTP that wait or are one of many: held logs, deadlines, clients that go away, keys."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.routes import ingest
from tests.support.http import Server, serving
from tests.support.keys import bearer, id_of, make_key, make_logs
from tests.support.sessions import Doing, Watcher, holding_log, wait_until


@pytest.fixture
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database, log=f"log-{uuid.uuid4().hex[:12]}") as server:
        yield server


@pytest.fixture
def watcher(shared_database: str) -> Iterator[Watcher]:
    watcher = Watcher(shared_database)
    yield watcher
    watcher.close()


def noted(message: str = "x", **fields: Any) -> dict[str, Any]:
    return {"type": "job.noted", "data": {"level": "info", "message": message}, **fields}


def post(server: Server, event: Any, job: str = "a", **options: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/jobs/{job}/events", json=event, timeout=30, **options)


def messages(server: Server, job: str = "a") -> list[str]:
    return [event.data["message"] for event in server.services.store.read_job(job)]


def test_C4_fifty_sends_of_one_event_at_once_are_one_event(server):
    event = noted(event_id=str(uuid.uuid4()))
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(server, event), range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert len({answer.json()["events"][0]["position"] for answer in answers}) == 1
    assert messages(server) == ["x"]


def test_P13_a_log_that_another_session_holds_is_503_with_a_time_to_come_back(server, shared_database):
    post(server, noted("0"))
    with holding_log(shared_database, server.services.store.log):
        answer = post(server, noted("refused"))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert messages(server) == ["0"]


def test_an_append_that_gets_no_answer_in_time_is_503_with_its_ids_and_a_retry_decides(
    server, shared_database, watcher, monkeypatch
):
    monkeypatch.setattr(ingest, "DEADLINE", 0.5)
    post(server, noted("0"))
    with holding_log(shared_database, server.services.store.log) as holder:
        sent = Doing(lambda: post(server, noted("taken"), headers={"Idempotency-Key": "k"}))
        watcher.until_waiting()
        answer = sent.result()
        holder.rollback()
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert "retry-after" in answer.headers
    monkeypatch.setattr(ingest, "DEADLINE", 10.0)
    again = post(server, noted("taken"), headers={"Idempotency-Key": "k"})
    assert again.status_code in (200, 201)
    assert answer.json()["event_ids"] == [again.json()["events"][0]["event_id"]]
    assert messages(server) == ["0", "taken"]


def test_who_goes_away_before_the_append_is_taken_withdraws_it(server, shared_database, watcher):
    committer = server.services.store.committer()
    post(server, noted("0"))
    body = b'{"type":"job.noted","data":{"level":"info","message":"withdrawn"}}'
    with holding_log(shared_database, server.services.store.log) as holder:
        first = Doing(lambda: post(server, noted("in flight")))
        watcher.until_waiting()
        with socket.create_connection(("127.0.0.1", server.port)) as impatient:
            head = b"POST /v1/jobs/a/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            impatient.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            wait_until(lambda: committer.queued == 1, "it is queued")
        last = Doing(lambda: post(server, noted("after")))
        wait_until(lambda: committer.queued == 2, "the next one is queued")
        holder.rollback()
        assert [first.result().status_code, last.result().status_code] == [201, 201]
    assert messages(server) == ["0", "in flight", "after"]


def test_a_store_that_has_too_much_queued_is_503(server, shared_database, watcher):
    post(server, noted("0"))
    url = f"{server.url}/v1/jobs/a/events"
    full = [noted() for _ in range(500)]
    with ThreadPoolExecutor(30) as pool, holding_log(shared_database, server.services.store.log) as holder:
        sent = [pool.submit(httpx.post, url, json=full, timeout=30)]
        watcher.until_waiting()
        sent += [pool.submit(httpx.post, url, json=full, timeout=30) for _ in range(25)]
        refused = wait_until(lambda: [f.result() for f in sent if f.done() and f.result().status_code == 503], "one is")
        holder.rollback()
        answers = [future.result() for future in sent]
    assert {answer.json()["code"] for answer in refused} == {"store_busy"}
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    accepted = sum(answer.status_code == 201 for answer in answers)
    assert server.services.store.head().position == 1 + 500 * accepted


# -- keys -------------------------------------------------------------------------------------------------------------


@contextmanager
def with_keys(url: str, *keys: dict[str, Any], **settings: Any) -> Iterator[tuple[Any, ...]]:
    """A server that needs keys, and these keys."""
    log = f"log-{uuid.uuid4().hex[:12]}"
    make_logs(url, log)
    made = [make_key(url, log, **{"scopes": ["append"], **options}) for options in keys]
    with serving(url, log=log, keyless=False, **settings) as server:
        yield server, *made


def test_the_actor_of_an_event_is_the_key_that_sent_it(shared_database):
    with with_keys(shared_database, {}) as (server, key):
        assert post(server, noted(), headers=bearer(key)).status_code == 201
        assert server.services.store.read_job("a")[0].actor == id_of(key)


def test_A4_an_actor_in_the_body_needs_the_scope_act_as(shared_database):
    with with_keys(shared_database, {}, {"scopes": ["append", "act-as"]}) as (server, plain, trusted):
        refused = post(server, [noted(), noted(actor="alice")], headers=bearer(plain))
        assert (refused.status_code, refused.json()["field"]) == (422, "events[1].actor")
        assert refused.json()["code"] == "not_allowed"
        assert post(server, [noted(actor="alice"), noted()], headers=bearer(trusted)).status_code == 201
        assert [event.actor for event in server.services.store.read_job("a")] == ["alice", id_of(trusted)]


def test_a_job_outside_the_keys_prefix_does_not_exist_for_it(shared_database):
    with with_keys(shared_database, {"prefix": "ci:"}) as (server, key):
        before = server.services.store.head().position
        assert post(server, noted(), "deploy:1", headers=bearer(key)).status_code == 404
        events = [noted(job_id="ci:1"), noted(job_id="deploy:1")]
        answer = httpx.post(f"{server.url}/v1/events", json=events, headers=bearer(key))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert server.services.store.head().position == before
        assert httpx.post(f"{server.url}/v1/events", json=events[:1], headers=bearer(key)).status_code == 201


def test_an_idempotency_key_is_the_senders_own(shared_database):
    with with_keys(shared_database, {}, {}) as (server, *keys):
        one, other = ({**bearer(key), "Idempotency-Key": "k"} for key in keys)
        assert [post(server, noted(), headers=headers).status_code for headers in (one, other, one)] == [201, 201, 200]


def test_A5_a_key_that_appends_too_often_is_429_with_a_time_to_come_back(shared_database):
    with with_keys(shared_database, {}, {}, append_rate=1, append_burst=2) as (server, key, other):
        answers = [post(server, noted(), headers=bearer(key)) for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refused[0].json()["code"] == "too_many_requests"
        assert int(refused[0].headers["retry-after"]) >= 1
        assert post(server, noted(), headers=bearer(other)).status_code == 201
        assert len(messages(server)) == len(answers) - len(refused) + 1
