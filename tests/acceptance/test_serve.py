"""`headway serve` as an operator runs it: start, signals, several processes, TLS, servers that hang or die."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import trustme

from api.embedded.folder import prepare
from api.embedded.servers import down, wait_stopped
from eventstore.migrate import migrate
from eventstore.store import EventStore
from eventstore.wire import stream_key
from projections.progress import Progress
from tests.support.cluster import cluster
from tests.support.keys import bearer, make_key
from tests.support.raw_http import wire
from tests.support.serve_process import HEADWAY, ServeProcess, serve_processes
from tests.support.sessions import Doing, holding_log, wait_until

Start = Callable[..., ServeProcess]


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def key(store: EventStore) -> str:
    return make_key(store.database.url)


@pytest.fixture
def start(database_url: str, key: str) -> Iterator[Start]:
    """Start `headway serve` on the test's database, without Redis unless one is named; listening when it is given."""
    with serve_processes() as started:

        def begin(*arguments: str, **environ: str) -> ServeProcess:
            process = ServeProcess(*arguments, **{"DATABASE_URL": database_url, **environ})
            started.append(process)
            process.wait_for_start()
            return process

        yield begin


def client(server: ServeProcess, key: str, **more: Any) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=bearer(key), timeout=60, **more)


class Appending:
    """Clients that append without a pause until the server takes no more; what was acknowledged, and what broke."""

    def __init__(self, server: ServeProcess, key: str, number: int) -> None:
        self._server, self._key = server, key
        self.acknowledged: list[tuple[str, int]] = []
        self.unanswered: list[Exception] = []
        self.refused: list[int] = []
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(number)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        with client(self._server, self._key) as http:
            for _ in range(40_000):
                try:
                    answer = http.post(f"/v1/jobs/client:{number}/events", json={"type": "job.started"})
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    self.unanswered.append(error)
                    return
                if answer.status_code != 201:
                    self.refused.append(answer.status_code)
                    return
                event_answer = answer.json()["events"][0]
                self.acknowledged.append((event_answer["event_id"], event_answer["position"]))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def test_a_stop_under_appends_loses_nothing_that_was_acknowledged_and_answers_what_runs(
    start: Start, store: EventStore, key: str
) -> None:
    server = start(HEADWAY_APPEND_RATE="1000000")
    appending = Appending(server, key, 8)
    wait_until(lambda: len(appending.acknowledged) > 300, "appends run")
    assert server.stop() == 0
    appending.join()
    stored = {(str(event.event_id), event.position) for page in store.replay() for event in page}
    assert set(appending.acknowledged) <= stored
    assert appending.refused in ([], [503] * len(appending.refused))
    # A request that was sent at the moment at which an idle connection is closed may get no answer; none is half done.
    assert len(stored) - len(appending.acknowledged) <= len(appending.unanswered)


def test_a_request_that_runs_is_answered_before_the_end_and_nobody_new_is_let_in(
    start: Start, store: EventStore, key: str
) -> None:
    server = start()
    head = f"POST /v1/jobs/held/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
    body = b'{"type":"job.started"}'
    with wire(server.port) as open_request, wire(server.port) as idle:
        idle.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.answer().status == 200
        with holding_log(store.database.url, store.log):
            open_request.send(head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: _is_waiting(store), "the append waits for the log")
            server.send(signal.SIGTERM)
            wait_until(server.refuses, "nobody new is let in")
            assert idle.rest() == b""
        answer = open_request.answer()
        assert (answer.status, answer.headers["connection"]) == (201, "close")
    assert server.ended() == 0
    assert [event.event_id.hex for event in store.read_log()] == [answer.json["events"][0]["event_id"].replace("-", "")]


def _is_waiting(store: EventStore) -> bool:
    with store.database.session() as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return bool(row and row[0])


def test_streams_are_told_to_come_back_and_end(start: Start, key: str) -> None:
    server = start()
    with client(server, key) as http:
        http.post("/v1/jobs/followed/events", json={"type": "job.started"})
        with http.stream("GET", "/v1/jobs/followed/stream") as stream:
            lines = stream.iter_lines()
            assert any(line.startswith("event: snapshot") for line in lines)
            server.send(signal.SIGTERM)
            rest = list(lines)
    assert server.ended() == 0
    assert any(line.startswith("retry: ") for line in rest)


