"""Files to import, written as a test needs them."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

FIELDS = ("case", "activity", "transition", "time", "resource")
Row = Sequence[Any]
"""case, activity, transition, time, resource; None leaves a field out."""


def at(second: float, zone: str = "Z") -> str:
    """A time on the first of October 2011."""
    whole = int(second)
    fraction = f"{second - whole:.6f}"[1:] if second != whole else ""
    return f"2011-10-01T{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{fraction}{zone}"


def write_ndjson(path: Path, rows: Iterable[Row]) -> Path:
    lines = [
        json.dumps({name: value for name, value in zip(FIELDS, row, strict=True) if value is not None}) for row in rows
    ]
    return _write(path, "".join(line + "\n" for line in lines).encode())


def write_csv(path: Path, rows: Iterable[Row], header: Sequence[str] = FIELDS, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
    return path


def write_xes(path: Path, rows: Iterable[Row]) -> Path:
    """A trace for each run of rows of one case."""
    parts = ['<?xml version="1.0" encoding="UTF-8"?>\n<log xmlns="http://www.xes-standard.org/">\n']
    last = None
    for case, activity, transition, time, resource in rows:
        if case != last:
            parts.append("" if last is None else "</trace>\n")
            parts.append(f'<trace>\n<string key="concept:name" value={quoteattr(case)}/>\n')
            last = case
        parts.append(f'<event>\n<string key="concept:name" value={quoteattr(activity)}/>\n')
        if transition is not None:
            parts.append(f'<string key="lifecycle:transition" value={quoteattr(transition)}/>\n')
        if resource is not None:
            parts.append(f'<string key="org:resource" value={quoteattr(resource)}/>\n')
        parts.append(f'<date key="time:timestamp" value={quoteattr(time)}/>\n</event>\n')
    parts.append("</log>\n" if last is None else "</trace>\n</log>\n")
    return _write(path, "".join(parts).encode())


def _write(path: Path, text: bytes) -> Path:
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


HOUSE: list[Row] = [
    ("7", "survey", "schedule", at(0), "ann"),
    ("7", "survey", "start", at(60), "bob"),
    ("9", "survey", "complete", at(61), "bob"),
    ("7", "survey", "suspend", at(62), "bob"),
    ("7", "survey", "resume", at(63), "bob"),
    ("7", "survey", "complete", at(64), "bob"),
    ("7", "survey", "schedule", at(65), "ann"),
    ("7", "survey", "start", at(66), None),
    ("9", "签字", "start", at(67), "林"),
    ("7", "survey", "ate_abort", at(68), "bob"),
    ("7", "survey", "start", at(69), "bob"),
    ("7", "survey", "complete", at(70), "bob"),
    ("9", "签字", "withdraw", at(71), "林"),
    ("9", "archive", "autoskip", at(72), None),
    ("9", "archive", "assign", at(73), "cy"),
    ("9", "print", "assign", at(74), "cy"),
    ("9", "print", None, at(75), "cy"),
]
"""Two cases with every transition that means something."""
