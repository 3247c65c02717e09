"""Looking for a text in what people wrote, in any language: `推送` is found in `正在推送代码`, `Disk` in `DISK FULL`.

A hit is decided here, on the decoded data. The database only sieves: `data` is canonical JSON, in which each character
is written the same way wherever it stands, so a text that holds the wanted one holds its JSON form. What else holds it
(the name of a member, half of an escape) is sorted out afterwards. Salts are another column, and are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from eventstore.errors import InvalidFilter

MAX_TEXT: Final = 1_000  # characters
TEXTS: Final = ("message", "reason", "title", "label")
ERROR_TEXTS: Final = ("type", "message", "stack", "code")

_encode: Final = msgspec.json.Encoder().encode


class _Folding(dict[int, int]):
    """From a character to its small form, worked out when it is first met.

    Only where the way back is the same: `É` is found by `é`, but the Kelvin sign is no `k`, and `ß` no `SS`.
    """

    def __missing__(self, point: int) -> int:
        character = chr(point)
        small = character.lower()
        pair = len(small) == 1 and small.upper() == character
        self[point] = found = ord(small) if pair else point
        return found


_FOLDING: Final = _Folding()


def folded(text: str) -> str:
    """The text in small letters, character by character: nothing gets longer, nothing depends on its neighbours."""
    return text.translate(_FOLDING)


def texts_of(data: dict[str, Any]) -> Iterator[str]:
    """What people wrote in an event: message, reason, title, label (also of planned steps), and the whole error."""
    for name in TEXTS:
        if isinstance(text := data.get(name), str):
            yield text
    if isinstance(error := data.get("error"), dict):
        for name in ERROR_TEXTS:
            if isinstance(text := error.get(name), str):
                yield text
    if isinstance(steps := data.get("steps"), list):
        for step in steps:
            if isinstance(step, dict) and isinstance(text := step.get("label"), str):
                yield text


def says(data: dict[str, Any], wanted: str) -> bool:
    """Whether one of the event's texts holds the wanted one, which is folded already."""
    return any(wanted in folded(text) for text in texts_of(data))


def check_text(text: object, field: str = "text") -> str:
    """The text, or `InvalidFilter` for what no report can hold."""
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_TEXT:
        raise InvalidFilter(field, text, f"a text of 1 to {MAX_TEXT:,} characters")
    if "\0" in text:
        raise InvalidFilter(field, text, "a text without NUL characters: no report can hold one")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidFilter(field, text, "valid Unicode, no lone surrogates") from None
    return text


def json_form(text: str) -> str:
    """The text as it stands inside canonical JSON."""
    return _encode(text).decode()[1:-1]


def sieve(text: str) -> tuple[str, str]:
    """How the database looks for a text: `("text", needle)` where nothing has two forms, else `("pattern", regex)`.

    The regular expression has nothing but characters and pairs of them, so it is bounded, and means the same under
    every collation: what the user typed is never an operator in it.
    """
    needle = json_form(text)
    parts = [_either(character) for character in needle]
    if not any(part.startswith("[") for part in parts):
        return "text", needle
    return "pattern", "".join(parts)


def character_pairs(text: str) -> str:
    """A regular expression that finds the text whatever the case of its letters; see `sieve`."""
    return "".join(_either(character) for character in text)


def _either(character: str) -> str:
    small = folded(character)
    large = small.upper()
    if len(large) == 1 and large != small and folded(large) == small:
        return f"[{small}{large}]"
    return re.sub(r"([^\w])", r"\\\1", character, flags=re.ASCII) if character.isascii() else character
