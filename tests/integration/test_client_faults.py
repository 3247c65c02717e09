"""The client when the other side, or what lies between, behaves badly: a script that is played over real sockets."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest
import trustme

import headway
from headway.client import AsyncClient, BadAnswer, Event, InvalidRequest, NotFound, Unavailable, Unreachable
from headway.client.retrying import Backoff
from headway.errors import Misuse
from tests.support.http import serving
from tests.support.scripted import HANG, reply, script

EVENT = {"type": "job.noted", "data": {"level": "info", "message": "x"}}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
DONE = {"events": [{"position": 1, "cursor": "0001_0000000000000001_00000000"}], "job": None}


def cursor(position: int) -> str:
    return f"0001_{position:016d}_00000000"


def frame(position: int) -> bytes:
    told = {"position": position, "prev": cursor(position - 1), "job_id": "a", "type": "job.noted", "data": {"m": "推"}}
    return f"id: {cursor(position)}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n".encode()


END = b"event: end\ndata: {}\n\n"


def last_id(request: bytes) -> int:
    """Where a request wants to go on."""
    for line in request.split(b"\r\n"):
        if line.lower().startswith(b"last-event-id:"):
            return int(line.split(b"_")[1])
    return 0


def body_of(request: bytes) -> Any:
    return json.loads(request.partition(b"\r\n\r\n")[2])


def test_a_call_whose_answer_was_lost_is_sent_again_with_the_same_ids_and_is_one_event(database_url: str) -> None:
    with serving(database_url) as server:

        def lose(request: bytes) -> bytes:
            assert pass_on(request).status_code == 201
            return b""

        def pass_on(request: bytes) -> httpx.Response:
            target = request.split(b" ")[1].decode()
            headers = {"content-type": "application/json"}
            return httpx.post(server.url + target, content=request.partition(b"\r\n\r\n")[2], headers=headers)

        with (
            script(lose, lambda request: reply(200, pass_on(request).json())) as played,
            headway.Client(played.url) as client,
        ):
            told = client.append("a", [EVENT, EVENT])
        assert [event.duplicate for event in told.events] == [True, True]
        assert body_of(played.requests[0]) == body_of(played.requests[1])
        with headway.Client(server.url) as client:
            assert len(list(client.events("a"))) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_servers_are_asked_again(status: int) -> None:
    busy = reply(status, {"code": "busy", "detail": "later"}, retry_after="0")
    with script(busy, busy, reply(201, DONE)) as played, headway.Client(played.url) as client:
        assert client.append("a", EVENT).events[0].position == 1
    assert len({body_of(request)[0]["event_id"] for request in played.requests}) == 1
    assert len(played.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 500])
def test_what_would_be_refused_again_is_sent_once(status: int) -> None:
    with (
        script(reply(status, {"code": "no", "detail": "never"}), reply(201, DONE)) as played,
        headway.Client(played.url) as client,
        pytest.raises(headway.HeadwayError),
    ):
        client.append("a", EVENT)
    assert len(played.requests) == 1


def test_a_server_that_wants_more_time_than_there_is_left_ends_the_call() -> None:
    with (
        script(reply(503, {"code": "storage_full", "detail": "disk"}, retry_after="60")) as played,
        headway.Client(played.url, timeout=5) as client,
        pytest.raises(Unavailable, match="storage_full"),
    ):
        client.append("a", EVENT)
    assert len(played.requests) == 1


@pytest.mark.parametrize("last", [HANG, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{" + HANG, b"junk\r\n\r\n"])
def test_a_server_that_does_not_answer_is_unreachable(last: bytes) -> None:
    with script(last) as played, headway.Client(played.url, timeout=0.5) as client, pytest.raises(Unreachable):
        client.job("a")


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with headway.Client(f"http://127.0.0.1:{port}", timeout=0.5) as client, pytest.raises(Unreachable):
        client.job("a")


@pytest.mark.anyio
async def test_the_asynchronous_client_tries_again_too_and_keeps_to_its_time() -> None:
    with script(b"", reply(503, retry_after="0"), reply(201, DONE), HANG) as played:
        async with AsyncClient(played.url) as client:
            assert (await client.append("a", EVENT)).events[0].position == 1
        async with AsyncClient(played.url, timeout=0.3) as client:
            with pytest.raises(Unreachable):
                await client.job("a")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_is_not_taken_along_to_another_address(status: int) -> None:
    with script(reply(201, DONE)) as elsewhere:
        moved = reply(status, location=f"{elsewhere.url}/v1/jobs/a/events")
        with script(moved) as played, headway.Client(played.url, "hw_a_b") as client:
            with pytest.raises(BadAnswer):
                client.append("a", EVENT)
            with pytest.raises(BadAnswer):
                next(client.follow("a"))
    assert b"authorization: bearer hw_a_b" in played.requests[0].lower()
    assert elsewhere.requests == []


def test_a_certificate_that_nobody_trusts_ends_the_call_and_a_ca_of_ones_own_is_trusted() -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    with script(reply(201, DONE), context=context) as played:
        with headway.Client(played.url) as client:
            with pytest.raises(Unreachable) as refused:
                client.append("a", EVENT)
            assert (refused.value.code, refused.value.retryable) == ("untrusted", False)
            with pytest.raises(Unreachable):
                next(client.follow("a"))
        trusting = ssl.create_default_context()
        ca.configure_trust(trusting)
        with headway.Client(played.url, verify=trusting) as client:
            assert client.append("a", EVENT).events[0].position == 1


def test_a_header_that_cannot_be_sent_is_refused_and_not_tried_again() -> None:
    with script(reply(201, DONE)) as played, headway.Client(played.url) as client, pytest.raises(Misuse):
        client.append("a", EVENT, idempotency_key="a\r\nx: y")
    assert played.requests == []


WHOLE = b"retry: 1\n\n" + frame(1) + frame(2) + frame(3) + END


def rest(request: bytes) -> bytes:
    """The stream from where the reader stands."""
    return STREAM + b"retry: 1\n\n" + b"".join(frame(n) for n in range(last_id(request) + 1, 4)) + END


class Cut:
    """The same, but each time that `place` is set, the next connection is cut after so many bytes of the stream."""

    place: int | None = None

    def __call__(self, request: bytes) -> bytes:
        place, self.place = self.place, None
        return rest(request) if place is None else rest(request)[: len(STREAM) + place]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of reconnects without the pauses before them."""
    monkeypatch.setattr("headway.client.following.Backoff", lambda: Backoff(first=0.001))


