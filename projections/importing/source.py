"""A file to import: bytes or lines, unpacked if it is gzip, never more of it in memory than one line."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from projections.importing.refusal import ImportRefused

MAX_LINE: Final = 1024 * 1024  # bytes; a record of the log is smaller
PIECE: Final = 64 * 1024  # bytes
STDIN: Final = "-"
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_OTHERS: Final = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it first",
}
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff")


class Source:
    """What is left of a file. `size` is its length on disk (None for a pipe), `line` the number of the last line."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name = name
        self.line = 0
        self._file = file
        self.size = os.fstat(file.fileno()).st_size if file.seekable() else None
        packed = _peek(file, 2) == _GZIP
        self._stream: Any = io.BufferedReader(gzip.GzipFile(fileobj=file), PIECE) if packed else file

    def refuse(self, what: str, line: int | None = None) -> ImportRefused:
        return ImportRefused(self.name, line, what)

    @property
    def done(self) -> int:
        """Bytes of the file on disk that were consumed."""
        return 0 if self.size is None else min(self._file.tell(), self.size)

    def start(self) -> bytes:
        """The first bytes after a byte order mark, without consuming them. Raises for what can't be read here."""
        try:
            if _peek(self._stream, 3) == _BOM:
                self._stream.read(3)
            head = _peek(self._stream, 4096)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(error) from None
        if not head:
            raise self.refuse("the file is empty")
        for magic, what in _OTHERS.items():
            if head.startswith(magic):
                raise self.refuse(f"the file is {what}")
        return head

    @property
    def is_xml(self) -> bool:
        """Whether it begins as XML does, which may be UTF-16; lines may not."""
        return _peek(self._stream, 4096).lstrip(b"\xff\xfe\0 \t\r\n").startswith(b"<")

    def pieces(self) -> Iterator[bytes]:
        """The rest, in pieces."""
        try:
            while piece := self._stream.read1(PIECE):
                yield piece
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(error) from None

    def lines(self) -> Iterator[bytes]:
        """The rest, line by line, with their ends; `line` counts along."""
        if _peek(self._stream, 2) in _WIDE:
            raise self.refuse("the text is UTF-16: save it as UTF-8")
        readline = self._stream.readline
        try:
            while text := readline(MAX_LINE + 1):
                self.line += 1
                if len(text) > MAX_LINE:
                    raise self.refuse(f"the line is longer than {MAX_LINE:,} bytes", self.line)
                yield text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> ImportRefused:
        where = f" after line {self.line}" if self.line else ""
        if isinstance(error, EOFError):
            return self.refuse(f"the gzip file ends too early{where}: it was not copied completely")
        return self.refuse(f"the gzip file is damaged{where}: get it again")


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """The file at `path`, or standard input for "-". Raises OSError."""
    if path == STDIN:
        yield Source("standard input", sys.stdin.buffer)
        return
    with open(path, "rb", PIECE) as file:
        yield Source(path, file)


def _peek(stream: Any, size: int) -> bytes:
    found: bytes = stream.peek(size)[:size]
    return found
