"""One Valkey in a data folder: configured, started, found ready."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from api.embedded import janitor, launch
from api.embedded.binaries import Program
from api.embedded.errors import StartFailed
from api.embedded.folder import Folder, Process

SOCKET = "valkey.sock"
START = 60.0  # seconds; it reads its whole append-only file first
ADVICE = "What it holds can be made again: if its files are damaged, remove the folder `valkey` and start again."


def url(socket_dir: Path, password: str) -> str:
    return f"unix://:{password}@{socket_dir / SOCKET}?db=0"


def configuration(folder: Folder, socket_dir: Path) -> str:
    """What the server reads from its standard input: a command line would show the password to everybody."""
    settings = {
        "port": "0",
        "unixsocket": str(socket_dir / SOCKET),
        "unixsocketperm": "700",
        "requirepass": folder.password(),
        "dir": str(folder.valkey),
        "pidfile": "",
        "logfile": "",
        "daemonize": "no",
        "databases": "64",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    return "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def begin(folder: Folder, program: Program, socket_dir: Path) -> Process:
    home = folder.private("valkey")
    (socket_dir / SOCKET).unlink(missing_ok=True)
    settings = configuration(folder, socket_dir)
    return launch.leave_server(
        [str(program.path), "-"], folder=folder, cwd=home, log="valkey", said=os.fsencode(settings)
    )


def find(folder: Folder) -> Process | None:
    """The server that runs in this folder although nobody noted it (Linux)."""
    for worker in janitor.workers(str(folder.valkey), janitor.PROGRAMS["valkey"])[0]:
        return Process(pid=worker.pid, started=janitor.started_at(worker.pid))
    return None


def wait_ready(folder: Folder, process: Process, socket_dir: Path) -> bool:
    """Wait until the server answers a PING; False when it ended. Raises StartFailed after 60 s."""
    begun = time.monotonic()
    while not answers(socket_dir, folder.password()):
        if not process.alive():
            return False
        if time.monotonic() - begun > START:
            raise failed(folder, f"it is not ready after {START:.0f} s")
        time.sleep(0.005)
    return True


def failed(folder: Folder, why: str, log_start: int = 0) -> StartFailed:
    return StartFailed("Valkey", why, folder.log("valkey"), launch.tail(folder, "valkey", log_start), ADVICE)


def answers(socket_dir: Path, password: str) -> bool:
    """Whether a server with this password answers a PING there, within 5 s."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(socket_dir / SOCKET))
            probe.sendall(f"AUTH {password}\r\nPING\r\n".encode("ascii"))
            said = b""
            while said.count(b"\r\n") < 2:
                more = probe.recv(4096)
                if not more:
                    return False
                said += more
        except OSError:
            return False
    return said == b"+OK\r\n+PONG\r\n"
