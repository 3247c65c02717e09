"""A client of streams for tests: a bare socket, so that it can stop reading, or be cut, at any byte.

    with stream(server.port, "/v1/jobs/a/stream") as reading:
        reading.until("caught_up")
        frame = reading.next()

It is strict: a line that is no field of ours, an id on a control frame or a frame without data fails the test.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

PATIENCE = 20.0  # seconds
CONTROLS = frozenset(("snapshot", "caught_up", "gap", "reauth", "end"))


class Frame(NamedTuple):
    """`event` is None for a data frame, which alone has an `id`."""

    id: str | None
    event: str | None
    data: Any


class Parser:
    """Bytes of a stream, in any portions, to frames. `retry` is the last one told, `comments` how many came."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}
        self.retry: int | None = None
        self.comments = 0

    def feed(self, data: bytes) -> list[Frame]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            if line:
                self._field(line.decode())
            elif self._fields:
                found.append(self._frame())
        return found

    def _field(self, line: str) -> None:
        if line.startswith(":"):
            self.comments += 1
            return
        assert len(line.splitlines()) == 1, line
        name, _, value = line.partition(": ")
        if name == "retry":
            self.retry = int(value)
            return
        assert name in ("id", "event", "data"), line
        assert name not in self._fields, f"{name} stands twice in a frame"
        self._fields[name] = value

    def _frame(self) -> Frame:
        fields, self._fields = self._fields, {}
        event = fields.get("event")
        assert (event in CONTROLS) != ("id" in fields), fields
        return Frame(fields.get("id"), event, msgspec.json.decode(fields["data"]))

    @property
    def torn(self) -> bool:
        """Whether a frame is incomplete."""
        return bool(self._rest or self._fields)


class Chunked:
    """Transfer-Encoding: chunked, taken away."""

    def __init__(self) -> None:
        self._raw = b""
        self._left = 0
        self.over = False

    def feed(self, data: bytes) -> bytes:
        self._raw += data
        out = b""
        while self._raw and not self.over:
            if self._left == 0:
                size, found, rest = self._raw.partition(b"\r\n")
                if not found:
                    break
                self._left, self._raw = int(size, 16) + 2, rest
                self.over = self._left == 2
                continue
            part = self._raw[: self._left]
            self._raw, self._left = self._raw[len(part) :], self._left - len(part)
            out += part if self._left >= 2 else part[: len(part) - (2 - self._left)]
        return out


class Stream:
    """One request and its answer, read as far as asked for."""

    def __init__(
        self, port: int, path: str, headers: dict[str, str] | None = None, *, buffer: int | None = None
    ) -> None:
        self._socket = socket.socket()
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(("127.0.0.1", port))
        lines = [f"GET {path} HTTP/1.1", "Host: t", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._chunked = Chunked()
        self.parser = Parser()
        self._frames: list[Frame] = []
        self._body = b""
        self.last_id: str | None = None
        self.status, self.headers, self._raw = self._head()

    def _head(self) -> tuple[int, dict[str, str], bytes]:
        raw = b""
        while b"\r\n\r\n" not in raw:
            part = self._socket.recv(65_536)
            assert part, "no answer"
            raw += part
        head, _, rest = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split(" ")[1]), dict(line.lower().split(": ", 1) for line in lines), rest

    # -- as bytes ---------------------------------------------------------------------------------------------------

    def receive(self) -> bytes:
        """Some bytes of the body; empty at its end."""
        while not self._chunked.over:
            raw, self._raw = self._raw or self._socket.recv(65_536), b""
            if not raw:
                return b""
            if body := self._chunked.feed(raw):
                return body
        return b""

    def take(self, count: int) -> bytes:
        """Exactly so many bytes of the body, or what there is until its end."""
        while len(self._body) < count and (part := self.receive()):
            self._body += part
        taken, self._body = self._body[:count], self._body[count:]
        return taken

    def some(self, most: int, patience: float = 0.1) -> bytes:
        """1 to `most` bytes of the body; empty when none came within `patience` seconds."""
        if not self._body:
            self._socket.settimeout(patience)
            try:
                self._body = self.receive()
            except TimeoutError:
                return b""
            finally:
                self._socket.settimeout(PATIENCE)
        return self.take(min(most, len(self._body)))

    def whole(self) -> bytes:
        """The rest of the body, until the server ends it."""
        return self.take(2**62)

    @property
    def ended_well(self) -> bool:
        """Whether the answer came to its end, instead of being cut."""
        return self._chunked.over

    # -- as frames --------------------------------------------------------------------------------------------------

    def next(self) -> Frame | None:
        """The next frame; None at the end."""
        while not self._frames:
            part, self._body = self._body or self.receive(), b""
            if not part:
                return None
            self._frames += self.parser.feed(part)
        frame = self._frames.pop(0)
        self.last_id = frame.id or self.last_id
        return frame

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.next()) is not None:
            yield frame

    def until(self, event: str) -> list[Frame]:
        """All frames up to a control frame, which is the last of them."""
        found = []
        for frame in self:
            found.append(frame)
            if frame.event == event:
                return found
        raise AssertionError(f"the stream ended without {event}; it had {[frame.event for frame in found]}")

    def events(self, count: int) -> list[dict[str, Any]]:
        """The next so many events; control frames are skipped."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            frame = self.next()
            assert frame is not None, f"the stream ended after {len(found)} of {count} events"
            if frame.event is None:
                found.append(frame.data)
        return found

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


@contextmanager
def stream(port: int, path: str, headers: dict[str, str] | None = None, **options: Any) -> Iterator[Stream]:
    opened = Stream(port, path, headers, **options)
    try:
        yield opened
    finally:
        opened.close()


def chained(events: Iterable[dict[str, Any]], start: str) -> list[int]:
    """The positions of events whose `prev` leads from one to the next, beginning at a cursor; fails otherwise."""
    positions = []
    for event in events:
        assert event["prev"] == start, f"position {event['position']} follows {event['prev']}, expected {start}"
        start = event["cursor"]
        positions.append(event["position"])
    return positions
