"""Server-sent events from bytes, by the rules of the HTML standard ("Interpreting an event stream")."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from headway.client.errors import BadAnswer

MAX_FRAME: Final = 32 * 1024 * 1024  # bytes; a snapshot with 10,000 steps has some

_ENDS: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class Frame(NamedTuple):
    """`event` is `message` without a name of its own. `last_id` is the id in force, of this frame or an earlier one."""

    event: str
    data: str
    last_id: str


class Parser:
    """Give it chunks as they come, cut anywhere; it gives the frames that are whole. One parser per connection.

    Lines end with CR, LF or CRLF; a byte order mark at the beginning is left out; a frame without data is none; what
    is cut off before its empty line never happened. `retry` is the server's last word on reconnecting, in ms.
    Raises `BadAnswer` for a line or a frame that grows over `max_frame` bytes.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.retry: int | None = None
        self.last_id = ""
        self._max = max_frame
        self._line: list[bytes] = []
        self._size = 0
        self._skip_lf = False
        self._first = True
        self._event = ""
        self._data: list[str] = []
        self._id = ""

    def feed(self, chunk: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if not chunk:
            return frames
        if self._skip_lf:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        # A CR at the end of a chunk ends the line now, else a frame would wait for the next one; an LF then is its own.
        self._skip_lf = chunk.endswith(b"\r")
        lines = _ENDS.split(chunk)
        rest = lines.pop()
        for line in lines:
            self._grow(len(line))
            frame = self._take(b"".join((*self._line, line)) if self._line else line)
            self._line.clear()
            if frame is not None:
                frames.append(frame)
        if rest:
            self._grow(len(rest))
            self._line.append(rest)
        return frames

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > self._max:
            raise BadAnswer(f"a frame of the stream is longer than {self._max:,} bytes", code="frame_too_long")

    def _take(self, raw: bytes) -> Frame | None:
        if self._first:
            self._first = False
            raw = raw.removeprefix(_BOM)
        if not raw:
            return self._dispatch()
        field, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match field:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) < 12:
                self.retry = int(value)
            case "":
                if not self._data:
                    self._size = 0
            case _:
                pass
        return None

    def _dispatch(self) -> Frame | None:
        self.last_id = self._id
        event, data, self._event, self._data, self._size = self._event, self._data, "", [], 0
        return Frame(event or "message", "\n".join(data), self.last_id) if data else None
