"""Row I24: requests that are late, too large, or mean two things at once, on real sockets."""

from __future__ import annotations

import gc
import json
import select
import socket
import struct
import time
from collections.abc import Iterator

import httpx
import pytest

from api import protocol
from tests.support.http import Server, serving
from tests.support.raw_http import PATIENCE, Wire, wire
from tests.support.sessions import wait_until
from tests.support.sse_client import stream
from tests.support.streams import subscribers

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(shared_database: str) -> Iterator[Server]:
    with serving(shared_database) as started:
        yield started


@pytest.fixture
def hasty(shared_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that waits for a request's head for a fifth of a second."""
    monkeypatch.setattr(protocol, "HEAD_PATIENCE", 0.2)
    with serving(shared_database) as started:
        yield started


def post(path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    length = b"" if b"ength:" in headers or b"ncoding:" in headers else b"Content-Length: %d\r\n" % len(body)
    return (
        b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        + length + headers + b"\r\n" + body
    )  # fmt: skip


EVENT = b'{"type":"job.started"}'


# -- late -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun", [b"", b"\r\n", b"GET /he", GET, GET + b"X-A: "], ids=["nothing", "blank", "path", "header", "value"]
)
def test_a_request_head_that_is_not_finished_ends_the_connection(hasty: Server, begun: bytes) -> None:
    with wire(hasty.port) as slow:
        slow.send(begun)
        assert slow.rest() == b""


def test_a_head_sent_byte_by_byte_gains_no_time(hasty: Server) -> None:
    with wire(hasty.port) as slow:
        sent = 0
        try:
            for byte in GET + b"X-Slow: " + b"a" * 100_000:
                slow.send(bytes([byte]))
                sent += 1
                time.sleep(0.01)
                if sent > 5_000:
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert 0 < sent < 5_000


def test_a_second_request_has_as_little_time_as_the_first(hasty: Server) -> None:
    with wire(hasty.port) as slow:
        slow.send(GET + b"\r\n")
        assert slow.answer().status == 200
        slow.send(b"GET /healthz HT")
        assert slow.rest() == b""


def test_half_a_request_sent_with_the_one_before_has_no_more_time(hasty: Server) -> None:
    with wire(hasty.port) as slow:
        slow.send(GET + b"\r\n" + b"GET /healthz HT")
        assert slow.answer().status == 200
        assert slow.rest() == b""


def test_a_connection_that_is_used_is_not_closed(hasty: Server) -> None:
    with wire(hasty.port) as idle, wire(hasty.port) as slow:
        idle.send(GET + b"\r\n")
        assert idle.answer().status == 200
        assert slow.rest() == b""  # more time than a head has
        idle.send(GET + b"\r\n")
        assert idle.answer().status == 200


# -- too large ------------------------------------------------------------------------------------------------------


def refused(wired: Wire, status: int) -> dict[str, object]:
    """The problem document with which a connection ends."""
    answer = wired.answer()
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers["connection"] == "close"
    assert wired.rest() == b""
    document: dict[str, object] = answer.json
    assert document["status"] == status
    return document


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X-Big: " + b"a" * 100_000 + b"\r\n", 431),
        (b"X-" + b"a" * 100_000 + b": 1\r\n", 431),
        (b"X-Big: " + b"a" * 1_000_000, 431),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(101)), 431),
        (b"".join(b"X-%d: %s\r\n" % (n, b"a" * 900) for n in range(80)), 431),
        (b"X-Big: " + b"a" * 60_000 + b"\r\n", 200),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(99)), 200),
    ],
    ids=["100 KB", "name", "endless", "101", "80 of 900", "60 KB", "100"],
)
def test_headers_have_a_limit(server: Server, headers: bytes, status: int) -> None:
    with wire(server.port) as wired:
        wired.send(GET + headers + b"\r\n")
        if status == 200:
            assert wired.answer().status == 200
        else:
            assert refused(wired, status)["code"] == "headers_too_large"


