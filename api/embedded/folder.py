"""The data folder: what lies where, whose it is, and what is noted about the servers that run in it.

postgres/  valkey/   the servers' data, 0700, of the user that the servers run as
run/                 the sockets, 0700 likewise (or a folder in the temporary directory, when the path is too long)
log/                 postgres.log, valkey.log, janitor.log
valkey.password      0600
servers.json         which processes serve here: number, start time, boot; no secret
start.lock  users.lock  janitor.lock  keeper.lock     never removed: a lock lives in the file, not in its name
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from api.embedded import janitor
from api.embedded.errors import FolderNotYours, FolderUnreachable, SocketFolderRefused

SOCKET_PATH_MAX = 103  # bytes; the smallest sun_path of the systems we run on is 104 with its closing zero
LONGEST_SOCKET = ".s.PGSQL.5432"
LOG_KEPT = 8 << 20  # bytes; a longer log is set aside as NAME.1 when its server is started

# What stands in a URL, in a libpq host list (comma, colon) and in both servers' settings without any quoting.
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/+@~-]*")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user of the system, as the one that the servers run as."""

    name: str
    uid: int
    gid: int

    def popen(self) -> dict[str, Any]:
        """What subprocess needs to start a program as this user; nothing when that is who we are."""
        if os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": os.getgrouplist(self.name, self.gid)}


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process for good: its number and when it was started (`janitor.started_at`)."""

    pid: int
    started: str

    def alive(self) -> bool:
        return self.started != "" and janitor.started_at(self.pid) == self.started


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What `servers.json` says. Written by who holds the start lock; read by the janitor too."""

    host: str
    socket_dir: str
    postgres: Process | None = None
    valkey: Process | None = None
    starting: bool = False


