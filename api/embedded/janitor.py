"""Stops the embedded servers when their last user is gone; also the keeper that `up` leaves behind.

This file is run by its path (`python -I -S janitor.py watch FOLDER`), so that no package of the folder it is
called from can get in its way and it costs 10 MB and 20 ms: the standard library only, no import of ours.

    watch FOLDER   waits for the exclusive lock on FOLDER/users.lock, which the kernel grants when the last process that
                   holds the shared one is gone, however it died; then stops the servers and ends
    keep FOLDER    holds the shared lock until it is ended by a signal

Both print one line when they have taken their place ("ready", or "taken" when another one has it) and close
their output. The rest of the package takes from here what must be the same on both sides: how a process is
recognised (its number *and* the time it was started, because numbers are used again) and how it is stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

USERS_LOCK = "users.lock"
JANITOR_LOCK = "janitor.lock"
KEEPER_LOCK = "keeper.lock"
STATE = "servers.json"

PROGRAMS = {"postgres": ("postgres",), "valkey": ("valkey-server", "redis-server")}
PATIENCE: dict[str, Sequence[tuple[int, float]]] = {
    # signal, seconds until the next one. SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
    "postgres": ((signal.SIGINT, 120.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)),
    "valkey": ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0)),
}


class Worker(NamedTuple):
    """A process that works inside a server's folder."""

    pid: int
    parent: int


def started_at(pid: int) -> str:
    """When that process was started, in the system's own words; "" when it is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "" if os.path.exists("/proc/self/stat") else _started_by_ps(pid)
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def _started_by_ps(pid: int) -> str:
    shown = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C"},
    )
    state, _, started = shown.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else started.strip()


def host() -> str:
    """Names this boot and this space of process numbers: a pid of another one means nothing here."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return sys.platform


