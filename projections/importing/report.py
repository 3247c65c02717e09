"""What an import did, as numbers that add up: read = applied + rejected + known + repeated + left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

Phase = Literal["reading", "arranging", "appending"]
Progress = Callable[[Phase, int, int | None], None]
"""`progress(phase, done, total)`: bytes of the file while reading (total None: not known), events afterwards."""


class ImportReport(msgspec.Struct, kw_only=True):
    """Counts of events, unless said otherwise.

    `read` of the file; `repeated` skipped as a second copy within the file; `left_out` events of the log itself;
    `known` skipped because the log has them already; `rejected` kept in the log without effect, by reason.
    `changed` (exports only): another verdict or percentage than the export says, first in line `changed_line`.
    """

    file: str
    form: str
    prefix: str | None = None
    read: int = 0
    jobs: int = 0
    repeated: int = 0
    left_out: int = 0
    applied: int = 0
    rejected: dict[str, int] = {}
    known: int = 0
    changed: int = 0
    changed_line: int | None = None
    ignored_columns: list[str] = []
    cases_without_events: int = 0
    appended: bool = True
    seconds: float = 0.0

    @property
    def events(self) -> int:
        """How many are to be in the log at the end."""
        return self.read - self.repeated - self.left_out

    @property
    def settled(self) -> int:
        """How many of them are in the log for sure."""
        return self.applied + sum(self.rejected.values()) + self.known