def test_who_still_sends_while_refused_reads_the_answer_all_the_same(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(GET + b"X-Big: " + b"a" * 70_000 + b"\r\nX-More: ")
        select.select([wired.socket], [], [], PATIENCE)
        for _ in range(40):
            wired.send(b"a" * 50_000)
        assert refused(wired, 431)["code"] == "headers_too_large"


@pytest.mark.parametrize(("length", "status"), [(100_000, 414), (16 * 1024 + 1, 414), (16 * 1024, 404)])
def test_an_address_has_a_limit(server: Server, length: int, status: int) -> None:
    with wire(server.port) as wired:
        wired.send(b"GET /" + b"a" * (length - 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        if status == 404:
            assert wired.answer().status == 404
        else:
            assert refused(wired, 414)["code"] == "uri_too_long"


@pytest.mark.parametrize("path", ["/v1/jobs", "/healthz", "/nowhere"])
def test_a_thousand_parameters_are_refused_whatever_the_route(server: Server, path: str) -> None:
    answer = httpx.get(server.url + path + "?" + "&".join(f"a{n}=1" for n in range(1_000)))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_many_parameters_that_make_a_long_address_are_too_long(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(b"GET /v1/jobs?" + b"&".join(b"parameter%d=value" % n for n in range(1_000)) + b" HTTP/1.1\r\n\r\n")
        refused(wired, 414)


# -- two meanings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"/v1/jobs/a/events", b"0\r\n\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        post(b"/v1/jobs/a/events", b"0\r\n\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        post(b"/v1/jobs/a/events", b"0\r\n\r\n", b"Transfer-Encoding: identity, chunked, identity\r\n"),
        post(b"/v1/jobs/a/events", b"0\r\n\r\n", b"Transfer-Encoding : chunked\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: 22\r\nContent-Length: 23\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: 22\r\nContent-Length: 22\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: 22, 22\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: -1\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: +22\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: 0x16\r\n"),
        post(b"/v1/jobs/a/events", EVENT, b"Content-Length: 99999999999999999999999\r\n"),
        post(b"/v1/jobs/a/events", b"zz\r\nabc\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        post(b"/v1/jobs/a/events", b"5\r\nabcdefgh\r\n0\r\n\r\n", b"Transfer-Encoding: chunked\r\n"),
        b"GET /healthz HTTP/1.1\r\n\r\n",
        GET + b"Host: y\r\n\r\n",
        GET + b"X-A: b\r\n c\r\n\r\n",
        GET + b"X-A: b\nX-B: c\r\n\r\n",
        GET + b"X-A: \x00\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/3.7\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=[
        "CL+TE", "TE+CL", "TE not last", "TE blank", "CL differ", "CL twice", "CL list", "CL negative", "CL plus",
        "CL hex", "CL huge", "chunk size", "chunk longer", "no host", "two hosts", "folded", "bare LF", "NUL",
        "blank in path", "raw bytes in path", "version", "TLS", "CONNECT",
    ],
)  # fmt: skip
def test_what_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    server: Server, request_bytes: bytes
) -> None:
    with wire(server.port) as wired:
        wired.send(request_bytes + GET + b"\r\n")
        assert refused(wired, 400)["code"] == "malformed"


def test_nothing_was_appended_by_a_refused_request(server: Server) -> None:
    body = b"16\r\n" + EVENT + b"\r\n0\r\n\r\n"
    with wire(server.port) as wired:
        wired.send(post(b"/v1/jobs/smuggled/events", body, b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"))
        refused(wired, 400)
    assert httpx.get(f"{server.url}/v1/jobs/smuggled").status_code == 404


# -- in order -------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    jobs = [f"pipelined:{n}" for n in range(20)]
    with wire(server.port) as wired:
        wired.send(b"".join(post(f"/v1/jobs/{job}/events".encode(), EVENT) for job in jobs))
        answers = [wired.answer() for _ in jobs]
        wired.send(GET + b"\r\n")
        assert wired.answer().status == 200
    assert [answer.status for answer in answers] == [201] * 20
    assert [answer.json["job"]["job_id"] for answer in answers] == jobs


def test_what_follows_a_broken_pipelined_request_is_not_read(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(post(b"/v1/jobs/first/events", EVENT) + b"GARBAGE\r\n\r\n" + post(b"/v1/jobs/third/events", EVENT))
        assert wired.answer().status == 201
        assert wired.rest() == b""
    assert httpx.get(f"{server.url}/v1/jobs/third").status_code == 404


def test_too_many_pipelined_requests_are_not_hoarded(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(post(b"/v1/jobs/hoard/events", EVENT) + (GET + b"\r\n") * 500)
        answered = wired.rest().count(b"HTTP/1.1 20")
        assert protocol.MAX_PIPELINED <= answered < 200


def test_a_request_to_upgrade_is_answered_as_http_and_nothing_after_it_is_read(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + post(b"/v1/jobs/up/events", EVENT))
        assert wired.answer().status == 200
        assert wired.rest() == b""
    assert httpx.get(f"{server.url}/v1/jobs/up").status_code == 404


def test_a_client_of_http_1_0_needs_no_host(server: Server) -> None:
    with wire(server.port) as wired:
        wired.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert wired.answer().status == 200
        assert wired.rest() == b""


# -- the connection -------------------------------------------------------------------------------------------------


def test_one_connection_too_many_is_told_to_come_later(shared_database: str) -> None:
    with serving(shared_database, max_connections=10) as server:
        held = [Wire(server.port) for _ in range(10)]
        try:
            for one in held:
                one.send(GET + b"\r\n")
                assert one.answer().status == 200
            with wire(server.port) as wired:
                answer = wired.answer()
                assert (answer.status, answer.json["code"]) == (503, "stopping")
                assert int(answer.headers["retry-after"]) > 0
                assert wired.rest() == b""
            held.pop().socket.close()
            wait_until(lambda: _answers(server.port), "a place is free again")
        finally:
            for one in held:
                one.socket.close()


def _answers(port: int) -> bool:
    with wire(port) as wired:
        wired.send(GET + b"\r\n")
        return wired.answer().status == 200


def test_connections_that_are_reset_leave_nothing_behind(server: Server) -> None:
    def held() -> int:
        gc.collect()
        return sum(isinstance(one, protocol.HttpProtocol) for one in gc.get_objects())

    before = held()
    for _ in range(50):
        with wire(server.port) as wired:
            wired.send(post(b"/v1/jobs/reset/events", b'{"type":', b"Content-Length: 100\r\n"))
            wired.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: held() <= before + 1, "the connections are forgotten")


def test_answers_name_no_server_and_are_not_sniffed(server: Server) -> None:
    for path in ("/healthz", "/nowhere", "/v1/jobs/none"):
        headers = httpx.get(server.url + path).headers
        assert "server" not in headers
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs/head:1", "/v1/jobs/none"])
def test_head_answers_as_get_without_the_body(server: Server, path: str) -> None:
    httpx.post(f"{server.url}/v1/jobs/head:1/events", json=json.loads(EVENT))
    get, head = httpx.get(server.url + path), httpx.head(server.url + path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_the_head_of_a_download_leaves_the_connection_as_it_was(server: Server, form: str) -> None:
    httpx.post(f"{server.url}/v1/jobs/head:1/events", json=json.loads(EVENT))
    with wire(server.port) as wired:
        for _ in range(2):
            wired.send(f"HEAD /v1/events?format={form} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = wired._until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and form.encode() in head
        wired.send(GET + b"\r\n")
        assert wired.answer().status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example."]
)
def test_a_page_whose_name_was_bent_to_this_machine_is_not_let_in_without_a_key(server: Server, host: str) -> None:
    """DNS rebinding: such a page is of the same origin as we, so CORS does not hold it back; its Host tells."""
    for method, path in (("GET", "/v1/jobs"), ("GET", "/v1/stream"), ("POST", "/v1/stream-tokens")):
        answer = httpx.request(method, server.url + path, headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "host", ["localhost:1", "LOCALHOST", "app.localhost", "127.0.0.1", "[::1]:80", "box", "10.0.0.7"]
)
def test_names_that_no_stranger_can_bend_need_no_key(server: Server, host: str) -> None:
    assert httpx.get(f"{server.url}/v1/jobs", headers={"host": host}).status_code == 200


def test_two_keys_in_one_request_are_none(server: Server) -> None:
    answer = httpx.get(f"{server.url}/v1/jobs", headers=[("authorization", "Bearer a"), ("authorization", "Basic b")])
    assert (answer.status_code, answer.json()["field"]) == (400, "authorization")


def test_a_stream_has_no_head(server: Server) -> None:
    assert httpx.head(f"{server.url}/v1/stream").status_code == 405


def test_a_reader_that_is_cut_is_no_fault_of_the_application(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with stream(server.port, "/v1/stream?after=now") as reading:
        reading.until("caught_up")
        (one,) = subscribers(server)
        task = server.services.streams.wheel._task
        assert task is not None
        task.get_loop().call_soon_threadsafe(one.cut)
        wait_until(lambda: not subscribers(server), "the stream is over")
        assert (reading.whole(), reading.ended_well) == (b"", False)
    assert "ASGI" not in caplog.text