def workers(folder: str, names: Sequence[str]) -> tuple[list[Worker], bool]:
    """The processes called one of `names` that work in `folder`, even a removed one; and whether there may be more.

    Known by their working directory. Root in a container may not be allowed to see that of another user's
    process: then a command line that names the folder counts, and a process without one makes the second answer
    True. Linux only; elsewhere the answer is "none seen, maybe more".
    """
    if not os.path.exists("/proc/self/stat"):
        return [], True
    found, doubt = [], False
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                head, _, tail = file.read().rpartition(")")
            fields = tail.split()
            if head.partition("(")[2] not in names or fields[0] in ("Z", "X"):
                continue
            try:
                here = os.readlink(f"/proc/{entry}/cwd").removesuffix(" (deleted)") == folder
            except PermissionError:
                if os.stat(f"/proc/{entry}").st_uid != _owner(folder):
                    continue
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    here = os.fsencode(os.path.dirname(folder)) in file.read()
                doubt = doubt or not here
        except OSError:
            continue
        if here:
            found.append(Worker(int(entry), int(fields[1])))
    return found, doubt


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def send(pid: int, started: str, number: int) -> bool:
    """Send a signal to exactly that process; False when it is gone.

    Between the look at the start time and a plain kill() the number may pass to another process; a pidfd cannot.
    """
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    except ProcessLookupError:
        return False
    except OSError:
        handle = None  # an old kernel, or a container that forbids the call
    try:
        if started_at(pid) != started:
            return False
        if handle is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def gone(pid: int, started: str, seconds: float) -> bool:
    """Wait until that process is gone; False when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while started_at(pid) == started:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)
    return True


def read_state(folder: str) -> dict[str, Any]:
    """What `servers.json` says; nothing when there is none."""
    try:
        with open(os.path.join(folder, STATE), encoding="utf-8") as file:
            state: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        return {}
    return state


def serving(folder: str, state: dict[str, Any]) -> list[tuple[str, int, str]]:
    """The servers of a data folder that run: name, pid, start time. Children of a killed PostgreSQL count as well.

    Not only what is noted: a starter that is killed between starting a server and noting it leaves one that
    only its working directory gives away; so does a data folder that was removed under its servers.
    """
    found: list[tuple[str, int, str]] = []
    for server, names in PROGRAMS.items():
        home = os.path.realpath(os.path.join(folder, server))
        noted = state.get(server) if state.get("host") == host() else None
        pids = {noted["pid"]: noted["started"]} if noted and _may_be_ours(noted["pid"], home) else {}
        inside, _ = workers(home, names)
        family = {worker.pid for worker in inside}
        for worker in inside:
            if worker.parent not in family:
                pids.setdefault(worker.pid, started_at(worker.pid))
        found += [(server, pid, started) for pid, started in pids.items() if started and started_at(pid) == started]
    return found


def _may_be_ours(pid: int, home: str) -> bool:
    # Root may serve in a plain user's folder; what that user writes into the state must not make root end
    # anything else.
    try:
        return os.geteuid() != 0 or os.stat(f"/proc/{pid}").st_uid == os.stat(home).st_uid
    except OSError:
        return not os.path.exists("/proc/self/stat") or not os.path.exists(home)


def stop(folder: str, say: Callable[[str], None]) -> bool:
    """Stop the servers of a data folder, all at once, gently first; True when none runs any more."""
    state = read_state(folder)
    if state.get("starting"):
        time.sleep(1.0)  # its starter was killed before it could note a number: let the server get into its folder
    running = serving(folder, state)
    begun = time.monotonic()
    pending = {entry: list(PATIENCE[entry[0]]) for entry in running}
    due = dict.fromkeys(running, begun)
    while pending:
        for entry in list(pending):
            server, pid, started = entry
            if started_at(pid) != started:
                say(f"{server} (pid {pid}) stopped after {time.monotonic() - begun:.2f} s")
                del pending[entry]
            elif time.monotonic() >= due[entry]:
                if not pending[entry]:
                    say(f"{server} (pid {pid}) does not stop")
                    return False
                number, patience = pending[entry].pop(0)
                try:
                    send(pid, started, number)
                except PermissionError:
                    say(f"{server} (pid {pid}) belongs to another user")
                due[entry] = time.monotonic() + patience
        time.sleep(0.005)
    return True


def _lock_file(folder: str, name: str) -> int:
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _report(word: str) -> None:
    os.write(1, word.encode("ascii") + b"\n")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)


def _say(text: str) -> None:
    try:
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} janitor [{os.getpid()}] {text}\n".encode())
    except OSError:
        pass


def watch(folder: str) -> None:
    """Stop the servers once no process holds `users.lock`; returns at once when another janitor watches."""
    place = _lock_file(folder, JANITOR_LOCK)
    users = _lock_file(folder, USERS_LOCK)
    if _taken(place):
        _report("taken")
        return
    _report("ready")
    fcntl.flock(users, fcntl.LOCK_EX)
    try:
        if stop(folder, _say):
            _tidy(folder)
    finally:
        # In this order: a starter that gets `users` next must find the place free, or nobody would watch its servers.
        os.close(place)
        os.close(users)


def _tidy(folder: str) -> None:
    sockets = str(read_state(folder).get("socket_dir", ""))
    try:
        os.unlink(os.path.join(folder, STATE))
        if os.path.dirname(sockets) != folder and os.path.basename(sockets).startswith("headway-"):
            os.rmdir(sockets)
    except OSError:
        pass


def keep(folder: str) -> None:
    """Be a user of the servers until ended by a signal; returns at once when another keeper is there."""
    place = _lock_file(folder, KEEPER_LOCK)
    users = _lock_file(folder, USERS_LOCK)
    if _taken(place):
        _report("taken")
        return
    fcntl.flock(users, fcntl.LOCK_SH)
    os.ftruncate(place, 0)
    os.pwrite(place, json.dumps({"pid": os.getpid(), "started": started_at(os.getpid())}).encode(), 0)
    _report("ready")
    while True:
        signal.pause()


def main(arguments: Sequence[str]) -> None:
    role, folder = arguments
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if role == "keep":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        keep(folder)
    else:
        # A shutdown of the machine or container signals everybody: the janitor's work is still to come then.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        watch(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
