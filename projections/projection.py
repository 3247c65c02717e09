"""An asynchronous projection: a read model that follows the log, in tables of its own.

    class StepsDone(Projection):
        name, version = "steps_done", 1
        tables = ("CREATE TABLE steps_done (log_id smallint, job_id text, n int, PRIMARY KEY (log_id, job_id))",)
        applied_only = True

        def handle(self, conn, events):
            for event in events:
                if event.type == "step.completed":
                    conn.execute(ADD_ONE, {"log_id": events.log_id, "job_id": event.job_id})

A `Runner` calls `handle` (projections/runner.py); the effect and the checkpoint commit together, so each event counts
once, whatever crashes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

import sqlalchemy as sa

from eventstore.errors import EventStoreError
from eventstore.events import RecordedEvent

NAME: Final = re.compile(r"(?!progress\Z)[a-z][a-z0-9_]{0,39}")
"""`progress` is what the command line calls the step table."""


class ProjectionError(EventStoreError):
    """A projection can't be run as it is. The text says why and what to do."""

    code: ClassVar[str] = "projection_error"


class ProjectionOutdated(ProjectionError):
    """Another version of the projection is live: `live`; this program has `ours`."""

    code = "projection_outdated"

    def __init__(self, name: str, ours: int, live: int) -> None:
        super().__init__(
            f"projection {name}: version {live} is live, this program has version {ours}: run the newer program, or"
            f" `headway rebuild {name} --rollback` with this one"
        )
        self.name, self.ours, self.live = name, ours, live


class Events(list[RecordedEvent]):
    """Events of one log, in order, without holes but for what the projection does not want.

    `log_id` is the first column of every key in a projection's tables; `log` is the log's name.
    """

    def __init__(self, events: Iterable[RecordedEvent], *, log: str, log_id: int) -> None:
        super().__init__(events)
        self.log, self.log_id = log, log_id


class Projection(ABC):
    """What a read model brings: a name, a version, its tables, and a handler.

    `name`: `[a-z][a-z0-9_]`, up to 40 characters. `version`: raise it when tables or meaning change; the new version
    is filled from the start, beside the live one, and takes its place when it has caught up. `tables`: statements that
    make tables, indexes and views under unqualified names; nothing else. Tables begin their keys with `log_id`.
    `applied_only`: leave out the reports that do not count.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    tables: ClassVar[Sequence[str]]
    applied_only: ClassVar[bool] = False

    @abstractmethod
    def handle(self, conn: sa.Connection, events: Events) -> None:
        """Take 1 to 1,000 events into the tables, by `conn` alone, and leave its transaction open.

        The outcome must not depend on how the log was cut into batches. Whatever is raised undoes the batch; it is
        tried again, then event by event, and what fails alone is parked (`headway parked`).
        """


def check_projection(projection: Projection) -> Projection:
    """The projection itself. Raises `ProjectionError` if its name, version or tables break the rules."""
    kind = type(projection).__qualname__
    name, version, tables = (getattr(projection, field, None) for field in ("name", "version", "tables"))
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        rule = "a-z, 0-9 and _, beginning with a letter, up to 40, not `progress`"
        raise ProjectionError(f"{kind}.name: {rule}; given {name!r}")
    if type(version) is not int or version < 1:
        raise ProjectionError(f"{kind}.version: a whole number from 1; given {version!r}")
    if isinstance(tables, str) or not isinstance(tables, Sequence) or not tables:
        raise ProjectionError(f"{kind}.tables: a tuple of statements that make the tables; given {tables!r}")
    return projection


def checkpoint_of(name: str, version: int, role: str = "live") -> str:
    """The name under which a set of a projection's tables keeps its checkpoint."""
    return f"projection:{name}:v{version}" + ("" if role == "live" else f":{role}")
