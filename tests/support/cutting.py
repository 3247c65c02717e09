"""A TCP proxy before an HTTP server that cuts streams anywhere, also in the middle of a frame.

`cuts` streams of one reader are ended, each after a random number of bytes of its answer: half of them with a reset,
which throws away what the reader has not read yet, half with an ordinary close. Then streams are left alone. `target`
may change: a server that was restarted has another port. While it is None nobody answers.
"""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SERVER_RETRY = b"retry: 2000\n"
TEST_RETRY = b"retry: 0030\n"
"""Of the same length: the server's pause before a reconnect would make 50 of them last minutes."""


class Cutter:
    def __init__(self, target: int | None, *, cuts: int = 0, least: int = 1, most: int = 60_000, seed: int = 0) -> None:
        self.target = target
        self._cuts, self.cut = cuts, 0
        self.streams = 0
        """How many streams were opened, those included that were not cut."""
        self._range = (least, most)
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._closing = False

    def run(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def drop_all(self) -> None:
        """Cut whatever is open now."""
        with self._lock:
            for client in self._open:
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()
        for thread in self._threads:
            thread.join(10)

    def _carry(self, client: socket.socket) -> None:
        target = self.target
        if target is None:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", target))
        except OSError:
            client.close()
            return
        with self._lock:
            self._open.add(client)
        try:
            with client, server, selectors.DefaultSelector() as selector:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                self._exchange(client, server, selector)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(client)

    def _exchange(self, client: socket.socket, server: socket.socket, selector: selectors.BaseSelector) -> None:
        left: int | None = None  # bytes of the answer until the cut
        while True:
            for key, _ in selector.select():
                chunk = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                if not chunk:
                    return
                if key.fileobj is client:
                    if b"/stream" in chunk.split(b"\r\n", 1)[0] and b"stream-tokens" not in chunk:
                        left = self._draw()
                    server.sendall(chunk)
                    continue
                chunk = chunk.replace(SERVER_RETRY, TEST_RETRY)
                if left is None:
                    client.sendall(chunk)
                    continue
                client.sendall(chunk[:left])
                left -= len(chunk)
                if left <= 0:
                    with self._lock:
                        self.cut += 1
                    if self._random.random() < 0.5:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return

    def _draw(self) -> int | None:
        with self._lock:
            self.streams += 1
            return self._random.randint(*self._range) if self.cut < self._cuts else None


@contextmanager
def cutting(target: int | None, **options: int) -> Iterator[Cutter]:
    cutter = Cutter(target, **options)
    thread = threading.Thread(target=cutter.run, daemon=True)
    thread.start()
    try:
        yield cutter
    finally:
        cutter.close()
        thread.join()