@pytest.mark.usefixtures("hasty")
def test_a_stream_cut_at_any_byte_goes_on_without_a_gap_or_a_duplicate() -> None:
    cut = Cut()
    with script(cut) as played, headway.Client(played.url) as client:
        for place in range(len(WHOLE)):
            cut.place = place
            seen = [item.position for item in client.follow() if isinstance(item, Event)]
            assert seen == [1, 2, 3], place


@pytest.mark.anyio
@pytest.mark.usefixtures("hasty")
async def test_an_asynchronous_stream_cut_at_any_byte_does_so_too() -> None:
    cut = Cut()
    with script(cut) as played:
        async with AsyncClient(played.url) as client:
            for place in range(len(WHOLE)):
                cut.place = place
                async with client.follow() as follower:
                    seen = [item.position async for item in follower if isinstance(item, Event)]
                assert seen == [1, 2, 3], place


def test_a_stream_that_is_silent_is_opened_again() -> None:
    with script(STREAM + b"retry: 1\n\n" + frame(1) + HANG, rest) as played:
        with headway.Client(played.url) as client:
            seen = [item.position for item in client.follow(silence=0.2) if isinstance(item, Event)]
        assert played.gone.acquire(timeout=30)
    assert seen == [1, 2, 3]


def test_the_cursor_is_that_of_the_last_event_handed_out() -> None:
    with script(rest) as played, headway.Client(played.url) as client:
        with client.follow(after=0) as follower:
            assert follower.cursor == "0"
            next(follower)
            assert follower.cursor == cursor(1)
        again = client.follow(after=follower.cursor)
        assert next(again).cursor == cursor(2)
        again.close()
        assert list(again) == []
    assert b"after=0001_0000000000000001_00000000" in played.requests[-1]


