"""Rows on their way, in a temporary file: written in any order, read in ascending order, in bounded memory.

An external merge sort. What is read twice, or sorted, is this copy: so a file that changes meanwhile, or a pipe that
can't be read again, changes nothing. The file has no name, so nothing is left behind whatever happens.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Final

import msgspec

CHUNK: Final = 16_384  # rows sorted in memory
BLOCK: Final = 64  # rows decoded at once, of each sorted run

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[tuple[Any, ...]]).decode


class Spool:
    """Tuples of integers, texts, bytes and None that differ before the first None; compared as Python does."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="headway-import-")  # noqa: SIM115 - closed by close()
        self._chunk: list[tuple[Any, ...]] = []
        self._runs: list[tuple[int, int]] = []
        self._last: tuple[Any, ...] | None = None
        self._end = 0
        self.rows = 0

    def add(self, row: tuple[Any, ...]) -> None:
        """Raises OSError when the temporary folder is full."""
        self._chunk.append(row)
        self.rows += 1
        if len(self._chunk) >= CHUNK:
            self._flush()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        self._flush()
        readers = [self._read(start, end) for start, end in self._runs]
        return readers[0] if len(readers) == 1 else heapq.merge(*readers)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        chunk, self._chunk = self._chunk, []
        if not chunk:
            return
        chunk.sort()
        start = self._end
        for first in range(0, len(chunk), BLOCK):
            block = _encode(chunk[first : first + BLOCK])
            self._file.write(len(block).to_bytes(4, "big"))
            self._file.write(block)
            self._end += 4 + len(block)
        self._file.flush()
        if self._last is not None and chunk[0] > self._last:
            start = self._runs.pop()[0]
        self._runs.append((start, self._end))
        self._last = chunk[-1]

    def _read(self, start: int, end: int) -> Iterator[tuple[Any, ...]]:
        file = self._file.fileno()
        while start < end:
            size = int.from_bytes(os.pread(file, 4, start), "big")
            yield from _decode(os.pread(file, size, start + 4))
            start += 4 + size
