"""The database's sieve lets every hit through, whatever the language and whatever JSON makes of it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from projections.audit_text import folded, says, sieve, texts_of

LETTERS = st.sampled_from("aAzZéÉäÄßẞüÜжЖσΣςİiIıKkſSs推送 %_\\\"'\n\t\x07\x1f/.*[](){}|^$?+-😀")
TEXT = st.text(LETTERS | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NEEDLE = TEXT.filter(bool)

_encode = msgspec.json.Encoder(order="sorted").encode


def lets_through(needle: str, data: dict[str, Any]) -> bool:
    name, value = sieve(needle)
    stored = _encode(data).decode()
    return value in stored if name == "text" else re.search(value, stored) is not None


@given(before=TEXT, needle=NEEDLE, after=TEXT, swapped=st.booleans())
def test_what_holds_the_text_is_never_sieved_out(before: str, needle: str, after: str, swapped: bool) -> None:
    wanted = needle.swapcase() if swapped and folded(needle.swapcase()) == folded(needle) else needle
    for data in ({"message": before + needle + after}, {"error": {"stack": before + needle + after}}):
        assert says(data, folded(wanted))
        assert lets_through(wanted, data)


@given(needle=NEEDLE, text=TEXT)
def test_a_hit_is_let_through_and_what_is_not_let_through_is_none(needle: str, text: str) -> None:
    data = {"message": text, "metadata": {needle: needle}}
    if says(data, folded(needle)):
        assert lets_through(needle, {"message": text})


@given(text=TEXT)
def test_folding_is_character_by_character_and_final(text: str) -> None:
    assert len(folded(text)) == len(text)
    assert folded(folded(text)) == folded(text)
    assert folded(text) == "".join(folded(character) for character in text)


@given(needle=NEEDLE)
def test_a_pattern_has_no_operators(needle: str) -> None:
    name, value = sieve(needle)
    if name == "pattern":
        assert re.sub(r"\\[^\w\s]|\\ |\[..\]|[\w]|[^\x00-\x7f]|\\\x7f", "", value) == ""


def test_odd_data_is_looked_through_without_a_stumble() -> None:
    data = {"message": 7, "error": "x", "steps": [7, {"label": 7}, {"label": "ok"}], "title": None}
    assert list(texts_of(data)) == ["ok"]
