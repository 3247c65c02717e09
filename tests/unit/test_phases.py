"""What `watch` prints where there is no terminal: a line for each change of phase, few for mere progress."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from api.cli.phases import MANY, Phases
from eventstore.events import RecordedEvent
from projections.snapshots import JobSnapshot, StepView


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(*, status: str = "running", percent: float = 0.0, steps: int = 2, **more: Any) -> JobSnapshot:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    views = [step(f"s{number}", label=f"步骤{number}") for number in range(steps)]
    fields: dict[str, Any] = dict.fromkeys(JobSnapshot.__struct_fields__) | {
        "job_id": "job:1", "status": status, "percent": percent, "steps": views, "steps_total": steps, "steps_done": 0,
        "version": 1, "rejected": 0, "updated_at": moment, "started_at": moment, "cursor": "c",
    }  # fmt: skip
    return JobSnapshot(**(fields | more))


def step(name: str, **fields: Any) -> StepView:
    return StepView(**(dict.fromkeys(StepView.__struct_fields__) | {"step": name, "attempts": []} | fields))


def event(kind: str, step: str | None = "s0", ppm: int = 0, **data: Any) -> RecordedEvent:
    text = json.dumps(data).encode()
    return RecordedEvent(
        1, "job:1", 1, b"\0" * 16, kind, step, None, None, text, True, None, ppm, None, None, 0, b"\0" * 32
    )


def test_each_change_of_phase_is_a_line_with_the_steps_label() -> None:
    phases = Phases(job(), Clock())
    lines = [
        phases.line(event("step.started")),
        phases.line(event("step.completed", ppm=500_000)),
        phases.line(event("step.failed", "s1", 500_000, error={"type": "E", "message": "gone\x1b[2J"})),
        phases.line(event("job.waiting", None, 500_000, reason="quota")),
    ]
    assert [line and line[9:] for line in lines] == [
        "  0.0 %  步骤0 started",
        " 50.0 %  步骤0 completed",
        r" 50.0 %  步骤1 failed: E: gone\x1b[2J",
        " 50.0 %  job:1 waiting: quota",
    ]


def test_mere_progress_is_a_line_every_ten_percent() -> None:
    phases = Phases(job(), Clock())
    told = [ppm for ppm in range(0, 1_000_000, 10_000) if phases.line(event("step.progressed", ppm=ppm, percent=1))]
    assert told == [100_000 * number for number in range(1, 10)]


def test_mere_progress_is_a_line_every_thirty_seconds() -> None:
    clock = Clock()
    phases = Phases(job(), clock)
    told = []
    for second in range(0, 95, 5):
        clock.now = second
        if phases.line(event("step.progressed", ppm=second, message="slow")):
            told.append(second)
    assert told == [30, 60, 90]


def test_a_job_of_many_steps_does_not_fill_the_log() -> None:
    phases = Phases(job(steps=MANY + 1), Clock())
    told = [
        kind for kind in ("step.started", "step.completed", "step.skipped", "step.failed") if phases.line(event(kind))
    ]
    assert told == ["step.failed"]


def test_who_comes_late_is_told_how_it_stands() -> None:
    late = job(percent=42.55, title="项目", current_step="s1", steps_done=1)
    assert Phases(late, Clock()).now().endswith(" 42.5 %  job:1 项目: running, 1 of 2 steps done, at 步骤1")


@pytest.mark.parametrize("kind", ["job.completed", "job.failed", "job.cancelled"])
def test_the_end_is_told_once_by_the_last_line(kind: str) -> None:
    phases = Phases(job(), Clock())
    assert phases.line(event(kind, None, 1_000_000, error={"message": "x"})) is None
    assert phases.may_end(event(kind, None, 1_000_000))


def test_the_last_line_says_how_long_it_took_and_why_it_ended() -> None:
    ended = job(
        status="cancelled",
        percent=99.9999,
        ended_at=datetime(2026, 1, 2, 3, 6, 7, tzinfo=UTC),
        rejected=2,
        reason="stop",
    )
    line = Phases(ended, Clock()).end(ended)
    assert line.endswith(" 99.9 %  job:1 cancelled after 2m 2s, 0 of 2 steps done, 2 reports did not count: stop")
