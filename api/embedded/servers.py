"""The data folder's servers from outside: use them, keep them, end them, look at them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from api.embedded import janitor, launch, locks, startup
from api.embedded import postgres as cluster
from api.embedded.errors import FolderNotYours, NotStopped, StillInUse
from api.embedded.folder import Folder, Process, locate, prepare, read_state
from api.embedded.startup import STOPPING, Servers, Wanted

START_TURN = 180.0  # seconds to wait for another starter: above everything that one may wait for


def _quiet(_text: str) -> None:
    pass


class Lease:
    """One use of the servers, from `start` to `close` or the end of the process, however it ends.

    The kernel keeps it, as a shared lock on an open file. Programs that this process starts do not take part; a
    child made by fork (multiprocessing) does, and the servers run on until parent and children have closed
    theirs or ended.
    """

    def __init__(self, folder: Folder, fd: int, servers: Servers, wanted: Wanted) -> None:
        self._folder = folder
        self._fd: int | None = fd
        self._servers = servers
        self._wanted = wanted

    @property
    def servers(self) -> Servers:
        return self._servers

    @property
    def closed(self) -> bool:
        return self._fd is None

    def ensure_running(self) -> Servers:
        """Start again what has died since; costs about a millisecond when nothing has. Raises what `start` raises.

        The URLs stay what they were.
        """
        if self._fd is None:
            raise ValueError("this lease is closed; call start() again")
        state = read_state(self._folder.path)
        if state is None or not startup.all_answer(self._folder, state, self._wanted):
            with locks.starting(self._folder, START_TURN):
                self._servers = startup.bring_up(self._folder, self._fd, self._wanted)
        return self._servers

    def close(self) -> None:
        """Stop using the servers; they stop soon after when nobody else does. Closing twice is no error."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            # A janitor that was killed is replaced by the next starter, or here, so that the last user leaves
            # no orphan. When another process holds the start lock, that one sees to it.
            with locks.starting(self._folder, 0):
                startup.ensure_janitor(self._folder)
        except Exception:  # noqa: S110  the folder may be gone, and leaving must work whatever has happened
            pass
        finally:
            os.close(fd)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def start(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    postgres: bool = True,
    valkey: bool = True,
    progress: Callable[[str], None] | None = None,
    options: Mapping[str, str] | None = None,
) -> Lease:
    """Adopt the servers of the data folder, or start them; this process then uses them until it closes or ends.

    `options` are settings of PostgreSQL, used by whoever starts it; an adopted server keeps its own. `progress`
    gets short texts for people. Blocks: a fraction of a second when the cluster exists, a few seconds for the
    first start, longer while a crashed server recovers or another process is starting or stopping. Raises
    EmbeddedError, and ValueError for an option that is none.
    """
    settings = cluster.checked(options or {})
    wanted = Wanted(postgres=postgres, valkey=valkey, options=settings, progress=progress or _quiet)
    folder = prepare(locate(data_dir))
    users = folder.lock_file(janitor.USERS_LOCK)
    try:
        with locks.starting(folder, START_TURN):
            locks.share(users, folder, STOPPING)
            servers = startup.bring_up(folder, users, wanted)
    except BaseException:
        os.close(users)
        raise
    return Lease(folder, users, servers, wanted)


def up(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    options: Mapping[str, str] | None = None,
) -> Servers:
    """Like `start`, but the servers run on after this process, until `down`. Twice is no error."""
    with start(data_dir, progress=progress, options=options) as lease:
        folder = prepare(Path(lease.servers.data_dir))
        with locks.starting(folder, START_TURN):
            launch.leave_janitor("keep", folder)
        return lease.servers


def down(data_dir: str | os.PathLike[str] | None = None) -> bool:
    """End what `up` left behind and wait until the servers have stopped.

    True: they have stopped. False: nothing was up; servers that only other processes use are not touched.
    Raises StillInUse when other processes use them beside: they then stop when the last of those ends.
    """
    path = locate(data_dir)
    try:
        if not (path / janitor.USERS_LOCK).exists():
            return False
    except PermissionError as refused:
        raise FolderNotYours(path, "permission denied") from refused
    folder = prepare(path)
    with locks.starting(folder, START_TURN):
        kept = locks.held(folder, janitor.KEEPER_LOCK)
        used = locks.held(folder, janitor.USERS_LOCK) and not locks.held_alone(folder, janitor.USERS_LOCK)
        if not kept and (used or not _serving(folder)):
            return False
        startup.ensure_janitor(folder)
        if kept:
            _end_keeper(folder)
    wait_stopped(folder)
    return True


def running(data_dir: str | os.PathLike[str] | None = None) -> Servers | None:
    """The servers that answer in the data folder, without becoming a user of them; None if there are none."""
    path = locate(data_dir)
    try:
        state = read_state(path)
        if state is None:
            return None
        folder = prepare(path)
        with_postgres, with_valkey = startup.postgres_answers(folder, state), startup.valkey_answers(folder, state)
    except (PermissionError, FolderNotYours):
        return None
    if not with_postgres and not with_valkey:
        return None
    return startup.addresses(folder, Path(state.socket_dir), with_postgres, with_valkey)


def _serving(folder: Folder) -> bool:
    return bool(janitor.serving(str(folder.path), janitor.read_state(str(folder.path))))


def _end_keeper(folder: Folder) -> None:
    try:
        keeper = msgspec.json.decode((folder.path / janitor.KEEPER_LOCK).read_bytes(), type=Process)
    except msgspec.DecodeError:
        return
    seen = locks.holders(folder, janitor.KEEPER_LOCK, "WRITE")
    if seen and keeper.pid not in seen:
        raise NotStopped(folder.path, f"{janitor.KEEPER_LOCK} names pid {keeper.pid}, but {seen} hold it; end those")
    try:
        janitor.send(keeper.pid, keeper.started, signal.SIGTERM)
    except PermissionError:
        raise NotStopped(folder.path, f"their keeper (pid {keeper.pid}) belongs to another user") from None
    if not janitor.gone(keeper.pid, keeper.started, 10.0):
        raise NotStopped(folder.path, f"their keeper (pid {keeper.pid}) does not end")


def wait_stopped(folder: Folder) -> None:
    """Wait until no server runs in the folder; raises StillInUse when others are seen to use them, else NotStopped."""
    deadline = time.monotonic() + STOPPING
    while _serving(folder):
        if locks.held(folder, janitor.USERS_LOCK) and not locks.held_alone(folder, janitor.USERS_LOCK):
            raise StillInUse(locks.holders(folder, janitor.USERS_LOCK))
        if time.monotonic() >= deadline:
            raise NotStopped(folder.path, f"{STOPPING:.0f} s have passed; {folder.log('janitor')} says more")
        time.sleep(0.01)
