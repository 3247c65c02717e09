"""The cursor: what a consumer keeps. It means "everything up to here is mine; next, please".

`EEEE_PPPPPPPPPPPPPPPP_HHHHHHHH`: epoch, position, first 8 hex digits of the chain hash there. Sorts as text.
"""

from __future__ import annotations

import enum
import re
from typing import Final

import msgspec

from eventstore.errors import InvalidCursor

_FULL: Final = re.compile(r"([0-9]{4,9})_([0-9]{16})_([0-9a-f]{8})")
_BARE: Final = re.compile(r"0|[1-9][0-9]{0,15}")
MAX_POSITION: Final = 2**53


class Where(enum.Enum):
    """A start that needs no position."""

    START = "start"
    NOW = "now"


START: Final = Where.START
NOW: Final = Where.NOW


class Cursor(msgspec.Struct, frozen=True):
    """A place in a log. Without `epoch` and `hash8` it is a bare position that can't be checked for divergence."""

    position: int
    epoch: int | None = None
    hash8: str | None = None

    def __str__(self) -> str:
        if self.epoch is None or self.hash8 is None:
            return str(self.position)
        return format_cursor(self.epoch, self.position, self.hash8)


def format_cursor(epoch: int, position: int, hash8: str) -> str:
    return f"{epoch:04d}_{position:016d}_{hash8}"


def parse_cursor(text: str | int | Cursor | Where | None) -> Cursor | Where:
    """A cursor from what a caller may give. `None`, empty and -1 are the start; `now` is the end.

    Raises `InvalidCursor` for anything else than a cursor or a bare position up to 2^53: no spaces, signs or exponents.
    """
    match text:
        case Cursor() | Where():
            return text
        case None | "" | "-1":
            return START
        case "now":
            return NOW
        case bool():
            raise InvalidCursor(text)
        case int():
            if text == -1:
                return START
            if 0 <= text <= MAX_POSITION:
                return Cursor(text)
        case str():
            if text.isascii() and _BARE.fullmatch(text) and int(text) <= MAX_POSITION:
                return Cursor(int(text))
            if text.isascii() and (found := _FULL.fullmatch(text)) and int(found[2]) <= MAX_POSITION:
                return Cursor(int(found[2]), int(found[1]), found[3])
    raise InvalidCursor(text)
