"""`headway serve` as a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.sessions import wait_until

HEADWAY = Path(sys.executable).with_name("headway")
OURS = ("DATABASE_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONPATH")


class ServeProcess:
    """`err` is what it wrote on stderr until now."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        kept = {
            name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("HEADWAY_")
        }
        self.process = subprocess.Popen(
            [HEADWAY, "serve", "--port", "0", *arguments],
            env=kept | environ, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(self.process.stderr)

    @property
    def err(self) -> str:
        return "".join(self._lines)

    def wait_for_start(self) -> str:
        """The address, once it listens."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended: {self.process.wait(15)} {self.err}"
        self.url = json.loads(line)["listening"]
        return self.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code; waits for the end."""
        code = self.process.wait(60)
        self._reader.join(15)
        return code

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.send(signal.SIGTERM)
        return self.ended()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(15)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def refuses(self) -> bool:
        """Whether it takes no new connections any more."""
        try:
            httpx.get(f"{self.url}/healthz", timeout=5)
        except httpx.HTTPError:
            return True
        return False

    def until(self, text: str) -> None:
        """Wait until it has logged this."""
        wait_until(lambda: text in self.err, f"it logs {text!r}; so far {self.err}")


@contextmanager
def serve_processes() -> Iterator[list[ServeProcess]]:
    """A list for processes that are ended whatever happens."""
    started: list[ServeProcess] = []
    try:
        yield started
    finally:
        for process in started:
            process.end()
