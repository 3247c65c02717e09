"""Relays as processes that die at a point, a Valkey that a test may break, and the check that nothing was harmed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import redis

from api.embedded.binaries import _valkey_candidates
from eventstore.events import NewEvent
from eventstore.store import EventStore
from eventstore.wire import encode_event, stream_key

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds
R = TypeVar("R")


def until(wanted: Callable[[], R], patience: float = PATIENCE) -> R:
    """What `wanted` gives as soon as it is true; fails if that never happens."""
    end = time.monotonic() + patience
    while True:
        found = wanted()
        if found:
            return found
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def noted(message: str = "x") -> NewEvent:
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


def append(store: EventStore, count: int, job_id: str = "job:1") -> int:
    """Append notes; the position of the last one."""
    last = 0
    for start in range(0, count, 1_000):
        last = store.append(job_id, [noted(f"{n} 推送") for n in range(start, min(start + 1_000, count))])[-1].position
    return last


def published(client: redis.Redis, log: str = "default", epoch: int = 1) -> int:
    """The position of the last entry; 0 without one, or while nobody can be asked."""
    try:
        found: Any = client.xrevrange(stream_key(log, epoch), count=1)
    except (redis.RedisError, OSError):
        return 0
    return int(found[0][0].split(b"-")[0]) if found else 0


def until_published(client: redis.Redis, position: int, *, log: str = "default", epoch: int = 1) -> None:
    until(lambda: published(client, log, epoch) >= position)


def check(store: EventStore, client: redis.Redis, *, first: int = 1) -> None:
    """The stream is the log from `first` to its head: same order, no gap, no duplicate, same JSON."""
    head = store.head()
    entries: Any = client.xrange(stream_key(store.log, head.epoch))
    assert [entry_id for entry_id, _ in entries] == [b"%d-0" % n for n in range(first, head.position + 1)]
    events = [event for page in store.replay(first - 1) for event in page]
    for (_, fields), event in zip(entries, events, strict=True):
        raw = encode_event(event, head.epoch)
        cursor = f"{head.epoch:04d}_{event.position:016d}_{event.hash.hex()[:8]}"
        assert fields == {b"job": event.job_id.encode(), b"cursor": cursor.encode(), b"event": raw}


class RelayProcess:
    """`python -m tests.support.relay_process`; `point`, `count`: at its n-th pass there it sends itself `number`."""

    def __init__(
        self, database_url: str, redis_url: str, point: str = "", count: int = 1, number: int = signal.SIGKILL
    ) -> None:
        arguments = [database_url, redis_url, point, str(count), str(int(number))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.relay_process", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def wait_for_start(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stopped(self) -> bool:
        """Whether it is suspended by a signal (Linux: state T)."""
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def relays(*arguments: tuple[Any, ...]) -> Iterator[list[RelayProcess]]:
    """Relay processes, started, and ended whatever happens."""
    started: list[RelayProcess] = []
    try:
        for given in arguments:
            started.append(RelayProcess(*given))
        for relay in started:
            relay.wait_for_start()
        yield started
    finally:
        for relay in started:
            relay.end()


class OwnValkey:
    """A Valkey of a test's own, without persistence unless `options` ask for it."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._folder, self._options = folder, options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url, protocol=2, socket_timeout=10)

    def start(self, *, wait: bool = True) -> None:
        program = next(iter(_valkey_candidates())).path
        self._process = subprocess.Popen(
            [
                program,
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                self._folder,
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if wait:
            until(self.answers)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.RedisError, OSError):
            return False

    def send(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        self.client.close()
        self.kill()


@contextmanager
def own_valkey(*options: str) -> Iterator[OwnValkey]:
    folder = Path(tempfile.mkdtemp(prefix="headway-valkey-"))
    valkey = OwnValkey(folder, *options)
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.end()
        shutil.rmtree(folder, ignore_errors=True)
