"""flock, with deadlines. The kernel frees these locks at any death of a process, so nothing stays locked by accident.

Lock files are opened close-on-exec: a program that a user of the servers starts does not hold them. A *forked*
child shares the parent's open file and goes on holding the lock after the parent: on purpose, it uses the same
servers. That is why a users' lock is only ever closed, never unlocked (an unlock takes it from every sharer),
and why the start lock, which a child forked at the wrong moment must not keep, is unlocked before it is closed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from api.embedded.errors import StartBusy
from api.embedded.folder import Folder

POLL = 0.005  # seconds; flock has no deadline of its own


def _wait(fd: int, kind: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        else:
            return True


@contextmanager
def starting(folder: Folder, seconds: float) -> Iterator[None]:
    """Only one process at a time starts, ends the keeper or writes the state; raises StartBusy after `seconds`."""
    fd = folder.lock_file("start.lock")
    try:
        if not _wait(fd, fcntl.LOCK_EX, seconds):
            raise StartBusy(folder.path, "another process has been starting the servers", seconds)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def share(fd: int, folder: Folder, seconds: float) -> None:
    """Become a user; waits while a janitor stops the servers, raises StartBusy after `seconds`."""
    if not _wait(fd, fcntl.LOCK_SH, seconds):
        raise StartBusy(folder.path, "the servers have been stopping", seconds)


def held(folder: Folder, name: str) -> bool:
    """Whether a process holds that lock, shared or not.

    The look takes the lock for an instant: only who holds the start lock may look at the janitor's or keeper's,
    because only then none of them is about to take its place.
    """
    return not _granted(folder, name, fcntl.LOCK_EX)


def held_alone(folder: Folder, name: str) -> bool:
    """Whether a process holds that lock exclusively: for the users' lock, a janitor that stops the servers."""
    return not _granted(folder, name, fcntl.LOCK_SH)


def _granted(folder: Folder, name: str, kind: int) -> bool:
    fd = folder.lock_file(name)
    try:
        return _wait(fd, kind, 0)
    finally:
        os.close(fd)


def sole_user(fd: int, folder: Folder, seconds: float) -> bool:
    """Whether no other process shares the users' lock that `fd` shares.

    The share is lost for a moment, so a janitor may have stopped the servers when this returns.
    """
    alone = _wait(fd, fcntl.LOCK_EX, 0)
    share(fd, folder, seconds)
    return alone


def holders(folder: Folder, name: str, kind: str = "READ") -> list[int]:
    """The numbers of the processes that hold that lock shared ("READ") or alone ("WRITE"), as far as the system tells.

    That is on Linux, and for processes that this container sees; elsewhere none.
    """
    inode = str((folder.path / name).stat().st_ino)
    try:
        with open("/proc/locks", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    # 1: FLOCK  ADVISORY  READ 1234 fe:00:5678 0 EOF; a waiting one has "->" in second place
    return sorted(
        {
            int(row[4])
            for row in rows
            if row[1] == "FLOCK" and row[3] == kind and row[5].rpartition(":")[2] == inode and int(row[4]) > 0
        }
    )
