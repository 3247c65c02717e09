"""Other processes that use embedded servers, as scripts of a test: asked line by line, killed when the test says so."""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from api.embedded import janitor

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds

USER = r"""
import json, os, pathlib, signal, subprocess, sys
sys.path.insert(0, sys.argv[1])
from api import embedded

leases = []
for line in sys.stdin:
    verb, where, options = json.loads(line)
    seen = []
    def progress(text):
        seen.append(text)
        if options.get("die_at", "\0") in text:
            os.kill(os.getpid(), signal.SIGKILL)
    options_for_start = {k: v for k, v in options.items() if k != "die_at"}
    try:
        if verb == "start":
            leases.append(embedded.start(where, progress=progress, **options_for_start))
            said = leases[-1].servers
        elif verb == "ensure_running":
            said = leases[-1].ensure_running()
        elif verb == "close":
            said = leases.pop().close()
        elif verb == "up":
            said = embedded.up(where, progress=progress)
        elif verb == "down":
            said = embedded.down(where)
        elif verb == "running":
            said = embedded.running(where)
        elif verb == "default":
            said = str(embedded.default_data_dir())
        elif verb == "fork":
            said = os.fork()
            if said == 0:
                signal.pause()
        elif verb == "spawn":
            said = subprocess.Popen(["/bin/sleep", "600"], close_fds=False).pid
        elif verb == "cache":
            from api.embedded import binaries
            binaries.CACHE = pathlib.Path(where)
            said = None
        elif verb == "modules":
            said = sorted(sys.modules)
    except embedded.EmbeddedError as error:
        said = {"error": type(error).__name__, "text": str(error)}
    if isinstance(said, embedded.Servers):
        said = {"database_url": said.database_url, "redis_url": said.redis_url, "data_dir": said.data_dir}
    print(json.dumps({"said": said, "seen": seen}), flush=True)
"""


@functools.cache
def python_for(uid: int, gid: int) -> tuple[str, str] | None:
    """An interpreter that user can execute, and the PYTHONPATH it needs; None when this environment is closed to it."""
    if uid == os.geteuid():
        return sys.executable, ""
    packages = str(Path(msgspec.__file__).parents[1])
    for program in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run(
                [program, "-c", "import msgspec"], check=True, capture_output=True, cwd="/",
                env={"PYTHONPATH": packages}, user=uid, group=gid, extra_groups=[],
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        return program, packages
    return None


def accounts() -> list[str]:
    """The users that tests run as here: this one, and for root a plain one too."""
    nobody = pwd.getpwnam("nobody")
    plain = ["nobody"] if os.geteuid() == 0 and python_for(nobody.pw_uid, nobody.pw_gid) else []
    return [pwd.getpwuid(os.geteuid()).pw_name, *plain]


class User:
    """A process of its own that calls `api.embedded`; by default as the account that the data folder belongs to."""

    def __init__(
        self, folder: Path, *, before: list[str] | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.seen: list[str] = []
        owner = folder.stat()
        other = (
            {} if owner.st_uid == os.geteuid() else {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        )
        python = python_for(owner.st_uid, owner.st_gid)
        assert python is not None
        self.process = subprocess.Popen(
            [*(before or []), python[0], "-c", USER, str(ROOT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", bufsize=1,
            env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": python[1], **(environment or {})}, **other,
        )  # fmt: skip

    def tell(self, verb: str, where: Path | None = None, /, **options: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([verb, str(where or self.folder), options]) + "\n")

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.end()
            return "dead"
        answer = json.loads(line)
        self.seen = answer["seen"]
        return answer["said"]

    def ask(self, verb: str, where: Path | None = None, /, **options: Any) -> Any:
        self.tell(verb, where, **options)
        return self.answer()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()


def processes(folder: Path) -> dict[int, str]:
    """Every living process that works in the folder or has it in its command line: pid and command line."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid() or not janitor.started_at(int(entry)):
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            working = os.readlink(f"/proc/{entry}/cwd")
        except OSError:
            continue
        if f"{folder}/" in f"{command} " or f"{folder} " in command or working.startswith(str(folder)):
            found[int(entry)] = command
    return found


def pid_of(folder: Path, server: str) -> int:
    """The process number of the folder's `postgres` or `valkey` as noted, or of its `janitor`."""
    if server == "janitor":
        (pid,) = [pid for pid, command in processes(folder).items() if f"janitor.py watch {folder} " in command]
        return pid
    return int(json.loads((folder / "servers.json").read_text())[server]["pid"])


def kill(pid: int) -> None:
    started = janitor.started_at(pid)
    os.kill(pid, signal.SIGKILL)
    assert janitor.gone(pid, started, PATIENCE)


@contextmanager
def bystander(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the servers, of the user that they run as."""
    owner = (folder / "postgres").stat()
    other: dict[str, Any] = {}
    if owner.st_uid != os.geteuid():
        other = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    with subprocess.Popen(["/bin/sleep", "600"], cwd="/", **other) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def data_folder(account: str) -> Iterator[Path]:
    """A new data folder of `account`; at the end nothing may run in it any more, and it is removed."""
    home = Path(tempfile.mkdtemp(prefix="headway-embedded-")).resolve()
    folder = home / "data"
    home.chmod(0o755)
    folder.mkdir(mode=0o711)
    entry = pwd.getpwnam(account)
    if entry.pw_uid != os.geteuid():
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    try:
        yield folder
        wait_until(lambda: not processes(folder))
    finally:
        end_all(folder)
        shutil.rmtree(home, ignore_errors=True)


def end_all(folder: Path) -> None:
    for pid in processes(folder):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes(folder))


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM kept ORDER BY n")]


def add(url: str, n: int) -> None:
    """Commit a row; the first one, 1, makes the table anew."""
    with psycopg.connect(url) as connection:
        if n == 1:
            connection.execute("DROP TABLE IF EXISTS kept")
            connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [n])


def works(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT current_user, current_database()").fetchone() == ("headway", "headway")


ME = pwd.getpwuid(os.geteuid()).pw_name
IS_ROOT = os.geteuid() == 0
ACCOUNTS = accounts()
as_every_user = pytest.mark.parametrize("folder", ACCOUNTS, indirect=True)
only_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