def test_a_second_interrupt_ends_at_once(start: Start, store: EventStore, key: str) -> None:
    server = start()
    with holding_log(store.database.url, store.log), client(server, key) as http:
        held = Doing(lambda: http.post("/v1/jobs/held/events", json={"type": "job.started"}))
        wait_until(lambda: _is_waiting(store), "the append waits for the log")
        server.send(signal.SIGINT)
        server.until("SIGINT: stops")
        server.send(signal.SIGINT)
        assert server.ended() == 130
        with pytest.raises(httpx.HTTPError):
            held.result()


def test_a_port_that_is_taken_is_told_with_what_to_do(start: Start, database_url: str) -> None:
    server = start()
    second = subprocess.run(
        [HEADWAY, "serve", "--port", str(server.port)],
        env=os.environ | {"DATABASE_URL": database_url}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        f"headway: 127.0.0.1:{server.port} is in use by another program: stop it, or choose another --port"
        " (0 takes a free one)"
    )


def test_what_is_logged_without_a_terminal_is_json_line_by_line(start: Start, key: str) -> None:
    server = start()
    with client(server, key) as http:
        http.get("/v1/jobs/a%0Ab")
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.err.splitlines()]
    assert {line["logger"] for line in lines} >= {"headway.serve", "headway.access"}
    (access,) = [line for line in lines if line["logger"] == "headway.access"]
    assert (access["path"], access["key"]) == ("/v1/jobs/a%0Ab", key.split("_")[1])
    assert key not in server.err


