"""HTTP by hand, byte by byte, for requests that no client library would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

PATIENCE = 50.0  # seconds


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._read = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next answer, which has a length or chunks."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._exactly(size)
                self._exactly(2)
            self._exactly(2)
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    def rest(self) -> bytes:
        """Everything until the server closes; fails if it does not."""
        while data := self._some():
            self._read += data
        read, self._read = self._read, b""
        return read

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            data = self._some()
            assert data, f"the server closed after {self._read!r}"
            self._read += data
        found, _, self._read = self._read.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            data = self._some()
            assert data, f"the server closed after {self._read!r}"
            self._read += data
        found, self._read = self._read[:size], self._read[size:]
        return found

    def _some(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    opened = Wire(port)
    try:
        yield opened
    finally:
        opened.socket.close()
