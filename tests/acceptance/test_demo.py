"""`headway demo`, run as people run it: its exit code, what it prints, and what it leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import psycopg
import pytest

from api.demo import manifests, template
from api.demo.git import Git, GitFailed, Stopped
from api.demo.project import Project
from eventstore.store import EventStore
from projections.progress import Progress

ROOT = Path(__file__).parents[2]
HEADWAY = [sys.executable, "-m", "headway"]


@pytest.fixture
def environment(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The run's servers, and a home without a git identity; nothing may be left in its temporary folder."""
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log("default")
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    yield {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "LANG": "C.UTF-8",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "GIT_DIR": "/nowhere",
    }
    assert list((tmp_path / "tmp").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []
    with psycopg.connect(database_url) as conn:
        assert conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'demo%'").fetchall() == []


def headway(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HEADWAY, *arguments], env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )


def test_the_demo_shows_a_real_initialisation_and_proves_what_it_claims(environment: dict[str, str]) -> None:
    done = headway(environment, "demo")
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert "推送模板代码" in out
    assert re.search(r"正在推送代码… Writing objects: \d+ %", out)
    assert "! [rejected]" in out
    assert "GitFailed" in out
    assert "Traceback (most recent call last):" in out
    audit = out.partition("Audit:")[2].partition("Replay")[0]
    assert re.findall(r"not applied: (\w+)", audit) == ["regression", "step_ended"]
    replay = dict(re.findall(r"^(Redis|PostgreSQL) +(\d+ events  sha256 [0-9a-f]+)", out, re.MULTILINE))
    assert replay["Redis"] == replay["PostgreSQL"]
    assert out.count("✓ ") >= 7
    percentages = [float(p) for p in re.findall(r"^\d\d:\d\d:\d\d +([\d.]+) %", out, re.MULTILINE)]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100

    (job,) = re.findall(r"headway show (\S+)", out)
    shown = json.loads(headway(environment, "show", job, "--json").stdout)
    assert (shown["status"], shown["percent"], shown["rejected"]) == ("completed", 100.0, 2)
    assert [len(step["attempts"]) for step in shown["steps"]] == [1, 1, 1, 2]


@pytest.mark.slow
def test_the_demo_runs_a_second_time_in_the_same_log(environment: dict[str, str]) -> None:
    assert [headway(environment, "demo").returncode for _ in range(2)] == [0, 0]


def test_ctrl_c_ends_the_demo_cleanly_and_the_job_is_cancelled(environment: dict[str, str]) -> None:
    process = subprocess.Popen([*HEADWAY, "demo"], env=environment, cwd="/", stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "正在推送代码" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(30) == 130
    process.stdout.close()
    assert "Traceback" not in rest
    (job,) = [json.loads(line) for line in headway(environment, "jobs", "--json").stdout.splitlines()]
    assert job["status"] == "cancelled"


def test_on_a_terminal_the_demo_draws_bars(environment: dict[str, str]) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*HEADWAY, "demo"], env={**environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}, cwd="/",
        stdout=child, stderr=child, stdin=child,
    )  # fmt: skip
    os.close(child)
    seen = b""
    while select.select([parent], [], [], 40)[0]:
        try:
            chunk = os.read(parent, 65_536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(parent)
    assert process.wait(10) == 0
    assert "━".encode() in seen
    assert b"100.0 %" in seen


def test_without_redis_the_demo_says_what_to_do(environment: dict[str, str]) -> None:
    del environment["REDIS_URL"]
    done = headway(environment, "demo")
    assert done.returncode == 2
    assert "REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_git_the_demo_says_what_to_do(environment: dict[str, str]) -> None:
    done = headway({**environment, "PATH": "/nowhere"}, "demo")
    assert done.returncode == 1
    assert "install it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project("shop", tmp_path, Git(tmp_path))
    project.create_repository(lambda percent, message: None)
    return project


def test_a_push_tells_gits_own_percentages_in_order(project: Project) -> None:
    told: list[tuple[float, str]] = []
    assert project.write_template(lambda percent, message: None) > 500
    project.push(lambda percent, message: told.append((percent, message)))
    percentages = [percent for percent, _ in told]
    assert percentages == sorted(percentages)
    assert len(set(percentages)) > 50
    assert {message.split(":")[0] for _, message in told} >= {"Counting objects", "Writing objects"}
    assert project.history()[-1] == "Begin shop from the template"


def test_a_push_that_somebody_else_was_faster_than_is_refused_and_succeeds_after_catching_up(project: Project) -> None:
    (project.copy / "a").write_text("a")
    project.git.run(project.copy, "add", "a")
    project.git.run(project.copy, "commit", "--quiet", "--message", "A")
    project.push(lambda percent, message: None)
    count = project.write_manifests(lambda percent, name: None)
    assert count == 3 * len(template.SERVICES) * len(template.ENVIRONMENTS)
    project.colleague_pushes()
    with pytest.raises(GitFailed, match=r"ended with 1: ! \[rejected\]"):
        project.push(lambda percent, message: None)
    project.catch_up()
    project.push(lambda percent, message: None)
    assert project.history() == ["Say what shall run where", "Add notes", "A"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (("metadata", {"name": "Not A Name", "namespace": "staging"}), "metadata.name"),
        (("metadata", {"name": "a", "namespace": "moon"}), "metadata.namespace"),
        (("kind", "Pod"), "kind"),
        (("metadata", None), "metadata"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_named(tmp_path: Path, change: tuple[str, object], rule: str) -> None:
    name, content = next(iter(manifests.manifests("shop")))
    list(template.write(tmp_path, [(name, json.dumps({**json.loads(content), change[0]: change[1]}).encode())]))
    with pytest.raises(manifests.InvalidManifest, match=f"deployment.json: {rule}"):
        list(manifests.validate(tmp_path))


def test_a_command_of_git_is_ended_when_somebody_wants_an_end(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        Git(tmp_path, stop).run(tmp_path, "cat-file", "--batch")
