"""CONTRIBUTING's recipe "Add a projection", followed to the letter: its files, its commands, its promises."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from tests.acceptance.test_packaging import ROOT, installed, wheel
from tests.support.read_models import rows
from tests.support.sessions import wait_until

__all__ = ["installed", "wheel"]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def recipe() -> dict[str, str]:
    """The recipe's blocks of text: the two files by their names, the commands under `sh`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Add a projection\n")[1].split("\n## ")[0]
    blocks = re.findall(r"(?:`([a-z_.]+)` [^`]*?:\n\n)?```(\w+)\n(.*?)```", section, re.DOTALL)
    return {name or language: body for name, language, body in blocks}


@pytest.fixture(scope="module")
def with_package(installed: Path, recipe: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment after `pip install .` in the recipe's folder."""
    folder = tmp_path_factory.mktemp("busy")
    for name in ("pyproject.toml", "busy_workers.py"):
        (folder / name).write_text(recipe[name], encoding="utf-8")
    command, *_ = recipe["sh"].splitlines()
    assert command == "pip install ."
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "--python", installed / "bin" / "python"]
    subprocess.run([*pip, "install", *offline, "."], cwd=folder, check=True, capture_output=True)
    return installed


def headway(venv: Path, url: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [venv / "bin" / "headway", *args],
        env={"DATABASE_URL": url, "PATH": os.environ["PATH"]}, cwd=venv, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def began(store: EventStore, job_id: str, worker: str) -> int:
    return store.append(job_id, [NewEvent(type="step.started", step="build", data={"worker": worker})])[0].position


def test_the_recipe_gives_a_projection_that_follows_the_log(
    with_package: Path, recipe: dict[str, str], database_url: str
) -> None:
    *_, command = recipe["sh"].splitlines()
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
        for number in range(3):
            began(store, f"job-{number}", "甲")
        process = subprocess.Popen(
            [with_package / "bin" / command.split()[0], *command.split()[1:]],
            env={"DATABASE_URL": database_url}, cwd=with_package, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: taken(store) == 3, "the log is taken")
            position = began(store, "job-3", "乙")
            wait_until(lambda: taken(store) == position, "what follows is taken")
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, said
        assert "projecting projection:busy_workers:v1" in said
        assert rows(store, "SELECT worker, steps FROM busy_workers ORDER BY steps") == [("乙", 1), ("甲", 3)]


def test_a_raised_version_takes_the_place_of_the_live_one(
    with_package: Path, recipe: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    (module,) = with_package.glob("lib/python*/site-packages/busy_workers.py")
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
        began(store, "job-1", "甲")
        assert headway(with_package, database_url, "project", "--once", "busy_workers").returncode == 0
        module.write_text(
            recipe["busy_workers.py"].replace("version = 1", "version = 2").replace("steps = w.steps + 1", "steps = 7"),
            encoding="utf-8",
        )
        try:
            began(store, "job-2", "甲")
            shown = headway(with_package, database_url, "project", "--once", "busy_workers")
        finally:
            module.write_text(recipe["busy_workers.py"], encoding="utf-8")
        assert shown.returncode == 0, shown.stderr
        assert rows(store, "SELECT worker, steps FROM busy_workers") == [("甲", 7)]
        assert rows(store, "SELECT worker, steps FROM headway_old_busy_workers.busy_workers") == [("甲", 1)]


def test_what_the_handler_can_not_take_is_parked_listed_and_skipped(with_package: Path, database_url: str) -> None:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
        began(store, "good", "甲")
        assert headway(with_package, database_url, "project", "--once", "busy_workers").returncode == 0
        with store.database.session() as conn:
            conn.execute("ALTER TABLE busy_workers ADD CHECK (worker <> '丙')")
        position = began(store, "bad", "丙")
        store.append("bad", [NewEvent(type="step.completed", step="build")])
        assert headway(with_package, database_url, "project", "--once", "busy_workers").returncode == 0
        shown = headway(with_package, database_url, "parked", "list")
        assert shown.returncode == 0, shown.stderr
        assert re.search(rf"busy_workers v1\s+{position}\s+bad\s+4\s+1\s", shown.stdout), shown.stdout
        assert "CheckViolation" in shown.stdout
        assert headway(with_package, database_url, "parked", "retry", "busy_workers").returncode == 1
        done = headway(with_package, database_url, "parked", "skip", "busy_workers", str(position))
        assert (done.returncode, done.stdout) == (0, "1 reports taken, 1 jobs go on, 0 failed again\n"), done.stderr
        assert headway(with_package, database_url, "parked", "skip", "busy_workers", "1").returncode == 3
        assert rows(store, "SELECT worker, steps FROM busy_workers") == [("甲", 1)]


def test_a_name_that_nobody_brings_is_told_with_those_that_are_there(with_package: Path, database_url: str) -> None:
    shown = headway(with_package, database_url, "project", "busy_worker")
    assert shown.returncode == 3
    assert "there is no projection 'busy_worker'; there are:" in shown.stderr
    assert "busy_workers" in shown.stderr


def taken(store: EventStore) -> int:
    found = rows(store, "SELECT position FROM checkpoints WHERE name = 'projection:busy_workers:v1'")
    return found[0][0] if found else 0
