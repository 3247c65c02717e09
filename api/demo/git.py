"""Git as a program: no configuration of the user is read or written, and its progress is parsed as it is printed."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import ClassVar, Final

PHASE: Final = re.compile(
    r"(?:remote: )?(?P<phase>[A-Z][a-z]+ [a-z]+): +(?P<percent>[0-9]{1,3})% \((?P<done>\d+)/(?P<total>\d+)\)"
)
WORST: Final = re.compile(r" ! |fatal: |error: ")
LOOK: Final = 0.2  # seconds between looks at `stop`
TAIL: Final = 12  # lines of git's own words in an error

OnPhase = Callable[[str, int], None]
"""Gets a phase as git names it ("Writing objects") and its percentage."""

_CONFIG: Final = {
    "user.name": "Headway Demo",
    "user.email": "demo@headway.invalid",
    "init.defaultBranch": "main",
    "commit.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.autocrlf": "false",
    "core.fsync": "none",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.file.allow": "always",
    "advice.pushUpdateRejected": "false",
}


class GitFailed(Exception):
    """Git ended with an error. The text is its most telling line; all that it said is a note, which a stack shows."""

    def __init__(self, arguments: tuple[str, ...], code: int, said: str) -> None:
        lines = [line.rstrip() for line in said.splitlines() if line.strip() and not PHASE.match(line)]
        worst = next((line.strip() for line in lines if WORST.match(line)), lines[-1] if lines else "without a word")
        super().__init__(f"git {' '.join(arguments)} ended with {code}: {worst}")
        if len(lines) > 1:
            self.add_note("\n".join(lines[-TAIL:]))
        self.arguments, self.code = arguments, code


class GitMissing(Exception):
    """There is no git on this machine."""

    code: ClassVar[str] = "git_missing"
    retryable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__("the demo initialises a real project and needs git: install it, for example `apt install git`")


class Stopped(BaseException):
    """Somebody wants an end, now."""


class Git:
    """Runs git with `home` as its home. `stop` ends a running command and raises `Stopped`."""

    def __init__(self, home: Path, stop: Event | None = None) -> None:
        program = shutil.which("git")
        if program is None:
            raise GitMissing
        self._program = program
        self._stop = stop or Event()
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LC_ALL": "C",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": str(len(_CONFIG)),
            "GIT_TERMINAL_PROMPT": "0",
        }
        for number, (name, value) in enumerate(_CONFIG.items()):
            self._environment[f"GIT_CONFIG_KEY_{number}"] = name
            self._environment[f"GIT_CONFIG_VALUE_{number}"] = value

    def run(self, folder: Path, *arguments: str, on_phase: OnPhase | None = None) -> str:
        """What git printed on stdout. Raises `GitFailed`, `Stopped`."""
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                [self._program, *arguments],
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is ours to handle, not git's
            )
            assert process.stderr is not None
            said: list[str] = []
            try:
                for line in self._lines(process.stderr.fileno()):
                    said.append(line)
                    found = PHASE.match(line)
                    if found and on_phase is not None:
                        on_phase(found["phase"], int(found["percent"]))
            except BaseException:
                process.terminate()
                raise
            finally:
                code = process.wait()
                process.stderr.close()
            if code:
                raise GitFailed(arguments, code, "\n".join(said))
            out.seek(0)
            return out.read().decode("utf-8", "replace")

    def _lines(self, fd: int) -> Iterator[str]:
        """Lines as they come; a carriage return ends one too, since git overwrites its progress with it."""
        rest = b""
        while True:
            if self._stop.is_set():
                raise Stopped
            if not select.select([fd], [], [], LOOK)[0]:
                continue
            chunk = os.read(fd, 65_536)
            if not chunk:
                break
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            yield from (line.decode("utf-8", "replace") for line in lines if line)
        if rest:
            yield rest.decode("utf-8", "replace")
