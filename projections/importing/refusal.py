"""Why an import stops.

ImportRefused      import_refused   the file can't be imported as it is; nothing was appended
ImportStopped      import_stopped   the log refused or could not be reached in between; importing again goes on
ImportInterrupted  (a KeyboardInterrupt) Ctrl-C in between; importing again goes on
"""

from __future__ import annotations

from typing import ClassVar

from eventstore.errors import printable
from projections.importing.report import ImportReport


class ImportRefused(Exception):
    """The file can't be imported as it is. `line` counts from 1 in the unpacked text; None: the file as a whole.

    `what` says what is wrong and what to do.
    """

    code: ClassVar[str] = "import_refused"
    retryable: ClassVar[bool] = False

    def __init__(self, file: str, line: int | None, what: str) -> None:
        where = file if line is None else f"{file}, line {line}"
        super().__init__(f"{printable(where, 300)}: {what}; nothing was imported")
        self.file, self.line, self.what = file, line, what


class ImportStopped(Exception):
    """Appending stopped before the end. `report` says how far it came; `retryable` whether waiting may help."""

    code: ClassVar[str] = "import_stopped"

    def __init__(self, report: ImportReport, cause: Exception) -> None:
        super().__init__(
            f"stopped after {report.settled:,} of {report.events:,} events: {cause}\n"
            "  import the same file again: it goes on there"
        )
        self.report = report
        self.retryable: bool = getattr(cause, "retryable", False)


class ImportInterrupted(KeyboardInterrupt):
    """Ctrl-C while events were appended. `report` says how far it came."""

    def __init__(self, report: ImportReport) -> None:
        super().__init__()
        self.report = report
