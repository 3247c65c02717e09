"""Readers and a writer of streams, each in a process of its own: bare protocols, so that the load costs little."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import uvloop

SENT: Final = re.compile(rb'"sent":([0-9]+),')
OPENING: Final = 50  # connections at a time
CLOCK: Final = time.CLOCK_MONOTONIC  # one clock for all processes of a machine


def now_us() -> int:
    return time.clock_gettime_ns(CLOCK) // 1000


class Reader(asyncio.Protocol):
    """One subscriber: counts events, and notes how long each one took."""

    def __init__(self, request: bytes, waits: list[int], ready: Callable[[], None]) -> None:
        self._request, self._waits, self._ready = request, waits, ready
        self._rest = b""
        self._open = False
        self.events = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._open and b"caught_up" in self._rest + data:
            self._open = True
            self._ready()
        data = self._rest + data
        now, end = now_us(), 0
        for found in SENT.finditer(data):
            self._waits.append(now - int(found[1]))
            self.events += 1
            end = found.end()
        # A number at the very end goes on in the next portion.
        self._rest = data[max(end, len(data) - 40) :]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True


def request_of(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


async def readers(port: int, path: str, count: int, inbox: Any, outbox: Any) -> None:
    """`count` readers until told to stop; says `ready` when all are live, then (events of each, waits in µs, cut)."""
    loop = asyncio.get_running_loop()
    waits: list[int] = []
    left, opened = count, asyncio.Event()

    def ready() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            opened.set()

    request = request_of(path)
    protocols: list[Reader] = []
    for start in range(0, count, OPENING):
        pairs = await asyncio.gather(
            *(
                loop.create_connection(lambda: Reader(request, waits, ready), "127.0.0.1", port)
                for _ in range(min(OPENING, count - start))
            )
        )
        protocols += [protocol for _, protocol in pairs]
    await opened.wait()
    outbox.put("ready")
    await loop.run_in_executor(None, inbox.get)
    outbox.put(([protocol.events for protocol in protocols], sorted(waits), sum(p.lost for p in protocols)))
    for protocol in protocols:
        protocol.transport.abort()


async def never_readers(port: int, path: str, count: int, inbox: Any, outbox: Any) -> None:
    """`count` connections that never read, until told to stop."""
    loop = asyncio.get_running_loop()
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, request_of(path))
        sockets.append(sock)
    outbox.put("ready")
    await loop.run_in_executor(None, inbox.get)
    outbox.put(len(sockets))
    for sock in sockets:
        sock.close()


async def writer(port: int, job: str, rate: float, seconds: float, size: int, inbox: Any, outbox: Any) -> None:
    """Single-event POSTs at a fixed rate over 8 connections; gives how many were acknowledged, and µs of each."""
    outbox.put("ready")
    await asyncio.get_running_loop().run_in_executor(None, inbox.get)
    links = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    locks = [asyncio.Lock() for _ in links]
    took: list[int] = []
    padding, path = "x" * size, f"/v1/jobs/{job}/events".encode()

    async def post(number: int) -> None:
        reader, out = links[number % 8]
        async with locks[number % 8]:
            begun = now_us()
            data = {"done": number, "total": 1_000_000, "message": padding, "sent": begun}
            body = msgspec.json.encode({"type": "step.progressed", "step": "push", "data": data})
            out.write(b"POST %b HTTP/1.1\r\nHost: b\r\n" % path)
            out.write(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 201"), answer
            length = re.search(rb"content-length: ([0-9]+)", answer.lower())
            assert length is not None
            await reader.readexactly(int(length[1]))
            took.append(now_us() - begun)

    tasks = []
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        ahead = begun + number / rate - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        tasks.append(asyncio.create_task(post(number)))
    await asyncio.gather(*tasks)
    for _, out in links:
        out.close()
    outbox.put((len(took), sorted(took)))


class Part:
    """A part of the load in a process: `begin()`, then `end()` gives what it found."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._inbox, self._outbox = context.Queue(), context.Queue()
        self._process = context.Process(target=_run, args=(function, arguments, self._inbox, self._outbox), daemon=True)
        self._process.start()
        assert self._outbox.get(timeout=120) == "ready"

    def tell(self) -> None:
        self._inbox.put("go")

    def result(self, timeout: float = 120) -> Any:
        found = self._outbox.get(timeout=timeout)
        self._process.join(20)
        return found

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def part(function: Callable[..., Any], *arguments: Any) -> Any:
    running = Part(function, *arguments)
    try:
        yield running
    finally:
        running.kill()


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], inbox: Any, outbox: Any) -> None:
    uvloop.run(function(*arguments, inbox, outbox))
