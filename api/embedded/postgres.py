"""One PostgreSQL cluster in a data folder: made, started, found ready, recognised after a crash."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from api.embedded import janitor, launch
from api.embedded.binaries import Program
from api.embedded.errors import FolderNotYours, StartFailed
from api.embedded.folder import Folder, Process, remove_leftovers

USER = DATABASE = "headway"
SOCKET = ".s.PGSQL.5432"
SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "replica",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "logging_collector": "off",
    "log_destination": "stderr",
}
OURS = (
    "port",
    "unix_socket_directories",
    "data_directory",
    "config_file",
    "hba_file",
    "logging_collector",
    "log_destination",
)
START = 120.0  # seconds; a recovery after a crash reads the whole log since the last checkpoint
SETTLE = 10.0  # seconds for the children of a crashed server to go
HINT = 3.0  # seconds of silence before the progress says why


def url(socket_dir: Path) -> str:
    return f"postgresql://{USER}@/{DATABASE}?host={quote(str(socket_dir), safe='')}"


def checked(options: Mapping[str, str]) -> Mapping[str, str]:
    """Settings to add or override; raises ValueError for a name that is not one or that the embedding itself needs."""
    for name in options:
        if not re.fullmatch(r"[a-z_][a-z0-9_.]*", name) or name in OURS:
            raise ValueError(f"options: {name!r} cannot be set for an embedded PostgreSQL")
    return options


def exists(folder: Folder) -> bool:
    return (folder.postgres / "PG_VERSION").exists()


def initialise(folder: Folder, program: Program) -> None:
    """Make the cluster with its database under another name, and give it its name when it is complete.

    With a UTF-8 character type whatever the locale here: with type C, pg_trgm gives no trigrams for Chinese,
    and lower() leaves Ä alone. Sorting is by bytes, which no upgrade of the system's library changes.
    """
    if folder.postgres.exists() and not (folder.postgres.is_dir() and not any(folder.postgres.iterdir())):
        raise FolderNotYours(folder.postgres, "it is not a PostgreSQL cluster and not an empty folder")
    remove_leftovers(folder.path, "postgres.new-*")
    new = folder.private(f"postgres.new-{secrets.token_hex(4)}")
    utf8 = "C.UTF-8" if os.uname().sysname != "Darwin" else "en_US.UTF-8"
    locale = (
        ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--lc-ctype={utf8}", "--lc-collate=C"]
        if program.major >= 17
        else [f"--locale={utf8}"]
    )
    _run(
        folder,
        [str(program.folder / "initdb"), "-D", str(new), "-U", USER, "-E", "UTF8", *locale, "--lc-messages=C",
         "--auth-local=trust", "--auth-host=scram-sha-256", "--data-checksums"],
    )  # fmt: skip
    single = [str(program.path), "--single", "-j", "-D", str(new), "-c", "dynamic_shared_memory_type=mmap", "postgres"]
    _run(folder, single, said="CREATE DATABASE headway;\n")
    if folder.postgres.exists():
        folder.postgres.rmdir()
    new.rename(folder.path / "postgres")
    handle = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _run(folder: Folder, command: list[str], said: str = "") -> None:
    done = subprocess.run(
        command, cwd=folder.path, env=launch.ENVIRONMENT, input=said, capture_output=True, text=True, errors="replace",
        umask=0o077, check=False, **folder.account.popen(),
    )  # fmt: skip
    if done.returncode or "FATAL:" in done.stderr or "ERROR:" in done.stderr:
        output = (done.stdout + done.stderr)[-launch.TAIL :]
        raise StartFailed("PostgreSQL", f"{Path(command[0]).name} failed", folder.log("postgres"), output)


def clear_after_crash(folder: Folder, socket_dir: Path, progress: Callable[[str], None]) -> None:
    """Make way for a new server where one was killed; raises StartFailed while something of the old one still runs.

    The children of a killed server end by themselves when they notice, and write until then. A process that holds the
    number of the old lock file may be anybody; only a working directory in the data folder tells. Where the system does
    not show that, PostgreSQL's own judgement must do.
    """
    deadline = time.monotonic() + SETTLE
    pressed = False
    while (seen := janitor.workers(str(folder.postgres), janitor.PROGRAMS["postgres"]))[0]:
        left = seen[0]
        if time.monotonic() >= deadline:
            pids = ", ".join(str(worker.pid) for worker in left)
            raise failed(
                folder, f"processes of a crashed server still run (pid {pids})", advice="End them and try again."
            )
        if not pressed and time.monotonic() >= deadline - 0.7 * SETTLE:
            progress("ending what is left of a crashed PostgreSQL…")
            for worker in left:
                janitor.send(worker.pid, janitor.started_at(worker.pid), signal.SIGQUIT)
            pressed = True
        time.sleep(0.02)
    if not seen[1]:
        (folder.postgres / "postmaster.pid").unlink(missing_ok=True)
        for name in (SOCKET, f"{SOCKET}.lock"):
            (socket_dir / name).unlink(missing_ok=True)


def begin(folder: Folder, program: Program, socket_dir: Path, options: Mapping[str, str]) -> Process:
    settings = {**SETTINGS, **options, "unix_socket_directories": f'"{socket_dir}"', "port": "5432"}
    command = [str(program.path), "-D", str(folder.postgres)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return launch.leave_server(command, folder=folder, cwd=folder.postgres, log="postgres")


def find(folder: Folder) -> Process | None:
    """The server that runs in this folder although nobody noted it (Linux)."""
    try:
        pid = (
            (folder.postgres / "postmaster.pid")
            .read_text(encoding="utf-8", errors="replace")
            .partition("\n")[0]
            .strip()
        )
    except FileNotFoundError:
        return None
    for worker in janitor.workers(str(folder.postgres), janitor.PROGRAMS["postgres"])[0]:
        if str(worker.pid) == pid:
            return Process(pid=worker.pid, started=janitor.started_at(worker.pid))
    return None


def wait_ready(folder: Folder, process: Process, socket_dir: Path, progress: Callable[[str], None]) -> bool:
    """Wait until the server takes connections; False when it ended. Raises StartFailed after 120 s."""
    begun = time.monotonic()
    told = False
    while not answers(folder, socket_dir, process):
        if not process.alive():
            return False
        waited = time.monotonic() - begun
        if waited > HINT and says_ready(folder, process) and not (socket_dir / SOCKET).exists():
            raise failed(folder, f"it runs, but {socket_dir / SOCKET} was removed", advice=f"End pid {process.pid}.")
        if waited > START:
            raise failed(folder, f"it is not ready after {START:.0f} s")
        if waited > HINT and not told:
            progress("waiting for PostgreSQL (after a crash it first recovers)…")
            told = True
        time.sleep(0.005)
    return True


def failed(folder: Folder, why: str, log_start: int = 0, advice: str = "") -> StartFailed:
    return StartFailed("PostgreSQL", why, folder.log("postgres"), launch.tail(folder, "postgres", log_start), advice)


def blocked_by_a_dying_one(folder: Folder, log_start: int) -> bool:
    """Whether a start failed only because something of the one before was still ending."""
    said = launch.tail(folder, "postgres", log_start)
    return "pre-existing shared memory block" in said or 'lock file "postmaster.pid" already exists' in said


def answers(folder: Folder, socket_dir: Path, process: Process) -> bool:
    """Whether this very server says that it is ready and takes a connection."""
    return says_ready(folder, process) and connects(socket_dir / SOCKET)


def says_ready(folder: Folder, process: Process) -> bool:
    try:
        lines = (folder.postgres / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(process.pid) and lines[7].strip() == "ready"


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
