"""An event as one line for people. All that somebody typed is made visible here; `--json` shows the whole event."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from api.cli.output import clock, percent_text
from api.cli.text import shortened, visible
from eventstore.events import RecordedEvent

Segment = tuple[str, str]
"""A text and the name of its style."""

LONGEST: Final = 200  # columns of what a report says

STYLE_OF_VERB: Final = {
    "completed": "green",
    "failed": "bold red",
    "cancelled": "magenta",
    "skipped": "dim",
    "waiting": "yellow",
    "planned": "bold",
    "reopened": "bold",
}


def event_segments(event: RecordedEvent) -> list[Segment]:
    """Position, time, job, type, step, the job's percentage, what the report says, and why it does not count."""
    verb = event.type.rpartition(".")[2]
    segments: list[Segment] = [
        (f"{event.position:>7}  ", "dim"),
        (f"{clock(event.recorded_us)}  ", "dim"),
        (f"{percent_text(event.ppm):>7}  ", ""),
        (f"{visible(event.job_id)}  ", "cyan"),
        (visible(event.type), STYLE_OF_VERB.get(verb, "")),
    ]
    if event.step is not None:
        segments.append((f"  {visible(event.step)}", "bold"))
    if event.attempt is not None and event.attempt > 1:
        segments.append((f" (attempt {event.attempt})", "dim"))
    if said := what_it_says(event):
        segments.append((f"  {shortened(said, LONGEST)}", ""))
    if not event.applied:
        segments.append((f"  not applied: {visible(event.reason or '')}", "yellow"))
    return segments


def event_line(event: RecordedEvent) -> str:
    return "".join(text for text, _ in event_segments(event))


def what_it_says(event: RecordedEvent) -> str:
    """What the report's data says, in short: how far, which message, which error."""
    data = event.data
    parts: list[str] = []
    if "percent" in data:
        parts.append(f"{_plain(data['percent'])} %")
    if "done" in data:
        total = data.get("total")
        count = _plain(data["done"]) + (f"/{_plain(total)}" if total is not None else "")
        parts.append(f"{count} {_plain(data.get('unit') or '')}".rstrip())
    if isinstance(steps := data.get("steps"), list):
        parts.append(f"{len(steps)} steps")
    for name in ("title", "level", "message", "reason"):
        if data.get(name) is not None:
            parts.append(_plain(data[name]))
    if (error := data.get("error")) is not None:
        parts.append(error_text(error))
    return "  ".join(part for part in parts if part)


def error_text(error: Any) -> str:
    """An error as people wrote it: type, message and code, on one line."""
    if not isinstance(error, dict):
        return _plain(error)
    kind, message, code = (error.get(name) for name in ("type", "message", "code"))
    text = ": ".join(_plain(part) for part in (kind, message) if part is not None)
    return text + (f" [{_plain(code)}]" if code is not None else "")


def error_line(error: msgspec.Raw | None) -> str:
    """`error_text` of an error that is JSON still."""
    return "" if error is None else error_text(msgspec.json.decode(error))


def _plain(value: Any) -> str:
    return visible(value if isinstance(value, str) else str(value))
