"""A runner, or a rebuild, in a process of its own that may kill itself at a named point (`projections.applying`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from eventstore.store import EventStore
from projections import applying
from projections.rebuild_projection import rebuild_projection
from projections.runner import Runner
from tests.support.read_models import JobEvents

ROOT = Path(__file__).parents[2]


def main(what: str, database_url: str, point: str, count: str, number: str) -> None:
    left = int(count)

    def crash(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), int(number))

    applying.crash_point = crash
    print("started", flush=True)
    with EventStore(database_url, pool_size=4) as store:
        if what == "rebuild":
            rebuild_projection(store, JobEvents())
        else:
            anyio.run(Runner(store, JobEvents()).run)


@contextmanager
def running(
    what: str, database_url: str, point: str = "", count: int = 1, number: int = signal.SIGKILL
) -> Iterator[subprocess.Popen[str]]:
    """The process, started; ended at the end whatever happens. At its n-th pass of `point` it sends itself `number`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.runner_process", what, database_url, point, str(count), str(int(number))],
        cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
