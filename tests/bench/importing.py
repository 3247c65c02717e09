"""What an import costs, in a process of its own so that its memory can be told: events per second and highest RSS.

The history is bpic2012 where it is found (tests/integration/test_import.py says where), else one of the same shape.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eventstore.store import EventStore
from projections.exporting import FORMS, export
from projections.importing import import_file
from projections.progress import Progress
from tests.bench.report import Report
from tests.support.files import Row, write_ndjson, write_xes

RATE, MEMORY = 10_000, 150  # events per second, MB
ROOT = Path(__file__).resolve().parents[2]
ACTIVITIES = ("A_SUBMITTED", "W_Completeren aanvraag", "W_Nabellen offertes", "W_Valideren aanvraag", "签署", "O_SENT")


def run(url: str, report: Report, *, cases: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in histories(Path(folder), cases).items():
            first, second = (_child(url, path, kind) for _ in range(2))
            report.ratio(f"import of {path.name}, {first['read']:,} events, events/s", first["rate"], RATE)
            report.ratio(f"import of {path.name}, highest RSS in MB", first["rss"], MEMORY, at_most=True)
            report.line(f"{path.name} again: known {second['known']:,}", f"{second['rate']:,.0f}/s")
        _exports(url, report, Path(folder))


def histories(folder: Path, cases: int) -> dict[str, Path]:
    """An XES file and an NDJSON file."""
    near = os.environ.get("HEADWAY_HISTORIES")
    found = {
        kind: sorted(Path(near).glob(name) if near else ROOT.parent.glob(f"*/data/{name}"))
        for kind, name in (("xes", "bpic2012.xes.gz"), ("ndjson", "bpic2012.ndjson.gz"))
    }
    if all(found.values()):
        return {kind: paths[0] for kind, paths in found.items()}
    rows: list[Row] = []
    for case in range(cases):
        for event in range(20):
            second = (case * 37 + event * 3_601) % 86_400
            when = (
                f"2011-{case % 12 + 1:02d}-{event + 1:02d}T{second // 3600:02d}:{second // 60 % 60:02d}:00.{case:06d}Z"
            )
            step = ACTIVITIES[event // 2 % len(ACTIVITIES)]
            rows.append((str(case), step, "complete" if event % 2 else "start", when, f"r{case % 60}"))
    xes = write_xes(folder / "synthetic.xes.gz", rows)
    return {
        "xes": xes,
        "ndjson": write_ndjson(folder / "synthetic.ndjson.gz", sorted(rows, key=lambda row: str(row[3]))),
    }


def _child(url: str, path: Path, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.importing", url, str(path), f"bench-import-{kind}"]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def _exports(url: str, report: Report, folder: Path) -> None:
    with EventStore(url, log="bench-import-xes", projection=Progress()) as store:
        for form in FORMS:
            began = time.perf_counter()
            with (folder / form).open("wb") as out:
                count = export(store, out, form=form)
            report.line(f"export as {form}", f"{count / (time.perf_counter() - began):,.0f}/s")


def main(url: str, path: str, log: str) -> None:
    """The child: import, then say how it went."""
    with EventStore(url, log=log, projection=Progress()) as store:
        store.create_log()
        report = import_file(store, path, prefix="bench:")
    counts = {"read": report.read, "known": report.known, "rate": report.read / report.seconds}
    print(json.dumps({**counts, "rss": highest_rss()}))


def highest_rss() -> float:
    """MB of this process since it began; getrusage would begin with what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
