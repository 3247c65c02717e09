"""The installed command as a shell runs it: servers of its own, pipes, signals, terminals, folders of other people."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from api.embedded.folder import prepare
from api.embedded.servers import down, running, wait_stopped
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress

HEADWAY = Path(sys.executable).with_name("headway")
OURS = ("DATABASE_URL", "REDIS_URL", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONPATH")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("HEADWAY_")}
    return kept | more


def headway(*args: str, cwd: Path | None = None, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
    said = subprocess.run(
        [HEADWAY, *args], cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=50, check=False
    )
    assert code is None or said.returncode == code, f"{args} ended with {said.returncode}: {said.stderr}"
    assert "Traceback" not in said.stderr, said.stderr
    return said


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore(database_url, projection=Progress()) as opened:
        opened.create_log()
        yield opened


@pytest.fixture
def started(database_url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command and have it ended after the test."""
    processes = []

    def start(*args: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [HEADWAY, *args], env=environment(DATABASE_URL=database_url, **env),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder of the embedded servers, which have stopped after the test."""
    folder = Path(tempfile.mkdtemp(prefix="headway-tests-")).resolve()
    try:
        yield folder
    finally:
        down(folder)
        wait_stopped(prepare(folder))
        shutil.rmtree(folder, ignore_errors=True)


# -- servers of its own ---------------------------------------------------------------------------------------------


def test_without_any_server_the_first_append_just_works_and_leaves_none_behind(data_dir: Path) -> None:
    here = {"HEADWAY_DATA_DIR": str(data_dir)}
    assert headway("append", "b", "job.started", **here).stdout == "position 1, applied, job at 0.0 %\n"
    wait_stopped(prepare(data_dir))
    assert running(data_dir) is None
    assert json.loads(headway("tail", "--json", **here).stdout)["job_id"] == "b"


def test_up_prints_what_a_shell_can_export_and_down_stops_it(data_dir: Path) -> None:
    script = """
        set -eu
        eval "$(headway up)"
        eval "$(headway up)"
        headway append b job.started
        headway doctor >&2
        headway down
        if headway tail; then exit 9; fi
        headway down
        eval "$(headway up)"
        headway tail --json
        headway down
    """
    here = environment(HEADWAY_DATA_DIR=str(data_dir), PATH=f"{HEADWAY.parent}:{os.environ['PATH']}")
    said = subprocess.run(
        ["bash", "-c", script], env=here,
        capture_output=True, text=True, timeout=55, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    first, last = said.stdout.splitlines()
    assert first == "position 1, applied, job at 0.0 %"
    assert json.loads(last)["position"] == 1
    assert "nothing was up" in said.stderr
    assert running(data_dir) is None


def test_with_addresses_of_your_own_nothing_is_started(data_dir: Path, database_url: str, redis_url: str) -> None:
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "HEADWAY_DATA_DIR": str(data_dir)}
    said = headway("up", "--json", **given)
    assert json.loads(said.stdout) == {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    assert "nothing was started" in said.stderr
    headway("logs", "list", **given)
    assert list(data_dir.iterdir()) == []


# -- pipes and signals ----------------------------------------------------------------------------------------------


def fill(store: EventStore, count: int) -> None:
    for start in range(0, count, 500):
        store.append(f"b:{start}", [NewEvent(type="step.progressed", step="s", data={"done": n}) for n in range(500)])


@pytest.mark.parametrize("options", [[], ["--json"], ["--follow"], ["--follow", "--json"]])
def test_a_reader_that_leaves_early_is_no_failure(store: EventStore, database_url: str, options: list[str]) -> None:
    fill(store, 5_000)
    script = '"$@" | head -n 2; echo "${PIPESTATUS[0]}"'
    said = subprocess.run(
        ["bash", "-c", script, "bash", HEADWAY, "tail", *options],
        env=environment(DATABASE_URL=database_url), capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    lines = said.stdout.splitlines()
    assert (len(lines), lines[-1], said.stderr) == (3, "0", "")


def test_a_full_disk_is_told_and_is_a_failure(store: EventStore, database_url: str) -> None:
    store.append("b", [NewEvent(type="job.started")])
    with open("/dev/full", "w") as full:
        said = subprocess.run(
            [HEADWAY, "tail"], env=environment(DATABASE_URL=database_url),
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=50, check=False,
        )  # fmt: skip
    assert (said.returncode, said.stderr) == (1, "headway: the output can't be written: No space left on device\n")


def test_tail_follows_live_and_ctrl_c_is_clean(store: EventStore, started: Callable[..., Any]) -> None:
    store.append("b", [NewEvent(type="job.started")])
    tail = started("tail", "--follow", "--json")
    assert json.loads(tail.stdout.readline())["position"] == 1
    store.append("b", [NewEvent(type="job.completed")])
    assert json.loads(tail.stdout.readline())["position"] == 2
    tail.send_signal(signal.SIGINT)
    _, err = tail.communicate(timeout=20)
    assert (tail.returncode, err.strip()) == (130, "")


def test_ctrl_c_in_watch_is_clean(store: EventStore, started: Callable[..., Any]) -> None:
    store.append("b", [NewEvent(type="job.started")])
    watch = started("watch", "b")
    assert "b: running" in watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=20)
    assert (watch.returncode, err.strip()) == (130, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_relay_publishes_until_it_is_told_to_stop_and_gives_its_lease_back(
    store: EventStore, started: Callable[..., Any], redis_url: str, number: int
) -> None:
    import redis

    (first,) = store.append("b", [NewEvent(type="job.started")])
    relay = started("relay", "--log-format", "json", REDIS_URL=redis_url)
    said = [json.loads(relay.stderr.readline()) for _ in range(5)]
    assert {"redis-streams: leads", "redis-streams: caught up at position 1 of 1"} <= {line["message"] for line in said}
    with redis.from_url(redis_url) as client:
        assert [entry[1][b"cursor"].decode() for entry in client.xrange("headway:{default}:1:events")] == [first.cursor]
    relay.send_signal(number)
    _, err = relay.communicate(timeout=20)
    assert relay.returncode == 0, err
    with store.database.session() as conn:
        assert conn.execute("SELECT count(*) FROM checkpoints WHERE lease_owner IS NOT NULL").fetchone() == (0,)


# -- a terminal -----------------------------------------------------------------------------------------------------


def on_a_terminal(
    columns: int, lines: int, *args: str, when: dict[str, Callable[[], Any]] | None = None, **env: str
) -> tuple[int, str]:
    """Run the command on a terminal of that size; its exit code and all that it wrote.

    `when` holds what is to be done once a text stands there, one after the other.
    """
    steps = list((when or {}).items())
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [HEADWAY, *args], env=environment(TERM="xterm-256color", **env), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65_536):
            written += chunk
            if steps and steps[0][0].encode() in written:
                steps.pop(0)[1]()
    except OSError:
        pass
    finally:
        os.close(ours)
    return process.wait(20), written.decode()


@pytest.mark.parametrize("columns", [24, 40, 80])
def test_the_list_of_jobs_shows_their_ids_on_a_narrow_terminal(
    columns: int, store: EventStore, database_url: str
) -> None:
    store.append("build:4", [NewEvent(type="job.started")])
    _, written = on_a_terminal(columns, 24, "jobs", DATABASE_URL=database_url, NO_COLOR="1")
    ids = "".join(line[:8].strip() if columns > 24 else line[:4].strip() for line in written.splitlines()[1:])
    assert "build:4" in ids.replace(" ", "")


EVIL = "\x1b]52;c;aGk=\x07\x1b[2J\rok \x9b31m \u202egnp"


def finished_job(store: EventStore) -> None:
    steps = [{"step": f"s{number}", "label": f"步骤{number} {EVIL}"} for number in range(4)]
    store.append("b", [NewEvent(type="job.planned", data={"title": f"项目 {EVIL}", "steps": steps})])
    failed = NewEvent(type="step.failed", step="s1", data={"error": {"message": EVIL, "stack": f"a\n{EVIL}"}})
    done = [NewEvent(type="step.completed", step=step, data={"message": EVIL}) for step in ("s0", "s2")]
    store.append("b", [*done, failed, NewEvent(type="job.failed", data={"error": {"message": "no"}})])


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
@pytest.mark.parametrize(
    "command", [["watch", "b"], ["show", "b"], ["jobs"], ["tail"], ["tail", "--json"]], ids=" ".join
)
def test_on_a_terminal_of_any_width_nothing_that_was_typed_acts_on_it(
    store: EventStore, database_url: str, columns: int, command: list[str]
) -> None:
    finished_job(store)
    code, written = on_a_terminal(columns, 24, *command, DATABASE_URL=database_url)
    assert code == (1 if command[0] == "watch" else 0), written
    assert "\x1b]52" not in written
    assert "\x07" not in written
    assert "\x1b[2J" not in written
    assert "\x9b" not in written
    assert "\u202e" not in written
    if columns > 50 and command[0] != "jobs" and "--json" not in command:
        assert r"\x1b]52;c;aGk=\x07" in written


def test_bars_move_while_the_job_runs_and_the_whole_stands_there_at_the_end(
    store: EventStore, database_url: str
) -> None:
    def report(kind: str, step: str | None = None, **data: Any) -> Callable[[], Any]:
        return lambda: store.append("b", [NewEvent(type=kind, step=step, data=data)])

    report("job.planned", steps=[{"step": "s0", "label": "创建仓库"}, {"step": "s1", "label": "Push"}])()
    code, written = on_a_terminal(
        80, 24, "watch", "b", DATABASE_URL=database_url,
        when={
            "0.0 %": report("step.progressed", "s0", percent=42, message="正在创建"),
            "正在创建": report("step.completed", "s0"),
            "50.0 %": report("step.failed", "s1", error={"message": "gone", "stack": "line 1"}),
            "gone": report("job.cancelled", reason="enough"),
        },
    )  # fmt: skip
    assert code == 3
    assert "21.0 %" in written
    assert written.rstrip().endswith("Push, attempt 1: gone\x1b[0m\r\nline 1")


def test_no_color_is_respected(store: EventStore, database_url: str) -> None:
    finished_job(store)
    _, colourful = on_a_terminal(100, 24, "show", "b", DATABASE_URL=database_url)
    _, plain = on_a_terminal(100, 24, "show", "b", DATABASE_URL=database_url, NO_COLOR="1")
    assert "\x1b[1;31m" in colourful
    assert not any(f"\x1b[{code}" in plain for code in ("3", "1;3", "9"))


# -- folders of other people ----------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    for name in ("api", "migrations", "tests", "eventstore"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the worker has its own {name}')\n")
    return tmp_path


@pytest.mark.parametrize("command", [[HEADWAY], [sys.executable, "-m", "headway"]], ids=["headway", "python -m"])
def test_it_runs_in_a_folder_that_has_an_api_of_its_own(foreign: Path, database_url: str, command: list[str]) -> None:
    said = subprocess.run(
        [*command, "migrate"], cwd=foreign, env=environment(DATABASE_URL=database_url), capture_output=True, text=True,
        timeout=50, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "nothing to do" in said.stdout


@pytest.mark.parametrize("command", [[HEADWAY], [sys.executable, "-m", "headway"]], ids=["headway", "python -m"])
@pytest.mark.parametrize("module", ["api/__init__.py", "api.py"])
def test_a_foreign_module_that_comes_first_is_named_with_what_to_do(
    tmp_path: Path, command: list[str], module: str
) -> None:
    theirs = tmp_path / "lib" / module
    theirs.parent.mkdir(parents=True)
    theirs.write_text("raise ImportError('not this one')\n")
    said = subprocess.run(
        [*command, "--version"], env=environment(PYTHONPATH=str(tmp_path / "lib")), cwd=tmp_path,
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert f"another module is called `api` and comes first on the import path: {theirs}\n" in said.stderr
    assert f"Take {tmp_path / 'lib'} out of PYTHONPATH" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_namespace_folder_without_init_does_not_shadow(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    assert headway("--version", PYTHONPATH=str(tmp_path)).stdout.startswith("headway ")


# -- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_the_null_device(closed: str, store: EventStore, database_url: str) -> None:
    store.append("b", [NewEvent(type="job.started")])
    said = subprocess.run(
        ["sh", "-c", f'"{HEADWAY}" show b {closed}'],
        env=environment(DATABASE_URL=database_url), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")
    assert ("▸ running" in said.stdout) == (closed in ("2>&-", "<&-"))


# -- help -----------------------------------------------------------------------------------------------------------

HEAVY = ("sqlalchemy", "psycopg", "rich", "redis", "alembic", "anyio", "asyncio", "api.wiring")


@pytest.mark.parametrize("args", [["--help"], ["--version"], []])
def test_help_loads_no_driver_and_no_terminal_library(args: list[str]) -> None:
    probe = (
        "import sys; from headway.__main__ import main; sys.argv = ['headway', *sys.argv[1:]]; main();"
        " print(*sorted(sys.modules), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", probe, *args], capture_output=True, text=True, timeout=50, check=True)
    loaded = set(said.stderr.split())
    assert "api.cli" in loaded
    assert not loaded & set(HEAVY)


def test_every_command_has_a_help_and_the_codes_are_in_it() -> None:
    from api.cli import COMMANDS

    said = headway("--help").stdout
    assert "130  Ctrl-C" in said
    for name in COMMANDS:
        assert f"\n  {name} " in said
        assert f"Usage: headway {name} " in headway(name, "--help").stdout


def test_a_command_that_does_not_exist_is_wrong_usage() -> None:
    said = headway("tial\x1b[2J", code=2)
    assert "\x1b" not in said.stderr
    assert "No such command" in said.stderr
