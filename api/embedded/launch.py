"""Starts programs that outlive us and are nobody's child here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from api.embedded import janitor
from api.embedded.errors import StartFailed
from api.embedded.folder import Folder, Process

ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # no PG* and no locale of the caller

# The shell leaves the program behind and ends, so the program's parent is the system: a server as a child of
# the calling process would answer to its os.wait() and stay there as a zombie after its end.
LEAVE = 'exec 3>&1 4<&0; "$@" <&4 3>&- 4<&- >&2 & echo $! >&3'
LEAVE_LISTENING = '"$@" &'
TAIL = 4_000  # bytes of a log in an error


def leave_server(command: Sequence[str], *, folder: Folder, cwd: Path, log: str, said: bytes = b"") -> Process:
    """Start a server as the folder's account, in `cwd`, in its own session; it reads `said` and writes to its log."""
    errors = folder.open_log(log)
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", LEAVE, "sh", *command],
            cwd=cwd, env=ENVIRONMENT, input=said, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True, umask=0o077, check=True, **folder.account.popen(),
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as refused:
        raise StartFailed(log, str(refused), folder.log(log), tail(folder, log)) from refused
    finally:
        os.close(errors)
    pid = int(shell.stdout)
    return Process(pid=pid, started=janitor.started_at(pid))


def leave_janitor(role: str, folder: Folder) -> str:
    """Start the janitor ("watch") or the keeper ("keep"), wait until it stands; "ready", or "taken" by another."""
    errors = folder.open_log("janitor")
    command = [sys.executable, "-I", "-S", os.path.abspath(janitor.__file__), role, str(folder.path)]
    try:
        said = subprocess.run(
            ["/bin/sh", "-c", LEAVE_LISTENING, "sh", *command],
            cwd="/", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            start_new_session=True, check=True, text=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as refused:
        raise StartFailed("the janitor", str(refused), folder.log("janitor"), tail(folder, "janitor")) from refused
    finally:
        os.close(errors)
    word = said.stdout.strip()
    if word not in ("ready", "taken"):
        raise StartFailed("the janitor", "it ended at once", folder.log("janitor"), tail(folder, "janitor"))
    return word


def tail(folder: Folder, log: str, since: int = 0) -> str:
    """The end of a log, from byte `since` at the earliest."""
    try:
        with folder.log(log).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def log_size(folder: Folder, log: str) -> int:
    try:
        return folder.log(log).stat().st_size
    except FileNotFoundError:
        return 0
