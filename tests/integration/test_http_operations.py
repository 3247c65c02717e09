"""Operations over HTTP: liveness, readiness, metrics, the access log, request ids, CORS."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import readiness
from api.access_log import AccessLog
from tests.support.cluster import Cluster, cluster
from tests.support.http import Server, serving
from tests.support.raw_http import wire
from tests.support.sessions import Doing, holding_log, wait_until

STARTED = {"type": "job.started"}


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as started:
        yield started


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    from eventstore.migrate import migrate

    with cluster() as started:
        migrate(started.url)
        yield started


# -- health ---------------------------------------------------------------------------------------------------------


def test_a_server_that_can_work_says_so_check_by_check(database_url: str, redis_url: str) -> None:
    with serving(database_url, redis_url) as server:
        wait_until(lambda: _led(server), "the relay leads")
        answer = httpx.get(f"{server.url}/readyz")
        assert answer.status_code == 200
        found = answer.json()
        assert found["status"] == "ready"
        assert {name: check["ok"] for name, check in found["checks"].items()} == {
            "database": True, "migrations": True, "relay": True,
        }  # fmt: skip
        assert found["checks"]["relay"]["facts"]["leading"] is True


def _led(server: Server) -> bool:
    background = server.services.background
    return background is not None and any(at.leading for at in background.relays())


def test_without_redis_there_is_no_relay_to_be_ready(server: Server) -> None:
    assert set(httpx.get(f"{server.url}/readyz").json()["checks"]) == {"database", "migrations"}


def test_a_database_of_another_version_is_not_ready(database_url: str) -> None:
    import psycopg

    with serving(database_url) as server:
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute("UPDATE alembic_version SET version_num = '0001'")
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, "it sees the other version")
        found = httpx.get(f"{server.url}/readyz").json()
        assert found["status"] == "not_ready"
        assert found["checks"]["migrations"]["facts"]["found"] == "0001"
        assert "migrate" in found["checks"]["migrations"]["detail"]


@pytest.mark.slow
def test_readiness_follows_a_database_that_stops_and_comes_back(own_cluster: Cluster) -> None:
    with serving(own_cluster.url) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        own_cluster.stop_immediately()
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, "it is not ready")
        answer = httpx.get(f"{server.url}/readyz")
        assert answer.json()["checks"]["database"]["ok"] is False
        assert "retry-after" in answer.headers
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        own_cluster.start()
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, "it is ready again")
        assert httpx.post(f"{server.url}/v1/jobs/after/events", json=STARTED).status_code == 201


@pytest.mark.slow
def test_p4_a_database_that_hangs_leaves_the_process_alive_and_gives_503(own_cluster: Cluster) -> None:
    with serving(own_cluster.url, pool_size=4) as server:
        url = f"{server.url}/v1/jobs/hangs"
        assert httpx.post(f"{url}/events", json=STARTED).status_code == 201
        with own_cluster.frozen():
            reads = [Doing(lambda: httpx.get(url, timeout=60)) for _ in range(6)]
            append = Doing(lambda: httpx.post(f"{url}/events", json=STARTED, timeout=60))
            assert httpx.get(f"{server.url}/healthz", timeout=10).json() == {"status": "ok"}
            ready = httpx.get(f"{server.url}/readyz", timeout=10)
            assert (ready.status_code, ready.json()["checks"]["database"]["ok"]) == (503, False)
            answers = [read.result() for read in reads] + [append.result()]
            assert {answer.status_code for answer in answers} == {503}
            assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, "it is ready again")
        wait_until(lambda: server.services.reads.in_use == 0, "every place is free again")
        assert httpx.get(url).status_code == 200


def test_p16_no_place_for_a_read_is_503_and_the_process_stays_alive(database_url: str) -> None:
    import psycopg

    with serving(database_url, pool_size=3) as server:
        url = f"{server.url}/v1/jobs/busy"
        httpx.post(f"{url}/events", json=STARTED)
        with psycopg.connect(database_url) as holder:
            holder.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            held = Doing(lambda: httpx.get(url, timeout=60))
            wait_until(lambda: server.services.reads.in_use == 1, "a read waits in the only place")
            answer = httpx.get(url, timeout=60)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_busy")
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            holder.rollback()
        assert held.result().status_code == 200
        wait_until(lambda: server.services.reads.in_use == 0, "the place is free again")


def test_a_server_that_stops_is_not_ready(database_url: str) -> None:
    with serving(database_url) as server:
        server.services.stopping.set()
        answer = httpx.get(f"{server.url}/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_many_who_ask_at_once_cost_one_question(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def count(store: Any) -> str:
        nonlocal asked
        asked += 1
        return readiness.SCHEMA_VERSION

    monkeypatch.setattr(readiness, "schema_of", count)
    monkeypatch.setattr(readiness, "FRESH", 1e9)
    asking = [Doing(lambda: httpx.get(f"{server.url}/readyz").status_code) for _ in range(10)]
    assert {one.result() for one in asking} == {200}
    assert asked <= 1


# -- metrics --------------------------------------------------------------------------------------------------------


def samples(server: Server) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_tell_of_appends_rejections_requests_and_the_process(database_url: str, redis_url: str) -> None:
    with serving(database_url, redis_url) as server:
        url = f"{server.url}/v1/jobs/measured"
        httpx.post(f"{url}/events", json=[STARTED, {"type": "job.completed"}, {"type": "job.started"}])
        httpx.get(f"{server.url}/v1/jobs/nothing")
        httpx.get(f"{server.url}/nowhere/at/all")
        background = server.services.background
        assert background is not None
        wait_until(
            lambda: len(list(background.relays())) == 2 and all(at.leading for at in background.relays()), "it leads"
        )
        found = samples(server)

        def value(name: str, **labels: str) -> float:
            return found[name, frozenset(labels.items())]

        assert value("headway_events_appended_total", log="default") == 3
        reasons = {dict(labels)["reason"] for name, labels in found if name == "headway_events_rejected_total"}
        assert len(reasons) == 1
        assert value("headway_append_batch_events_sum") == 3
        route = {"method": "POST", "route": "/v1/jobs/{job}/events", "status": "201"}
        assert value("headway_http_request_seconds_count", **route) == 1
        assert value("headway_http_request_seconds_count", method="GET", route="-", status="404") == 1
        assert value("headway_append_queue_events", log="default") == 0
        assert value("headway_relay_lag_seconds", log="default", publisher="redis-streams") == 0
        assert value("headway_projection_lag_events", log="default", projection="activity") >= 0
        assert value("headway_reads_places") > 0
        assert value("process_resident_memory_bytes") > 0
        assert value("process_open_fds") > 0
        assert value("headway_connections") >= 1


def test_what_is_refused_at_the_edge_is_counted(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wired.answer().status == 414
    assert samples(server)["headway_requests_refused_total", frozenset({("reason", "uri_too_long")})] >= 1


def test_appends_that_wait_are_counted(database_url: str) -> None:
    with serving(database_url) as server:
        url = f"{server.url}/v1/jobs/waits/events"
        assert httpx.post(url, json=STARTED).status_code == 201
        waiting = ("headway_append_queue_events", frozenset({("log", "default")}))
        with holding_log(database_url, "default"):
            appends = [Doing(lambda: httpx.post(url, json=STARTED, timeout=60)) for _ in range(4)]
            wait_until(lambda: samples(server)[waiting] > 0, "events wait")
        assert {append.result().status_code for append in appends} <= {201, 503}
        wait_until(lambda: samples(server)[waiting] == 0, "none waits")


def test_paths_that_nobody_has_make_no_new_label(server: Server) -> None:
    for n in range(5):
        httpx.get(f"{server.url}/v1/jobs/one:{n}")
        httpx.get(f"{server.url}/one/{n}")
    routes = {dict(labels).get("route") for _, labels in samples(server)}
    assert not [route for route in routes if route and "one" in route]


# -- the access log -------------------------------------------------------------------------------------------------

Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(server: Server, monkeypatch: pytest.MonkeyPatch) -> Logged:
    """What the server logs from now on; waits for the lines of all requests that were answered."""
    written: list[str] = []
    log = AccessLog(as_json=True, write=written.append)
    monkeypatch.setattr(server.services, "access_log", log)

    def read() -> list[dict[str, Any]]:
        log.flush()
        lines = "".join(written)
        assert lines.isascii()
        return [json.loads(line) for line in lines.splitlines()]

    return read


def test_a_request_is_one_line_with_what_matters(server: Server, logged: Logged) -> None:
    answer = httpx.post(f"{server.url}/v1/jobs/logged:1/events?x=1", json=STARTED)
    (line,) = wait_until(logged, "the line is there")
    assert (line["method"], line["route"], line["path"]) == (
        "POST", "/v1/jobs/{job}/events", "/v1/jobs/logged:1/events",
    )  # fmt: skip
    assert (line["status"], line["bytes"]) == (201, len(answer.content))
    assert (line["request_id"], line["log"]) == (answer.headers["x-request-id"], "default")
    assert (line["key"], line["client"], line["level"]) == (None, "127.0.0.1", "info")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["time"])
    assert line["ms"] > 0
    assert "events" not in line


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/a%0A%7B%22level%22:%22forged%22%7D",
        "/v1/jobs/a%0d%0aforged",
        "/v1/jobs/%1b%5b2J%1b]0;forged%07",
        "/v1/jobs/%c2%9b2J%e2%80%a8%e2%80%aeforged",
        "/forged%00",
    ],
)
def test_a16_nothing_in_a_path_forges_a_line(server: Server, logged: Logged, path: str) -> None:
    with wire(server.port) as wired:
        wired.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wired.answer()
    (line,) = wait_until(logged, "the line is there")
    assert line["path"] == path
    assert line["level"] == "info"


@pytest.mark.parametrize("given", [b"a\tb", b"a b", b"a" * 65, "ä".encode(), b'a","level":"forged', b"a%0A"])
def test_a16_a_request_id_that_could_do_harm_is_replaced(server: Server, logged: Logged, given: bytes) -> None:
    with wire(server.port) as wired:
        wired.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + given + b"\r\n\r\n")
        ours = wired.answer().headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", ours)
    (line,) = wait_until(logged, "the line is there")
    assert line["request_id"] == ours


def test_a_harmless_request_id_is_kept_everywhere(server: Server, logged: Logged) -> None:
    answer = httpx.get(f"{server.url}/nowhere", headers={"x-request-id": "Trace_1.a-b"})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "Trace_1.a-b"
    (line,) = wait_until(logged, "the line is there")
    assert line["request_id"] == "Trace_1.a-b"


def test_a16_a_request_that_can_not_be_read_leaves_a_line_without_its_words(
    shared_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(AccessLog.__init__, "__kwdefaults__", {"write": written.append})
    with serving(shared_database, log_format="json", access_log=True) as server, wire(server.port) as wired:
        wired.send(b'G\x1b[2J"}\n{"level":"forged"} / HTTP/1.1\r\n\r\n')
        assert wired.answer().status == 400
        wait_until(lambda: written, "the line is there")
    (line,) = [json.loads(line) for line in "".join(written).splitlines()]
    assert (line["status"], line["path"], line["client"]) == (400, "-", "127.0.0.1")


def test_tokens_and_searches_are_never_logged(server: Server, logged: Logged) -> None:
    httpx.get(f"{server.url}/v1/stream?token=s3cret.s3cret.s3cret&to%6ben=s3cret&text=s3cret")
    httpx.get(f"{server.url}/v1/jobs?text=s3cret", headers={"authorization": "Bearer hw_id_s3cret"})
    wait_until(lambda: len(logged()) == 2, "both lines are there")
    assert "s3cret" not in json.dumps(logged())


@pytest.mark.parametrize(("trusted", "told"), [(("127.0.0.1/32",), "203.0.113.7"), ((), "127.0.0.1")])
def test_only_a_trusted_proxy_says_who_the_client_is(
    shared_database: str, monkeypatch: pytest.MonkeyPatch, trusted: tuple[str, ...], told: str
) -> None:
    written: list[str] = []
    with serving(shared_database, trusted_proxies=trusted) as server:
        log = AccessLog(as_json=True, write=written.append)
        monkeypatch.setattr(server.services, "access_log", log)
        httpx.get(f"{server.url}/healthz", headers={"x-forwarded-for": "198.51.100.1, 203.0.113.7"})
        wait_until(lambda: log.flush() or "".join(written), "the line is there")
    assert json.loads("".join(written))["client"] == told


def test_an_stderr_that_nobody_reads_costs_lines_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.access_log.MOST", 2)
    written: list[str] = []
    log = AccessLog(as_json=False, write=written.append)

    class Over:
        scope = {"client": None, "method": "GET", "raw_path": b"/a\x1b"}  # noqa: RUF012
        request_id, route, status, sent, known, events = "r", "-", 200, 3, None, 7

    for _ in range(5):
        log.add(Over(), 0.001)  # type: ignore[arg-type]
    log.flush()
    lines = "".join(written).splitlines()
    assert len(lines) == 3
    assert lines[0].endswith(r"GET /a\x1b 200 1.0ms 3B id=r events=7")
    assert "3 lines left out" in lines[2]


# -- other origins --------------------------------------------------------------------------------------------------

PAGE = "https://app.example"


def preflight(server: Server, path: str, origin: str = PAGE) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    return httpx.options(server.url + path, headers=headers)


def test_no_page_of_another_origin_may_call_unless_it_is_listed(server: Server) -> None:
    assert preflight(server, "/v1/events").status_code == 405
    answer = httpx.get(f"{server.url}/healthz", headers={"origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_listed_origin_may_call_and_others_may_not(shared_database: str) -> None:
    with serving(shared_database, cors_origins=(PAGE,)) as server:
        allowed = preflight(server, "/v1/jobs/a/events")
        assert (allowed.status_code, allowed.content) == (204, b"")
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert allowed.headers["access-control-allow-methods"] == "GET, POST"
        wanted = {"authorization", "last-event-id", "idempotency-key", "content-type", "if-match"}
        assert wanted <= set(allowed.headers["access-control-allow-headers"].split(", "))
        assert "origin" in allowed.headers["vary"]
        refused = preflight(server, "/v1/jobs/a/events", "https://evil.example")
        assert refused.status_code == 204
        assert "access-control-allow-origin" not in refused.headers
        for path, status in (("/healthz", 200), ("/nowhere", 404), ("/v1/jobs/none", 404)):
            answer = httpx.get(server.url + path, headers={"origin": PAGE})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
            assert "retry-after" in answer.headers["access-control-expose-headers"]
            other = httpx.get(server.url + path, headers={"origin": PAGE + ".evil"})
            assert "access-control-allow-origin" not in other.headers
            assert "origin" in other.headers["vary"]


def test_every_origin_can_be_let_in(shared_database: str) -> None:
    with serving(shared_database, cors_origins=("*",)) as server:
        assert (
            httpx.get(f"{server.url}/healthz", headers={"origin": PAGE}).headers["access-control-allow-origin"] == "*"
        )
