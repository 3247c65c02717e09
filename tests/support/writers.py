"""Writers as real processes: they append until told to stop, retry with the same ids, and note what they heard.

    with writers(url, log="default", folder=tmp_path) as load:
        load.until_answered(200)
        …                                  # a fault
        calls = load.stop()

Each writer notes a line before it sends a call and a line after the answer, unbuffered, so a kill -9 of the writer
itself loses no note. The notes are what `tests.support.checker` compares with the log.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.support.sessions import wait_until

PATIENCE = 40.0  # seconds that a writer tries one call


class Note(msgspec.Struct, omit_defaults=True):
    """A call of a writer: `at` is CLOCK_MONOTONIC, one clock for all processes of a machine."""

    call: str
    at: float
    ids: list[str] = []
    jobs: list[str] = []
    positions: list[int] | None = None
    duplicate: list[bool] | None = None
    tries: int = 0
    error: str | None = None


class Load:
    """Some writer processes over one log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = folder / "stop"
        self.processes: list[subprocess.Popen[bytes]] = []

    def begin(self, url: str, log: str, number: int, options: dict[str, Any]) -> None:
        for _ in range(number):
            index = len(self.processes)
            said = msgspec.json.encode({"url": url, "log": log, "seed": index, **options}).decode()
            notes = str(self._folder / f"notes-{index}.jsonl")
            command = [sys.executable, "-m", "tests.support.writers", notes, str(self._stop), said]
            self.processes.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))

    def notes(self) -> list[Note]:
        """What all writers noted so far."""
        found: list[Note] = []
        for path in sorted(self._folder.glob("notes-*.jsonl")):
            lines = path.read_bytes().split(b"\n")
            found += [msgspec.json.decode(line, type=Note) for line in lines[:-1]]
        return found

    def answered(self) -> int:
        return sum(note.positions is not None for note in self.notes())

    def until_answered(self, more: int) -> None:
        """Wait until so many more calls were answered."""
        goal = self.answered() + more

        def reached() -> bool:
            assert all(process.poll() is None for process in self.processes if process.returncode != -signal.SIGKILL)
            return self.answered() >= goal

        wait_until(reached, f"{more} more calls are answered")

    def stop(self) -> list[Note]:
        """Tell the writers to end, wait for them, and return all notes."""
        self._stop.touch()
        for process in self.processes:
            code = process.wait(timeout=PATIENCE + 5)
            assert code in (0, -signal.SIGKILL), f"a writer ended with {code}"
        return self.notes()

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def writers(url: str, *, log: str, folder: Path, number: int = 4, **options: Any) -> Iterator[Load]:
    """Start writers. Options: `jobs` (how many they share), `most` (events in a call), `progress` (fold)."""
    load = Load(folder)
    try:
        load.begin(url, log, number, options)
        yield load
    finally:
        load.end()


def write(
    notes: Path, stop: Path, *, url: str, log: str, seed: int, jobs: int = 5, most: int = 4, progress: bool = False
) -> None:
    """One writer, until the stop file is there."""
    from eventstore.errors import EventStoreError
    from eventstore.events import NewEvent
    from eventstore.store import EventStore
    from projections.progress import Progress

    seeded = random.Random(seed)
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(**fields: Any) -> None:
        os.write(out, msgspec.json.encode(Note(at=time.monotonic(), **fields)) + b"\n")

    with EventStore(url, log=log, pool_size=1, projection=Progress() if progress else None) as store:
        while not stop.exists():
            name = f"job:{seeded.randrange(jobs)}"
            events = [
                NewEvent(
                    type="step.progressed", step=f"s{seeded.randrange(3)}", data={"percent": seeded.randrange(100)},
                    event_id=uuid.uuid4(),
                )
                for _ in range(seeded.randint(1, most))
            ]  # fmt: skip
            call = uuid.uuid4().hex
            note(call=call, ids=[str(e.event_id) for e in events], jobs=[name] * len(events))
            deadline, tries, again = time.monotonic() + PATIENCE, 0, seeded.random() < 0.05
            while True:
                tries += 1
                try:
                    answers = store.append(name, events, timeout=5)
                except EventStoreError as error:
                    if not error.retryable or time.monotonic() > deadline:
                        note(call=call, tries=tries, error=f"{type(error).__name__}: {error}")
                        raise
                    time.sleep(seeded.uniform(0.005, 0.05))
                    continue
                positions, duplicate = [a.position for a in answers], [a.duplicate for a in answers]
                note(call=call, tries=tries, positions=positions, duplicate=duplicate)
                if not again:
                    break
                again = False


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    write(Path(sys.argv[1]), Path(sys.argv[2]), **msgspec.json.decode(sys.argv[3]))
