"""`watch` and `tail --follow`: live, from where the watcher comes in, until the job ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest

from api.cli.watch import watch_lines
from eventstore.store import EventStore
from tests.support.cli import Cli, Report

PLAN = {"title": "项目", "steps": [{"step": "repo", "label": "创建仓库"}, {"step": "push", "label": "Push"}]}


class Screen:
    """Lines as `watch` tells them; `until` waits for one."""

    def __init__(self) -> None:
        import queue

        self._lines: queue.Queue[str] = queue.Queue()
        self.seen: list[str] = []

    def __call__(self, line: str) -> None:
        self._lines.put(line)

    def until(self, text: str) -> str:
        while True:
            line = self._lines.get(timeout=20)
            self.seen.append(line)
            if text in line:
                return line

    def rest(self) -> list[str]:
        while not self._lines.empty():
            self.seen.append(self._lines.get())
        return self.seen


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    lines = Screen()
    monkeypatch.setattr("api.cli.watch.tell", lines)
    return lines


@pytest.fixture
def watching(store: EventStore) -> Iterator[Callable[..., Future[Any]]]:
    """Start a watcher in a thread with an event loop of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda job, wait=False: pool.submit(anyio.run, partial(watch_lines, store, job, None, wait=wait))


def test_a_late_joiner_sees_how_it_stands_then_what_follows_then_the_end(
    report: Report, screen: Screen, watching: Callable[..., Future[Any]]
) -> None:
    report("b", "job.planned", **PLAN)
    report("b", "step.completed", "repo")
    ended = watching("b")
    assert screen.until("b 项目").endswith(" 50.0 %  b 项目: running, 1 of 2 steps done, at 创建仓库")
    report("b", "step.failed", "push", error={"type": "E", "message": "gone", "stack": "line 1\nline 2"})
    screen.until("Push failed: E: gone")
    report("b", "step.started", "push")
    screen.until("Push started")
    report("b", "step.completed", "push")
    assert ended.result(20).status == "completed"
    lines = screen.rest()
    assert lines[-4].endswith("100.0 %  Push completed")
    assert "100.0 %  b completed after " in lines[-3]
    assert lines[-2:] == ["Push, attempt 1: E: gone", "line 1\nline 2"]


def test_a_watcher_may_come_before_the_job(
    report: Report, screen: Screen, watching: Callable[..., Future[Any]]
) -> None:
    ended = watching("b", wait=True)
    report("b", "job.planned", **PLAN)
    screen.until("b 项目: ")
    report("b", "job.cancelled", reason="enough")
    assert ended.result(20).status == "cancelled"
    assert screen.rest()[-1].endswith("  0.0 %  b cancelled, 0 of 2 steps done: enough")


@pytest.mark.parametrize(("kind", "code"), [("job.completed", 0), ("job.failed", 1), ("job.cancelled", 3)])
def test_the_exit_code_says_how_the_job_ended(cli: Cli, report: Report, kind: str, code: int) -> None:
    report("b", "job.planned", **PLAN)
    report("b", kind, **({"error": {"message": "no"}} if kind == "job.failed" else {}))
    assert f"b {kind.partition('.')[2]}" in cli("watch", "b", code=code).out


def test_a_report_that_does_not_count_is_no_line(
    report: Report, screen: Screen, watching: Callable[..., Future[Any]]
) -> None:
    report("b", "job.planned", **PLAN)
    ended = watching("b")
    screen.until("b 项目: ")
    report("b", "step.completed", "repo")
    report("b", "step.progressed", "repo", percent=3)
    report("b", "step.started", "repo", message="again")
    report("b", "job.completed")
    assert ended.result(20).status == "completed"
    assert [line for line in screen.rest() if "创建仓库" in line and "again" in line] == []
    assert screen.seen[-1].endswith("1 of 2 steps done, 2 reports did not count")
