"""A server that plays a script over real sockets: one reply per connection, whatever was asked."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Reply = bytes | Callable[[bytes], bytes]
HANG = b"hang"
"""Say nothing until the other side goes away."""


class Script:
    """One reply per connection, the last one for all that follow; `requests` are what came, whole."""

    def __init__(self, replies: list[Reply], context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.gone = threading.Semaphore(0)
        """Released when a client left a connection that hangs."""
        self._replies, self._context = replies, context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.port}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            reply = self._replies[0] if len(self._replies) == 1 else self._replies.pop(0)
            with connection:
                try:
                    self._play(connection, reply)
                except OSError:
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _play(self, connection: socket.socket, reply: Reply) -> None:
        connection.settimeout(30)
        if self._context is not None:
            with self._context.wrap_socket(connection, server_side=True) as secured:
                self._answer(secured, reply)
        else:
            self._answer(connection, reply)

    def _answer(self, connection: socket.socket, reply: Reply) -> None:
        request = receive(connection)
        self.requests.append(request)
        raw = reply(request) if callable(reply) else reply
        connection.sendall(raw.removesuffix(HANG))
        if raw.endswith(HANG):
            while connection.recv(1024):
                pass
            self.gone.release()
        connection.shutdown(socket.SHUT_RDWR)


def receive(connection: socket.socket) -> bytes:
    """One request, head and body."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        chunk = connection.recv(65_536)
        if not chunk:
            raise ConnectionError("nothing was asked")
        raw += chunk
    head, _, body = raw.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < sum(lengths):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


@contextmanager
def script(*replies: Reply, context: ssl.SSLContext | None = None) -> Iterator[Script]:
    played = Script(list(replies), context)
    thread = threading.Thread(target=played.run, daemon=True)
    thread.start()
    try:
        yield played
    finally:
        played.close()
        thread.join(10)


def reply(status: int, value: Any = None, **headers: str) -> bytes:
    body = b"" if value is None else json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
