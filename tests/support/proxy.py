"""A TCP proxy before PostgreSQL that loses an answer: the statement is done, its caller never hears of it."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """`lose_answers(n)`: the next n answers to statements are thrown away, each with its connection."""

    def __init__(self, url: str) -> None:
        self._target = conninfo_to_dict(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._lose = 0
        self._closing = False
        self.lost = threading.Semaphore(0)
        """Released once for each answer that was thrown away."""
        self.url = make_conninfo(
            **{**self._target, "host": "127.0.0.1", "port": self._listener.getsockname()[1], "sslmode": "disable",
               "gssencmode": "disable"}
        )  # fmt: skip

    def lose_answers(self, number: int) -> None:
        self._lose = number

    def run(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(client,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _connect(self) -> socket.socket:
        host, port = str(self._target["host"]), self._target.get("port", 5432)
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection((host, int(port)))

    def _carry(self, client: socket.socket) -> None:
        with client, self._connect() as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            asked = False
            while True:
                for key, _ in selector.select():
                    source, target = key.fileobj, key.data
                    try:
                        chunk = source.recv(65_536)  # type: ignore[union-attr]
                    except ConnectionError:
                        return
                    if not chunk:
                        return
                    if source is client:
                        asked = self._lose > 0
                    elif asked and self._lose > 0:
                        self._lose -= 1
                        self.lost.release()
                        return
                    target.sendall(chunk)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
