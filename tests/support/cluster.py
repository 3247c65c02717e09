"""A PostgreSQL of one test's own, that the test may stop, kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from api import embedded
from api.embedded.folder import prepare
from api.embedded.servers import Lease, wait_stopped
from tests.support.sessions import wait_until


class Cluster:
    """`url` stays the same over restarts."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.url = lease.servers.database_url

    @property
    def pid(self) -> int:
        """The postmaster."""
        return int((Path(self._lease.servers.data_dir) / "postgres/postmaster.pid").read_text().split()[0])

    def stop_immediately(self) -> None:
        """As `pg_ctl stop -m immediate`: every process ends without a word; what is not in the WAL file is lost."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """kill -9 of the postmaster; its children end when they notice."""
        self._end(signal.SIGKILL)

    def _end(self, how: int) -> None:
        pid = self.pid
        os.kill(pid, how)
        wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not _alive(pid), "PostgreSQL has ended")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP of all its processes while the block runs: connections stay open and nothing answers."""
        pids = [self.pid, *_children(self.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    def start(self) -> None:
        """Start again, and wait until it accepts connections."""
        self._lease.ensure_running()
        with psycopg.connect(self.url) as conn:
            conn.execute("SELECT 1")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def cluster(options: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="headway-cluster-")).resolve()
    try:
        with embedded.start(folder, valkey=False, options=options) as lease:
            yield Cluster(lease)
    finally:
        wait_stopped(prepare(folder))
        shutil.rmtree(folder, ignore_errors=True)