def test_on_a_terminal_people_read_the_address_and_what_to_try(database_url: str, key: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [HEADWAY, "serve", "--port", "0"], env=os.environ | {"DATABASE_URL": database_url},
        stdout=theirs, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        os.close(theirs)
        said = b""
        while b"stop: Ctrl-C" not in said:
            said += os.read(ours, 4096)
        text = said.decode()
        assert "Headway listens on http://127.0.0.1:" in text
        assert "curl http://127.0.0.1:" in text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


# -- several logs, several processes --------------------------------------------------------------------------------


def entries(url: str, log: str) -> int:
    with redis.from_url(url) as conn:
        return int(conn.xlen(stream_key(log, 1)))


def test_a_log_that_is_made_while_it_runs_is_published_too(start: Start, store: EventStore, redis_url: str) -> None:
    server = start(REDIS_URL=redis_url)
    other = store.for_log("new-tenant")
    other.create_log()
    key = make_key(store.database.url, "new-tenant")
    with client(server, key) as http:
        wait_until(
            lambda: http.post("/v1/jobs/first/events", json={"type": "job.started"}).status_code == 201,
            "the key is known",
        )
    wait_until(lambda: entries(redis_url, "new-tenant") >= 1, "the relay of the new log publishes")


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_takes_over_when_the_other_is_killed(
    start: Start, store: EventStore, key: str, redis_url: str
) -> None:
    servers = [start(REDIS_URL=redis_url), start(REDIS_URL=redis_url)]
    for n, server in enumerate(servers * 3):
        with client(server, key) as http:
            assert http.post(f"/v1/jobs/shared:{n}/events", json={"type": "job.started"}).status_code == 201
    wait_until(lambda: entries(redis_url, "default") == 6, "each event is published once")
    leads = wait_until(lambda: [s for s in servers if _leads(s, key)], "one publishes")
    assert len(leads) == 1
    leads[0].send(signal.SIGKILL)
    leads[0].ended()
    (left,) = [server for server in servers if server not in leads]
    with client(left, key) as http:
        assert http.post("/v1/jobs/after/events", json={"type": "job.started"}).status_code == 201
    wait_until(lambda: entries(redis_url, "default") == 7, "the other one publishes")
    assert left.stop() == 0


def _leads(server: ServeProcess, key: str) -> bool:
    with client(server, key) as http:
        wanted = 'headway_relay_leading{log="default",publisher="redis-streams"} 1.0'
        return wanted in http.get("/metrics").text


def test_a_stop_gives_the_leases_back(start: Start, store: EventStore, redis_url: str) -> None:
    server = start(REDIS_URL=redis_url)
    wait_until(lambda: _owners(store) >= 5, "two publishers and three projections work")
    assert server.stop() == 0
    assert _owners(store) == 0


def _owners(store: EventStore) -> int:
    with store.database.session() as conn:
        row = conn.execute("SELECT count(*) FROM checkpoints WHERE lease_owner IS NOT NULL").fetchone()
    return int(row[0]) if row else 0


# -- other servers, other circumstances -----------------------------------------------------------------------------


@pytest.mark.slow
def test_embedded_servers_are_started_and_no_key_is_needed_on_this_machine() -> None:
    folder = Path(tempfile.mkdtemp(prefix="headway-tests-")).resolve()
    try:
        with serve_processes() as started:
            server = ServeProcess(HEADWAY_DATA_DIR=str(folder))
            started.append(server)
            url = server.wait_for_start()
            assert httpx.post(f"{url}/v1/jobs/first/events", json={"type": "job.started"}).status_code == 201
            assert httpx.get(f"{url}/v1/jobs/first").json()["status"] == "running"
            wait_until(lambda: "relay" in httpx.get(f"{url}/readyz").json()["checks"], "a relay runs")
            assert server.stop() == 0
        wait_stopped(prepare(folder))
    finally:
        down(folder)
        wait_stopped(prepare(folder))
        shutil.rmtree(folder, ignore_errors=True)


def test_it_speaks_https_with_a_certificate(start: Start, key: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", "127.0.0.1")
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    issued.private_key_pem.write_to_path(private)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = start("--tls-cert", str(cert), "--tls-key", str(private))
    assert server.url.startswith("https://127.0.0.1:")
    import ssl

    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with client(server, key, verify=trusted) as http:
        assert http.post("/v1/jobs/secret/events", json={"type": "job.started"}).status_code == 201
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")
    assert server.stop() == 0


def test_a_certificate_that_does_not_fit_is_told(database_url: str, key: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        issued = trustme.CA().issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    wrong = (
        ("a.pem", "b.key", f"TLS with {tmp_path / 'a.pem'} and {tmp_path / 'b.key'}: ", 1),
        ("a.pem", "none.key", f"TLS with {tmp_path / 'none.key'}: No such file", 1),
        ("none.pem", "a.key", f"TLS with {tmp_path / 'none.pem'}: No such file", 1),
        ("a.pem", "", "TLS needs both", 2),
    )  # fmt: skip
    for cert, private, told, code in wrong:
        environ = os.environ | {
            "DATABASE_URL": database_url, "HEADWAY_TLS_CERT": str(tmp_path / cert),
            "HEADWAY_TLS_KEY": str(tmp_path / private) if private else "",
        }  # fmt: skip
        said = subprocess.run(
            [HEADWAY, "serve", "--port", "0"], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert said.returncode == code
        assert told in said.stderr
        assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_a_database_that_hangs_for_ever_does_not_keep_the_process_from_ending() -> None:
    with cluster() as own, serve_processes() as started:
        migrate(own.url)
        with EventStore(own.url, projection=Progress()) as store:
            store.create_log()
        key = make_key(own.url)
        server = ServeProcess(DATABASE_URL=own.url, HEADWAY_STOP_PATIENCE="2")
        started.append(server)
        server.wait_for_start()
        with client(server, key) as http:
            assert http.post("/v1/jobs/hangs/events", json={"type": "job.started"}).status_code == 201
            with own.frozen():
                held = Doing(lambda: _status(http, "/v1/jobs/hangs"))
                assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 503
                assert server.stop() == 1
                assert "the stop takes too long" in server.err
                assert held.result() in (503, None)


def _status(http: httpx.Client, path: str) -> int | None:
    """None if there was no answer."""
    try:
        return http.get(path).status_code
    except httpx.HTTPError:
        return None
