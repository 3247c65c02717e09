"""The table that people read and the JSON that is kept."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from tests.bench.measure import Figure


class Report:
    """Prints each line as it comes; `save` writes them all."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def title(self, text: str) -> None:
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def figure(self, name: str, figure: Figure) -> None:
        self.rows.append(
            {"name": name, "rate": figure.rate, "p50_ms": figure.p50, "p99_ms": figure.p99, "rounds": figure.rounds}
        )
        print(f"  {name:<58} {figure.rate:>12,.0f}/s   p50 {figure.p50:8.2f} ms   p99 {figure.p99:8.2f} ms", flush=True)

    def line(self, name: str, value: str) -> None:
        self.rows.append({"name": name, "value": value})
        print(f"  {name:<58} {value}", flush=True)

    def ratio(self, name: str, value: float, aim: float, *, at_most: bool = False) -> None:
        reached = value <= aim if at_most else value >= aim
        sign = "≤" if at_most else "≥"
        self.rows.append({"name": name, "ratio": value, "aim": aim, "at_most": at_most, "reached": reached})
        print(f"  {name:<58} {value:>12.2f}     aim {sign} {aim:g}  {'reached' if reached else 'MISSED'}", flush=True)

    def save(self, folder: Path) -> Path:
        path = folder / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
        head = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
        path.write_text(json.dumps({**head, "rows": self.rows}, indent=1, ensure_ascii=False) + "\n")
        return path
