"""The fingerprint of a failure: two failures share it when they are the same fault, as far as type and stack tell.

What differs from run to run is taken out of the stack first: line numbers, addresses, process and thread numbers, where
a package is installed, names of temporary folders, ids in paths; of the error's own text in the stack nothing stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

FRAMES: Final = 100  # lines of a stack that count: the innermost
LONG: Final = 12  # characters of a message that can't stand in a stack by chance

_MARKS: Final = re.compile(r"^[\s^~]*[\^~][\s^~]*$")
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]+\b")
_UUID: Final = re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b")
_HEX: Final = re.compile(r"\b(?=[0-9a-fA-F]*[0-9])(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b")
_TIME: Final = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?")
_LINE: Final = re.compile(r"\b(line|ligne|Zeile|行)\s*\d+")
_COLON: Final = re.compile(r":\d+(?::\d+)?(?=[)\s,\]]|$)")
_REPEATED: Final = re.compile(r"\d+ (more times?|more|common frames)")
_NUMBERED: Final = re.compile(r"\b(thread|pid|process|worker|lambda|goroutine|task)([-_ #$=:]*)\d+", re.IGNORECASE)
_LAMBDA: Final = re.compile(r"\$\$Lambda[$/\w]*|\$\d+")
_OFFSET: Final = re.compile(r"\+0x…|\+\d+\b")
_INSTALLED: Final = re.compile(
    r"[^\s\"'(]*[/\\](site-packages|dist-packages|node_modules|lib[/\\]python[\d.]+|gems|pkg[/\\]mod)[/\\]"
)
_HOME: Final = re.compile(r"(?:/home|/Users|[A-Z]:\\Users)[/\\][^/\\\s\"']+[/\\]|/root/")
_TEMPORARY: Final = re.compile(r"(?:/private)?(?:/var/folders/[^/\s]+/[^/\s]+/T|/tmp|/var/tmp|/dev/shm)/[^/\s\"')]+")
_LONG_NUMBER: Final = re.compile(r"\d{4,}")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_QUOTED: Final = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|`[^`\n]*`|“[^”\n]*”|「[^」\n]*」")
_PATH: Final = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][^/\\\s:'\"]+){2,}[/\\]?")
_HEADING: Final = re.compile(r"^(?:Caused by: |Exception in thread \S+ )?([A-Za-z_][\w.$]*(?:Error|Exception|Fault|Exit"
                             r"|Interrupt|Warning|Failure|Timeout))(?::.*)?$")  # fmt: skip


def fingerprint(error: Mapping[str, Any]) -> str:
    """32 hex digits for the `error` of a failure report (message, type?, stack?, code?)."""
    kind, stack = _text(error.get("type")), _text(error.get("stack"))
    said = normal_stack(stack, _text(error.get("message"))) if stack.strip() else normal_message(error)
    return hashlib.sha256(f"{kind}\0{said}".encode("utf-8", "backslashreplace")).hexdigest()[:32]


def normal_stack(stack: str, message: str = "") -> str:
    """A stack without what differs from run to run."""
    if len(message) >= LONG:
        stack = stack.replace(message, "")
    lines = [line.strip() for line in stack.splitlines()[-FRAMES:]]
    return "\n".join(_normal_line(line) for line in lines if line and not _MARKS.match(line))


def normal_message(error: Mapping[str, Any]) -> str:
    """A message without numbers, quoted parts and paths; with the error's code."""
    text = _UUID.sub("#", _text(error.get("message")))
    for pattern, by in ((_QUOTED, "'…'"), (_PATH, "…"), (_ADDRESS, "0x…"), (_HEX, "#"), (_NUMBER, "#")):
        text = pattern.sub(by, text)
    return f"{_text(error.get('code'))}\0{' '.join(text.split())}"


def _normal_line(line: str) -> str:
    heading = _HEADING.match(line)
    if heading is not None:
        return heading[1]
    for pattern, by in _RULES:
        line = pattern.sub(by, line)
    return line


_RULES: Final = (
    (_UUID, "#"),
    (_TIME, "#"),
    (_ADDRESS, "0x…"),
    (_TEMPORARY, "/tmp/#"),  # noqa: S108 - a mark, no file
    (_INSTALLED, ""),
    (_HOME, "~/"),
    (_LINE, r"\1 #"),
    (_REPEATED, r"# \1"),
    (_NUMBERED, r"\1\2#"),
    (_LAMBDA, "$#"),
    (_OFFSET, "+#"),
    (_COLON, ":#"),
    (_HEX, "#"),
    (_LONG_NUMBER, "#"),
)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
