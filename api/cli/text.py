"""Text that people or their programs wrote, made fit for a terminal. Nothing they wrote may act on it.

A message can hold escape sequences that clear the screen, set the clipboard or the window's title, a carriage return
that overwrites what stands there, or direction marks that make it read backwards (CWE-150). All of these are shown
as what they are: `\\x1b[2J`, `\\r` as `\\x0d`, `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import Final

_C0_C1: Final = "\x00-\x1f\x7f-\x9f"
_BUT_LINES_AND_TABS: Final = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_BIDI: Final = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_ODD: Final = "\u2028\u2029\u206a-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0001"
_LINE: Final = re.compile(f"[{_C0_C1}{_BIDI}{_ODD}]")
_BLOCK: Final = re.compile(f"[{_BUT_LINES_AND_TABS}{_BIDI}{_ODD}]")


def _named(found: re.Match[str]) -> str:
    point = ord(found[0])
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def visible(text: str) -> str:
    """`text` on one line: every control character, line break and direction mark written out as its number."""
    return _LINE.sub(_named, text)


def visible_block(text: str) -> str:
    """As `visible`, for texts of several lines (a stack): line feeds and tabs stay, and CRLF counts as a line feed."""
    return _BLOCK.sub(_named, text.replace("\r\n", "\n"))


def visible_json(line: str) -> str:
    """A line of JSON for a terminal: what `visible` writes out is escaped as JSON does, so it means the same."""
    return _LINE.sub(lambda found: json.dumps(found[0])[1:-1], line)


def shortened(text: str, cells: int) -> str:
    """`text` (visible already) in at most `cells` terminal columns, the cut marked by an ellipsis."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(cells - 1, 0)).rstrip() + "…" if cells else ""
