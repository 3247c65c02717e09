"""What an append over HTTP costs: against a bare ASGI handler on the same server, and against the library's batches.

Servers and the load generator are processes of their own. The generator writes ready-made bytes on keep-alive
connections and reads no more of an answer than its status and length.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from tests.bench.contenders import Headway, progress
from tests.bench.measure import Figure, figure, run_tasks
from tests.bench.report import Report

CONNECTIONS: Final = 64
ANSWER: Final = b'{"events":[%s],"job":null}' % (b"x" * 560)  # about as long as ours


def run(url: str, report: Report, *, seconds: float, rounds: int) -> None:
    with ExitStack() as stack:
        bare = stack.enter_context(server("bare", url))
        ours = stack.enter_context(server("ours", url))
        single = _in_turn(
            [lambda: load(bare, seconds, CONNECTIONS, 1), lambda: load(ours, seconds, CONNECTIONS, 1)], rounds
        )
        report.figure(f"bare ASGI handler, {CONNECTIONS} connections × 1", single[0])
        report.figure(f"POST of one event, {CONNECTIONS} connections × 1", single[1])
        report.ratio("single-event POST / bare ASGI handler", single[1].rate / single[0].rate, 0.2)

        library = Headway(url)
        stack.callback(library.close)
        for callers in (1, 8):
            batches = _in_turn(
                [
                    lambda n=callers: _library(library, n, seconds),  # type: ignore[misc]
                    lambda n=callers: load(ours, seconds, n, 100),  # type: ignore[misc]
                ],
                rounds,
            )
            report.figure(f"library, {callers} callers × 100", batches[0])
            report.figure(f"POST of 100, {callers} connections", batches[1])
            report.ratio(f"{callers} × 100: POST / library", batches[1].rate / batches[0].rate, 0.5)


def _in_turn(parts: list[Callable[[], tuple[float, list[float]]]], rounds: int) -> list[Figure]:
    """Each part once per round, one after the other; the first round warms up and is not counted."""
    rates: list[list[float]] = [[] for _ in parts]
    latencies: list[list[float]] = [[] for _ in parts]
    for number in range(rounds + 1):
        for index, part in enumerate(parts):
            rate, took = part()
            if number:
                rates[index].append(rate)
                latencies[index] += took
    return [figure(r, sorted(t)) for r, t in zip(rates, latencies, strict=True)]


def _library(library: Headway, callers: int, seconds: float) -> tuple[float, list[float]]:
    return asyncio.run(run_tasks([library.async_writer(caller, 100) for caller in range(callers)], 100, seconds))


# -- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def server(kind: str, url: str) -> Iterator[int]:
    """The port of a server in a process of its own; `ours` is what `headway serve` runs, without a Redis."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.ingest_http", kind, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline())
    finally:
        child.stdin.close()
        child.wait(30)
        child.stdout.close()


async def bare_handler(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body and answers: what the server itself costs."""
    del scope
    while (await receive()).get("more_body", False):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def _serve(kind: str, url: str) -> None:
    import anyio

    import api.serving
    from api.settings import Settings
    from api.wiring import wired

    if kind == "bare":
        api.serving.App = lambda services: bare_handler  # type: ignore[assignment, misc]

    def ready(port: int, _: object) -> None:
        api.serving.settle_heap()
        print(port, flush=True)

    async def main() -> None:
        stop = anyio.Event()

        async def until_told() -> None:
            await anyio.to_thread.run_sync(sys.stdin.read)
            stop.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_told)
            await api.serving.serve(
                wiring,
                host="127.0.0.1",
                port=0,
                ready=ready,
                stop=stop,
                keyless=True,
                background=kind == "ours",
            )

    with wired(Settings(database_url=url, log="bench", access_log=False)) as wiring:
        wiring.store().create_log()
        anyio.run(main, backend_options={"use_uvloop": True})


# -- the load generator -----------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One keep-alive connection in a closed loop. `body(n)` is the body of the request number n."""

    def __init__(self, path: str, body: Callable[[int], bytes], took: list[float]) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self._body = body
        self._took = took
        self._buffer = b""
        self._number = 0
        self.stopping = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        body = self._body(self._number)
        self._number += 1
        self._began = time.perf_counter()
        self._transport.write(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        start = self._buffer.find(b"ontent-length: ", 0, end) + 15
        if len(self._buffer) < end + 4 + int(self._buffer[start : self._buffer.find(b"\r", start)]):
            return
        if not self._buffer.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(self._buffer.decode())
        self._took.append(time.perf_counter() - self._began)
        self._buffer = b""
        if self.stopping:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(exc)


def bodies(batch: int) -> Callable[[int], bytes]:
    """Bodies of reports that go on and on, as `contenders.progress` makes them."""
    event = b'{"type":"step.progressed","step":"push","data":{"done":%d,"total":1000000,"message":"'
    event += progress(0).data["message"].encode() + b'"}}'
    if batch == 1:
        return lambda number: event % number
    array = b"[" + b",".join([event] * batch) + b"]"
    return lambda number: array % tuple(range(number * batch, number * batch + batch))


async def _generate(port: int, seconds: float, connections: int, batch: int) -> tuple[float, list[float]]:
    loop, took = asyncio.get_running_loop(), []
    run_id = f"{os.getpid()}-{time.time_ns()}"
    body = bodies(batch)
    began = time.perf_counter()
    clients = [
        (
            await loop.create_connection(
                lambda n=number: _Client(f"/v1/jobs/bench:http:{run_id}:{n}/events", body, took),  # type: ignore[misc]
                "127.0.0.1",
                port,
            )
        )[1]
        for number in range(connections)
    ]
    await asyncio.sleep(seconds)
    elapsed, count = time.perf_counter() - began, len(took)
    for client in clients:
        client.stopping = True
    await asyncio.wait_for(asyncio.gather(*(client.closed for client in clients)), 30)
    return count * batch / elapsed, took


def _child(answer: Any, port: int, seconds: float, connections: int, batch: int) -> None:
    import uvloop

    answer.put(uvloop.run(_generate(port, seconds, connections, batch)))


def load(port: int, seconds: float, connections: int, batch: int) -> tuple[float, list[float]]:
    """Events per second, and the seconds that each request took, as a process of its own saw them."""
    context = multiprocessing.get_context("spawn")
    answer = context.SimpleQueue()
    child = context.Process(target=_child, args=(answer, port, seconds, connections, batch))
    child.start()
    found: tuple[float, list[float]] = answer.get()
    child.join()
    return found


if __name__ == "__main__":
    _serve(*sys.argv[1:])