def test_who_stops_following_lets_go_of_the_connection() -> None:
    with script(STREAM + frame(1) + HANG) as played, headway.Client(played.url) as client:
        with client.follow() as follower:
            next(follower)
        assert played.gone.acquire(timeout=30)


def test_an_outage_is_waited_for_unless_patience_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    busy = reply(503, retry_after="0")
    with script(b"", busy, reply(502), rest) as played, headway.Client(played.url) as client:
        assert next(client.follow()).cursor == cursor(1)
        client.close()
    told = [record for record in caplog.records if record.name == "headway.client"]
    assert len([record for record in told if record.levelno >= logging.WARNING]) == 1
    with script(busy) as played, headway.Client(played.url) as client, pytest.raises(Unreachable):
        next(client.follow(give_up_after=0))


def test_what_will_not_pass_ends_following() -> None:
    with script(reply(404, {"code": "not_found", "detail": "no job"})) as played, headway.Client(played.url) as client:
        follower = client.follow("a")
        with pytest.raises(NotFound):
            next(follower)
        assert list(follower) == []
    with (
        script(reply(400, {"code": "malformed"})) as played,
        headway.Client(played.url) as client,
        pytest.raises(InvalidRequest),
    ):
        next(client.follow("a"))


@pytest.mark.anyio
async def test_a_wait_that_was_cancelled_loses_nothing() -> None:
    with script(STREAM + b"retry: 1\n\n" + frame(1) + HANG, rest) as played:
        async with AsyncClient(played.url) as client, client.follow() as follower:
            assert (await anext(follower)).cursor == cursor(1)
            with anyio.move_on_after(0.1) as waited:
                await anext(follower)
            assert waited.cancelled_caught
            assert [item.cursor async for item in follower] == [cursor(2), cursor(3)]


def test_a_token_is_got_when_it_is_needed_and_again_when_it_is_used_up() -> None:
    reauth = b"retry: 30000\n\nevent: reauth\ndata: {}\n\n"
    tokens = iter(["first", "second"])
    with (
        script(STREAM + frame(1) + reauth, rest) as played,
        headway.Client(played.url, token=lambda: next(tokens)) as client,
    ):
        assert len(list(client.follow())) == 3
    assert [b"Bearer first" in played.requests[0], b"Bearer second" in played.requests[1]] == [True, True]


@pytest.mark.anyio
async def test_a_token_may_be_got_by_a_coroutine() -> None:
    async def token() -> str:
        return "mine"

    with script(rest) as played:
        async with AsyncClient(played.url, token=token) as client, client.follow() as follower:
            assert len([item async for item in follower]) == 3
    assert b"Bearer mine" in played.requests[0]


@contextmanager
def endless() -> Iterator[tuple[str, list[int]]]:
    """A server that refuses in 64 MB, as fast as it is read: its address, and the bytes that it got rid of."""
    sent = [0]

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 403 X\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n")
            try:
                while sent[0] < 64 * 2**20:
                    sent[0] += connection.send(b"x" * 65_536)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
        thread.join(50)


def test_a_refusal_of_a_stream_that_does_not_end_is_not_read_to_its_end() -> None:
    with endless() as (url, sent), headway.Client(url) as client, pytest.raises(headway.client.Forbidden):
        next(client.follow("a"))
    assert sent[0] < 32 * 2**20


@pytest.mark.anyio
async def test_nor_is_it_by_a_task() -> None:
    with endless() as (url, sent):
        async with AsyncClient(url) as client:
            with pytest.raises(headway.client.Forbidden):
                await anext(client.follow("a"))
    assert sent[0] < 32 * 2**20
