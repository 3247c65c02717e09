"""What answers share: who takes gzip, who knows the answer already, and downloads in pieces."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from api.answers import Body, Packer, is_known, packs
from api.requests import Exchange
from api.routes.downloads import NDJSON, PIECE, as_csv, as_ndjson, download
from api.services import Reads
from eventstore.errors import StoreBusy
from eventstore.events import RecordedEvent
from eventstore.wire import encode_event


def exchange(**headers: str) -> Exchange:
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": given, "query_string": b""}
    return Exchange(scope, None, None, "r")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "takes"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("GZIP", True), ("gzip;q=0", False), ("identity", False),
     ("*, gzip;q=0", False), ("gzip;q=x", False), ("", False), ("*;q=0", False)],
)  # fmt: skip
def test_gzip_is_for_who_asks_for_it(given: str, takes: bool) -> None:
    assert packs(exchange(accept_encoding=given)) == takes


def test_without_the_header_nothing_is_packed() -> None:
    assert not packs(exchange())


@pytest.mark.parametrize(
    ("given", "known"),
    [('W/"a"', True), ('"a"', True), ('"b", W/"a"', True), ("*", True), ('"b"', False), ("a", False), ("", False)],
)
def test_a_tag_is_known_by_weak_comparison(given: str, known: bool) -> None:
    assert is_known(exchange(if_none_match=given), 'W/"a"') == known


def test_a_body_is_packed_only_where_that_helps_and_keeps_its_tag() -> None:
    small, large = b"x" * 100, b"x" * 10_000
    assert Body(small, pack=True).content == small
    assert gzip.decompress(Body(large, pack=True).content) == large
    assert Body(large, pack=True).tag == Body(large, pack=False).tag != Body(small, pack=False).tag


def test_each_piece_of_a_packed_stream_can_be_read_at_once() -> None:
    packer, reader = Packer(), zlib.decompressobj(wbits=31)
    for piece in (b"one\n", b"", b"two\n" * 1_000):
        assert reader.decompress(packer.add(piece)) == piece
    reader.decompress(packer.end())
    assert reader.eof


def event(number: int, size: int) -> RecordedEvent:
    data = b'{"message":"%b"}' % (b"x" * size)
    return RecordedEvent(
        number, "a", number, bytes(16), "job.noted", None, None, None, data, True, None, 0, None, None, 0, bytes(32)
    )


def test_pieces_are_bounded_however_large_the_events_and_hold_each_once() -> None:
    pages = [[event(number, 60_000) for number in range(1, 41)], [], [event(41, 1)]]
    pieces = list(as_ndjson(iter(pages), 1))
    lines = b"".join(pieces).splitlines()
    assert lines == [encode_event(each, 1) for page in pages for each in page]
    assert max(map(len, pieces)) < PIECE + 61_000


def test_nothing_is_made_before_it_is_asked_for() -> None:
    made = 0

    def pages() -> Iterator[list[RecordedEvent]]:
        nonlocal made
        for number in range(1, 100):
            made += 1
            yield [event(number, 10)]

    lines = as_ndjson(pages(), 1)
    assert made == 0
    next(lines)
    assert made == 1
    rows = as_csv(pages(), formulas=False)
    assert next(rows) == b"\xef\xbb\xbf" and made == 1


@pytest.mark.anyio
async def test_a_download_that_can_not_begin_says_why() -> None:
    def pieces() -> Iterator[bytes]:
        raise StoreBusy("all connections are in use")
        yield b""

    given = exchange()
    given.receive = anyio.sleep_forever  # type: ignore[assignment]
    services: Any = SimpleNamespace(stopping=anyio.Event())
    tenant: Any = SimpleNamespace(reads=Reads(1))
    with pytest.raises(StoreBusy):
        await download(services, given, tenant, pieces(), NDJSON, name="events.ndjson")