class Folder(msgspec.Struct, frozen=True, kw_only=True):
    """A data folder that exists, and the account of its servers."""

    path: Path
    account: Account

    @property
    def postgres(self) -> Path:
        return (self.path / "postgres").resolve()

    @property
    def valkey(self) -> Path:
        return (self.path / "valkey").resolve()

    @property
    def password_file(self) -> Path:
        return self.path / "valkey.password"

    def log(self, name: str) -> Path:
        return self.path / "log" / f"{name}.log"

    def lock_file(self, name: str) -> int:
        """An open file descriptor of a lock file, made on first use; closed in programs that we start."""
        return self._open(self.path / name, os.O_RDWR)

    def open_log(self, name: str) -> int:
        """An open file descriptor that appends to a log; the server gets it as its standard error."""
        path = self.log(name)
        private_folder(path.parent, self._owner())
        try:
            if path.lstat().st_size > LOG_KEPT:
                path.replace(path.with_suffix(".log.1"))
        except FileNotFoundError:
            pass
        return self._open(path, os.O_RDWR | os.O_APPEND)

    def note(self, state: State) -> None:
        self.write(janitor.STATE, msgspec.json.encode(state))

    def write(self, name: str, content: bytes) -> None:
        """Replace a file of the data folder as a whole; it can be read by its owner only."""
        new = self.path / f"{name}.{secrets.token_hex(4)}"
        with open(self._open(new, os.O_WRONLY), "wb") as file:
            file.write(content)
        new.replace(self.path / name)

    def private(self, name: str) -> Path:
        """A folder inside the data folder that only the servers' account can enter (and root)."""
        path = self.path / name
        private_folder(path, self.account)
        return path

    def password(self) -> str:
        """The secret of this folder's Valkey; made on first use."""
        try:
            return self.password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            self.write(self.password_file.name, secrets.token_hex(24).encode())
            return self.password_file.read_text(encoding="ascii").strip()

    def socket_dir(self, noted: Path | None = None) -> Path:
        """The folder of the sockets, made if need be.

        Below the data folder when its path fits into a socket address and needs no quoting anywhere, else in
        the temporary directory under a name made from the path.
        """
        near = self.path / "run"
        if len(os.fsencode(near / LONGEST_SOCKET)) <= SOCKET_PATH_MAX and PLAIN_PATH.fullmatch(str(near)):
            return self.private("run")
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        name = f"headway-{self.account.uid}-{digest}"
        far = Path(tempfile.gettempdir()).resolve() / name
        if noted is not None and noted.name == name:
            far = noted  # a restart keeps the addresses, whatever the temporary directory of this process
        if len(os.fsencode(far / LONGEST_SOCKET)) > SOCKET_PATH_MAX or not PLAIN_PATH.fullmatch(str(far)):
            raise SocketFolderRefused(far, "that path does not fit either")
        try:
            private_folder(far, self.account)
        except FolderNotYours as refused:
            raise SocketFolderRefused(far, "it exists and is not a folder of ours") from refused
        return far

    def check_reachable(self) -> None:
        """Raise FolderUnreachable unless the servers' account can enter the data folder."""
        if os.geteuid() == self.account.uid:
            return
        enter = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(self.path)]
        if subprocess.run(enter, cwd="/", capture_output=True, check=False, **self.account.popen()).returncode:
            raise FolderUnreachable(self.path, self.account.name)

    def _owner(self) -> Account:
        found = self.path.stat()
        return Account(name="", uid=found.st_uid, gid=found.st_gid)

    def _open(self, path: Path, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        # A plain user's folder that root serves in stays usable by that user. Only what was made just now
        # changes hands: the user may have put a link to something of root's under this name.
        owner = self._owner()
        if owner.uid != os.geteuid():
            os.fchown(fd, owner.uid, owner.gid)
        return fd


def read_state(path: Path) -> State | None:
    try:
        return msgspec.json.decode((path / janitor.STATE).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def private_folder(path: Path, account: Account) -> None:
    """Make `path` a 0700 folder of `account`, or see that it is one; raises FolderNotYours for anything else there."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as refused:
        raise FolderNotYours(path, f"something of another kind has its name ({refused.strerror})") from refused
    try:
        found = os.fstat(handle)
        made_by_us = found.st_uid == os.geteuid() and not os.listdir(handle)
        if found.st_uid != account.uid and not made_by_us:
            raise FolderNotYours(path, f"it belongs to {_name(found.st_uid)}")
        if found.st_uid != account.uid:
            os.fchown(handle, account.uid, account.gid)
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(handle, 0o700)
    finally:
        os.close(handle)


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name!r}"
    except KeyError:
        return f"user number {uid}"


def _account(path: Path) -> Account:
    """Whom the servers of this data folder run as.

    A plain user: that user. Root: the owner of the cluster that is there already, else the owner of the data
    folder if it is a plain user, else `postgres`, else `nobody`. initdb needs an entry in the user database, so
    a bare number does not do.
    """
    here = path.stat().st_uid
    cluster = path / "postgres"
    owner = cluster.stat().st_uid if cluster.exists() else here
    me = os.geteuid()
    if me != 0:
        if owner != me or here != me:
            raise FolderNotYours(path, f"it belongs to {_name(owner if owner != me else here)} and you are {_name(me)}")
        try:
            entry = pwd.getpwuid(me)
        except KeyError:
            raise FolderNotYours(
                path, f"your user number {me} has no entry in the user database, which initdb needs"
            ) from None
        return Account(name=entry.pw_name, uid=me, gid=os.getegid())
    for wanted in [owner] if owner else ["postgres", "nobody"]:
        try:
            entry = pwd.getpwuid(wanted) if isinstance(wanted, int) else pwd.getpwnam(wanted)
        except KeyError:
            continue
        return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    if owner:
        raise FolderNotYours(
            path, f"its owner, user number {owner}, has no entry in the user database, which initdb needs"
        )
    raise FolderNotYours(
        path, "PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody` here"
    )


def default_data_dir() -> Path:
    """The data folder when nobody says: $XDG_DATA_HOME/headway, ~/.local/share/headway, or /var/lib/headway.

    The last one is root's, because the user that the servers then run as cannot enter root's home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/headway")
    base = os.environ.get("XDG_DATA_HOME", "")
    try:
        return (Path(base) if base.startswith("/") else Path.home() / ".local" / "share") / "headway"
    except RuntimeError:
        raise FolderNotYours(Path("~/.local/share/headway"), "your home folder is not known") from None


def locate(data_dir: str | os.PathLike[str] | None) -> Path:
    """The data folder's real path, as the system shows it for a working directory."""
    path = Path(default_data_dir() if data_dir is None else data_dir).expanduser().resolve()
    if any(not c.isprintable() for c in str(path)):
        raise FolderNotYours(path, "its path has control characters")
    return path


def prepare(path: Path) -> Folder:
    """Make the data folder if need be and see whose it is; raises FolderNotYours."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        found = path.stat()
        fresh = not (path / janitor.USERS_LOCK).exists()
        if os.geteuid() == 0 and found.st_uid == 0 and not found.st_mode & stat.S_IXOTH and not os.listdir(path):
            # The servers' account must pass through to its own folders. A folder that holds anything is
            # nobody's to open.
            path.chmod(stat.S_IMODE(found.st_mode) | 0o011)
        folder = Folder(path=path, account=_account(path))
        if fresh:
            folder.check_reachable()
        return folder
    except OSError as refused:
        raise FolderNotYours(path, f"{refused.strerror or refused}") from refused


def remove_leftovers(path: Path, pattern: str) -> None:
    for left in path.glob(pattern):
        shutil.rmtree(left, ignore_errors=True)
