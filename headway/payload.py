"""Bring what a job's code gives into a shape that the log accepts: no report is lost because of a text.

In the job's thread only what must be (a copy, so that later changes don't show); redaction and limits in the sender's.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headway.redact import redact_data

MAX_INT: Final = 2**53
MAX_DEPTH: Final = 24
MAX_TEXT: Final = 1024 * 1024  # characters that are taken over at all
MAX_MESSAGE: Final = 8 * 1024  # bytes
MAX_LABEL: Final = 1024  # bytes
MAX_STACK: Final = 32 * 1024  # bytes
MAX_METADATA: Final = 16 * 1024  # bytes as JSON
MAX_RESULT: Final = 16 * 1024  # bytes as JSON
MAX_METADATA_KEYS: Final = 64
MAX_KEY: Final = 128  # bytes

_LABELS: Final = ("title", "kind", "label", "unit", "by", "worker")
_MESSAGES: Final = ("message", "reason")
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of plain JSON values. What JSON can't hold becomes text; NaN and infinities become None."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int):
        return int(value) if -MAX_INT <= value <= MAX_INT else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {text(str(key)): plain(item, depth + 1) for key, item in list(value.items())}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in list(value)]
    return text(spoken(value))


def text(value: str) -> str:
    """A text without NUL and lone surrogates (shown as escapes), of a length that can be handled."""
    if len(value) > MAX_TEXT:
        value = value[: MAX_TEXT // 2] + "\n…\n" + value[-MAX_TEXT // 2 :]
    if "\0" in value:
        value = value.replace("\0", "\\x00")
    if not value.isascii():
        value = value.encode("utf-8", "backslashreplace").decode()
    return value


def spoken(value: object) -> str:
    """`str(value)`; its type's name if that fails."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as the `error` of an event: message, type and stack. Never the values of local variables."""
    kind = type(error)
    module = kind.__module__
    name = kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
    try:
        stack = "".join(traceback.TracebackException.from_exception(error, capture_locals=False, compact=True).format())
    except Exception:
        stack = f"{name}: the stack can't be shown"
    return {"message": text(spoken(error) or name), "type": text(name), "stack": text(stack)}


def sendable(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """The data of an event of this type, redacted and within the limits. Longer texts are cut, never refused."""
    data = redact_data(data)
    changes: dict[str, Any] = {}
    for name, value in data.items():
        if name in _MESSAGES and isinstance(value, str):
            changes[name] = cut(value, MAX_MESSAGE)
        elif name in _LABELS and isinstance(value, str):
            changes[name] = cut(value, MAX_LABEL)
        elif name == "error" and isinstance(value, dict):
            changes[name] = _error(value)
        elif name == "metadata":
            changes[name] = _metadata(value)
        elif name in ("result", "data") and len(_encode(value)) > MAX_RESULT:
            changes[name] = cut(_encode(value).decode(), MAX_MESSAGE)
        elif name == "steps" and kind == "job.planned":
            changes[name] = [{**s, "label": cut(s["label"], MAX_LABEL)} if s.get("label") else s for s in value]
    return {**data, **changes}


def _error(value: dict[str, Any]) -> dict[str, Any]:
    limits = {"message": MAX_MESSAGE, "type": MAX_LABEL, "stack": MAX_STACK}
    return {n: cut(v, limits[n]) if n in limits and isinstance(v, str) else v for n, v in value.items()}


def _metadata(value: Any) -> dict[str, Any]:
    """An object within the limits: what is too much is left out from the end, and `…` says so."""
    if not isinstance(value, dict):
        value = {"value": value}
    kept: dict[str, Any] = {}
    size = 64
    for name, item in value.items():
        size += len(_encode(item)) + len(name.encode()) * 6 + 4
        if len(kept) >= MAX_METADATA_KEYS - 1 or size > MAX_METADATA:
            kept["…"] = f"{len(value) - len(kept)} more left out"
            break
        kept[cut(name, MAX_KEY)] = item
    return kept


def cut(value: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8: head and tail, the middle marked. Never cuts a character."""
    raw = value.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return value
    mark = " … " if limit <= MAX_LABEL else f"\n… {len(raw) - limit} bytes left out …\n"
    room = limit - len(mark.encode())
    head = raw[: room // 2].decode("utf-8", "ignore")
    return head + mark + raw[-(room - room // 2) :].decode("utf-8", "ignore")
