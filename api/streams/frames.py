"""What stands on the wire of a stream: frames of events, control frames, comments. Bytes in, bytes out.

    id: 0001_0000000000000042_9f8e7d6c
    data: {"position":42,"prev":"0001_0000000000000041_5b1c22aa","cursor":…,"job_id":…}

A frame is one line of `data`, whatever a message says: line ends are escaped by JSON, and so are here the three
characters of Unicode that some readers take for one. Names of control frames come from `Control` and nowhere else, so
nothing in an event can forge a frame.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from eventstore.cursor import Cursor
from eventstore.events import RecordedEvent
from eventstore.wire import encode_with_cursor

HEARTBEAT: Final = b": \n\n"
RETRY: Final = 2_000  # milliseconds after which a client comes back when its connection was lost
AFTER_EXPIRY: Final = 30_000  # milliseconds; the page has opened a stream with a new token by then
AFTER_END: Final = 30_000  # milliseconds; who knows `end` does not come back at all

_encode: Final = msgspec.json.Encoder().encode
_LINE_ENDS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


class Control(enum.StrEnum):
    """Frames that are no events: they have a name and no id."""

    SNAPSHOT = "snapshot"
    CAUGHT_UP = "caught_up"
    GAP = "gap"
    REAUTH = "reauth"
    END = "end"


class Frame(NamedTuple):
    """An event, ready but for its `prev`."""

    position: int
    cursor: bytes
    head: bytes
    tail: bytes

    def after(self, prev: bytes) -> bytes:
        """The frame, for a reader who has everything up to the cursor `prev`."""
        return b"%b%b%b" % (self.head, prev, self.tail)


def frame_of(event: RecordedEvent, epoch: int) -> Frame:
    cursor, raw = encode_with_cursor(event, epoch)
    first, _, rest = one_line(raw).partition(b",")
    ident = cursor.encode()
    return Frame(event.position, ident, b'id: %b\ndata: %b,"prev":"' % (ident, first), b'",%b\n\n' % rest)


def one_line(raw: bytes) -> bytes:
    """JSON that no reader breaks into lines."""
    if not raw.isascii():
        for character, escaped in _LINE_ENDS:
            if character in raw:
                raw = raw.replace(character, escaped)
    return raw


def control(name: Control, value: Any) -> bytes:
    """A control frame; `value` is encoded, or JSON already."""
    raw = value if type(value) is bytes else _encode(value)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), one_line(raw))


def retry(milliseconds: int) -> bytes:
    """When to come back: a line before a frame's lines, or before the end.

    No empty line follows it: some readers would take it for an event without data.
    """
    return b"retry: %d\n" % milliseconds


def some_time(least: float, most: float) -> bytes:
    """`retry` with a time between two, in seconds: so that those who were sent away do not come back together."""
    return retry(int(random.uniform(least, most) * 1000))  # noqa: S311 - jitter, not a secret


class Chunk:
    """The frames of one moment for all who share a filter.

    `prev` is the cursor of the frame before them. Who stands there gets bytes that were made once for everybody; for
    another cursor only the first frame differs. `at` is the place in the log after them; `status`: the job ended with
    it, or runs again; None if these events don't say. `size`: bytes, about.
    """

    __slots__ = ("_rest", "_wire", "at", "first", "frames", "last", "size", "status")

    def __init__(self, frames: Sequence[Frame], at: Cursor, *, status: str | None = None) -> None:
        self.frames, self.at, self.status = frames, at, status
        self.first = frames[0].position if frames else at.position
        self.last = frames[-1].cursor if frames else b""
        self.size = sum([len(frame.head) + len(frame.tail) for frame in frames])
        self._rest: bytes | None = None
        self._wire: dict[bytes, bytes] = {}

    def body(self, prev: bytes) -> bytes:
        """The frames for a reader whose last cursor is `prev`."""
        frames = self.frames
        if not frames:
            return b""
        if self._rest is None:
            self._rest = b"".join(frame.after(before.cursor) for before, frame in pairwise(frames))
        return frames[0].after(prev) + self._rest

    def wire(self, prev: bytes) -> bytes:
        """`body` as a chunk of HTTP/1.1."""
        found = self._wire.get(prev)
        if found is None:
            body = self.body(prev)
            found = self._wire[prev] = b"%x\r\n%b\r\n" % (len(body), body)
        return found

    def beyond(self, position: int) -> Chunk:
        """The frames after a position."""
        status = self.status if self.at.position > position else None
        return Chunk([frame for frame in self.frames if frame.position > position], self.at, status=status)
