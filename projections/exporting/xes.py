"""Jobs as the traces of an XES document (IEEE 1849-2016), for process mining.

A step is an activity; what happened to it is the lifecycle transition that `projections.importing.mapping` would read
as that, so an imported history comes out as it went in. Progress, resets and removals have none: `unknown`. An event of
the job itself is an activity of its own, named as its type. Every event is there, also those that did not count: they
say `applied` false.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from eventstore.events import RecordedEvent, to_datetime
from projections.exporting.ndjson import error_of, moment

TRANSITIONS: Final = {
    "step.added": "schedule",
    "step.started": "start",
    "step.waiting": "suspend",
    "step.resumed": "resume",
    "step.completed": "complete",
    "step.failed": "ate_abort",
    "step.cancelled": "withdraw",
    "step.skipped": "manualskip",
}
_OPENING: Final = """\
<?xml version="1.0" encoding="UTF-8"?>
<log xes.version="1849.2016" xes.features="" xmlns="http://www.xes-standard.org/">
<extension name="Concept" prefix="concept" uri="http://www.xes-standard.org/concept.xesext"/>
<extension name="Lifecycle" prefix="lifecycle" uri="http://www.xes-standard.org/lifecycle.xesext"/>
<extension name="Organizational" prefix="org" uri="http://www.xes-standard.org/org.xesext"/>
<extension name="Time" prefix="time" uri="http://www.xes-standard.org/time.xesext"/>
<global scope="trace">
<string key="concept:name" value=""/>
</global>
<global scope="event">
<string key="concept:name" value=""/>
<string key="lifecycle:transition" value="complete"/>
<date key="time:timestamp" value="1970-01-01T00:00:00.000+00:00"/>
</global>
<classifier name="Activity" scope="event" keys="concept:name lifecycle:transition"/>
"""
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xes_document(pages: Iterable[list[RecordedEvent]], log: str) -> Iterator[bytes]:
    """The document in pieces; `pages` hold all events of one job before those of the next."""
    yield (_OPENING + _attribute("string", "concept:name", log)).encode()
    job: str | None = None
    for page in pages:
        parts: list[str] = []
        for event in page:
            if event.job_id != job:
                parts.append("" if job is None else "</trace>\n")
                parts.append("<trace>\n" + _attribute("string", "concept:name", event.job_id))
                job = event.job_id
            parts.append(_event(event))
        yield "".join(parts).encode()
    yield b"</log>\n" if job is None else b"</trace>\n</log>\n"


def _event(event: RecordedEvent) -> str:
    data = event.data
    when = moment(event.occurred_us) or moment(event.recorded_us) or to_datetime(0)
    parts = [
        "<event>\n",
        _attribute("string", "concept:name", event.type if event.step is None else event.step),
        _attribute("string", "lifecycle:transition", transition_of(event, data)),
        _attribute("date", "time:timestamp", when.isoformat(timespec="microseconds")),
    ]
    if event.actor is not None:
        parts.append(_attribute("string", "org:resource", event.actor))
    parts.append(_attribute("string", "type", event.type))
    if event.attempt is not None:
        parts.append(_attribute("int", "attempt", str(event.attempt)))
    parts.append(_attribute("boolean", "applied", "true" if event.applied else "false"))
    if event.reason is not None:
        parts.append(_attribute("string", "reason", event.reason))
    parts.append(_attribute("float", "percent", str(event.percent)))
    for key, value in (("message", data.get("message")), ("error", error_of(data))):
        if type(value) is str:
            parts.append(_attribute("string", key, value))
    parts.append("</event>\n")
    return "".join(parts)


def transition_of(event: RecordedEvent, data: dict[str, Any]) -> str:
    """The lifecycle transition of an event."""
    if event.step is None:
        return "complete"
    match event.type:
        case "step.noted":
            said = data.get("transition")
            return said if type(said) is str and said else "unknown"
        case "step.failed" if data["error"].get("type") == "pi_abort":
            return "pi_abort"
        case "step.skipped" if data.get("reason") == "autoskip":
            return "autoskip"
        case kind:
            return TRANSITIONS.get(kind, "unknown")


def _attribute(kind: str, key: str, value: str) -> str:
    return f"<{kind} key={quoteattr(key)} value={quoteattr(_NOT_XML.sub(_named, value))}/>\n"


def _named(found: re.Match[str]) -> str:
    """XML has no way to write most control characters: they are written out as their number."""
    point = ord(found[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"
