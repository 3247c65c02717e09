"""The client's parser of server-sent events: the rules of the HTML standard, wherever the bytes are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.client.errors import BadAnswer
from headway.client.sse import Frame, Parser

SAMPLE = (
    "\ufeffretry: 2000\r\n: hello\r\n\r\n"
    'event: snapshot\rdata: {"推": "送"}\r\r'
    "id: 1\ndata: a\ndata:b\ndata\n\n"
    "id: 2\r\n\r\ndata: 💥\r\ndata: 💥\r\n\nid\ndata:  two spaces\n\n"
    "retry: soon\nid: nul\0\nunknown: x\ndata: last: one\n\nid: 9\ndata: never whole"
).encode()


def naive(raw: bytes) -> tuple[list[Frame], int | None]:
    """The standard, word by word, over the whole text at once."""
    text = raw.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    frames: list[Frame] = []
    event, data, last, retry = "", "", "", None
    for line in lines:
        if line == "":
            if data != "":
                frames.append(Frame(event or "message", data.removesuffix("\n"), last))
            event, data = "", ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last = value
        elif name == "retry" and re.fullmatch("[0-9]{1,11}", value):
            retry = int(value)
    return frames, retry


def parsed(chunks: list[bytes]) -> tuple[list[Frame], int | None]:
    parser = Parser()
    return [frame for chunk in chunks for frame in parser.feed(chunk)], parser.retry


def test_the_sample_is_read_as_the_standard_says() -> None:
    frames, retry = parsed([SAMPLE])
    assert retry == 2000
    assert frames == [
        Frame("snapshot", '{"推": "送"}', ""),
        Frame("message", "a\nb\n", "1"),
        Frame("message", "💥\n💥", "2"),
        Frame("message", " two spaces", ""),
        Frame("message", "last: one", ""),
    ]


def test_a_stream_cut_at_any_byte_is_the_same_stream() -> None:
    for cut in range(len(SAMPLE) + 1):
        assert parsed([SAMPLE[:cut], SAMPLE[cut:]]) == naive(SAMPLE), cut
    assert parsed([bytes([byte]) for byte in SAMPLE]) == naive(SAMPLE)


LINES = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from(
                [
                    "",
                    "data",
                    "data:",
                    "data: x",
                    "id: 7",
                    "id",
                    "event: gap",
                    "retry: 10",
                    "retry: -1",
                    ": ping",
                    "\ufeff",
                ]
            ),
            st.text(alphabet="dataid: 推\0\ufeff送\u2028\x85x", max_size=8),
        ),
        st.sampled_from(["\n", "\r", "\r\n"]),
    ),
    max_size=20,
)


@given(lines=LINES, bom=st.booleans(), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_stream_in_any_pieces_is_read_as_the_standard_says(
    lines: list[tuple[str, str]], bom: bool, cuts: list[int]
) -> None:
    raw = (("\ufeff" if bom else "") + "".join(line + end for line, end in lines)).encode()
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    assert parsed([raw[a:b] for a, b in pairwise(places)]) == naive(raw)


@given(raw=st.binary(max_size=60), cut=st.integers(0, 60))
def test_bytes_that_are_no_text_are_read_too(raw: bytes, cut: int) -> None:
    raw = b"data: " + raw + b"\n\ndata: next\n\n"
    assert parsed([raw[:cut], raw[cut:]])[0][-1] == Frame("message", "next", parsed([raw])[0][-1].last_id)


@pytest.mark.parametrize("sent", [b"data: " + b"x" * 99, b"data: xxxxxxxxxxxxxxx\n" * 9, b"id: 1\n" * 40])
def test_a_frame_that_grows_without_end_is_refused(sent: bytes) -> None:
    parser = Parser(max_frame=80)
    with pytest.raises(BadAnswer) as refused:
        for start in range(0, len(sent), 10):
            parser.feed(sent[start : start + 10])
    assert refused.value.code == "frame_too_long"


def test_heartbeats_for_ever_and_many_frames_are_no_long_frame() -> None:
    parser = Parser(max_frame=80)
    for _ in range(100):
        assert parser.feed(b": heartbeat of the server\n") == []
        assert len(parser.feed(b"data: " + b"x" * 60 + b"\n\n")) == 1
