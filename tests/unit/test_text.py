"""What somebody typed is shown, and never acts on the terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from api.cli.text import shortened, visible, visible_block, visible_json


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]52;c;aGk=\x07", r"\x1b]52;c;aGk=\x07"),
        ("\x1b]8;;http://x\x1b\\text", r"\x1b]8;;http://x\x1b\text"),
        ("done\rfail", r"done\x0dfail"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\tc\x7f", r"a\x0ab\x09c\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2066x\u2069\u200f\u061c", r"\u2066x\u2069\u200f\u061c"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff", r"\udcff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_could_act_on_a_terminal_is_written_as_its_number(typed: str, shown: str) -> None:
    assert visible(typed) == shown


@pytest.mark.parametrize("typed", ["正在创建仓库", "Grüße", "👩‍👩‍👧", "नमस्ते", "[bold]no markup[/]", r"C:\x1b"])
def test_words_of_any_language_stay_as_they_are(typed: str) -> None:
    assert visible(typed) == visible_block(typed) == typed


def test_a_stack_keeps_its_lines_and_tabs_but_not_its_escapes() -> None:
    assert visible_block("a\r\n\tb\x1b[2J\rc\x00") == "a\n\tb\\x1b[2J\\x0dc\\x00"


@given(st.text())
def test_no_control_and_no_direction_mark_is_left_of_any_text(typed: str) -> None:
    for character in visible(typed):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
    assert set(visible_block(typed)) - set(visible(typed)) <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_line_of_json_is_made_visible_without_meaning_anything_else(typed: str) -> None:
    shown = visible_json(json.dumps({"message": typed}, ensure_ascii=False))
    assert visible(shown) == shown
    assert json.loads(shown) == {"message": typed}


@given(st.text(), st.integers(0, 20))
def test_a_shortened_text_takes_no_more_columns_than_it_may(typed: str, columns: int) -> None:
    text = visible(typed)
    short = shortened(text, columns)
    assert cell_len(short) <= columns
    assert short == text or columns == 0 or short.endswith("…")


def test_wide_characters_count_as_two_columns() -> None:
    assert shortened("创建仓库完成", 7) == "创建仓…"
    assert shortened("创建仓库", 8) == "创建仓库"
