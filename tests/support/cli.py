"""The command line as a function: in this process, with an environment of its own."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from api.cli import run
from eventstore.events import Appended, NewEvent
from eventstore.store import EventStore
from projections.progress import Progress

OURS = ("DATABASE_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS")


class Said(msgspec.Struct, frozen=True):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Cli:
    """`cli("tail", "--json")` runs it and gives what was said; `code` is the exit code that is expected."""

    def __init__(self, **environ: str) -> None:
        kept = {
            name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("HEADWAY_")
        }
        self.environ = kept | environ

    def __call__(self, *args: str, code: int = 0, typed: bytes = b"", **environ: str) -> Said:
        out, err = (TextIOWrapper(BytesIO(), encoding="utf-8") for _ in range(2))
        with (
            patch.dict(os.environ, self.environ | environ, clear=True),
            patch.multiple(sys, stdin=TextIOWrapper(BytesIO(typed)), stdout=out, stderr=err),
        ):
            ended = run(list(args))
            for stream in (out, err):
                stream.flush()
        said = Said(ended, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]
        assert ended == code, f"headway {' '.join(args)} ended with {ended}, not {code}: {said.err or said.out}"
        assert "Traceback" not in said.err, said.err
        return said


Report = Callable[..., Appended]


@pytest.fixture
def log() -> str:
    """A log of the test's own in a database that tests share: much cheaper than a database."""
    return f"log-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def store(shared_database: str, log: str) -> Iterator[EventStore]:
    with EventStore(shared_database, log=log, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def cli(shared_database: str, store: EventStore) -> Cli:
    """The command line on the test's log, without Redis."""
    return Cli(DATABASE_URL=shared_database, HEADWAY_LOG=store.log)


@pytest.fixture
def own(database_url: str) -> Iterator[EventStore]:
    """The log `default` of a database of the test's own, to do with as it likes."""
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def report(store: EventStore) -> Report:
    """`report("job:1", "step.started", "build", message="…")` appends an event."""
    return reporter(store)


def reporter(store: EventStore) -> Report:
    def append(job: str, kind: str, step: str | None = None, /, **data: Any) -> Appended:
        (answer,) = store.append(job, [NewEvent(type=kind, step=step, data=data)])
        return answer

    return append
