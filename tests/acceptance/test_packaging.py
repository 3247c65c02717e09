"""What people install is the wheel: built here, installed alone, run from a folder that has its own api/."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("headway-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel first and this environment's libraries behind it."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            venv / "bin" / "python",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "zz_libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A worker's project with packages of the same names as ours."""
    for name in ("api", "migrations", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the worker has its own {name}')\n")
    return tmp_path


def run(venv: Path, where: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [venv / "bin" / command[0], *command[1:]], cwd=where, capture_output=True, text=True, timeout=50, check=False
    )


def test_the_wheel_carries_the_packages_and_the_migrations_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"eventstore", "projections", "headway", "api"} <= tops
    assert not tops & {"tests", "migrations"}
    assert "eventstore/_migrations/versions/0001_the_log.py" in names
    assert "eventstore/sql/append.sql" in names
    assert {f"{package}/py.typed" for package in ("eventstore", "projections", "headway", "api")} <= set(names)


def test_the_installed_wheel_is_what_runs(installed: Path, foreign: Path) -> None:
    shown = run(installed, foreign, "python", "-P", "-c", "import eventstore, headway; print(eventstore.__file__)")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(str(installed))


def test_a_worker_imports_headway_beside_its_own_api(installed: Path, foreign: Path) -> None:
    (foreign / "worker.py").write_text("import headway\nprint(headway.__name__)\n")
    shown = run(installed, foreign, "python", "worker.py")
    assert (shown.returncode, shown.stdout) == (0, "headway\n"), shown.stderr


def test_the_command_runs_from_a_folder_with_its_own_api(installed: Path, foreign: Path) -> None:
    shown = run(installed, foreign, "headway", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Usage: headway" in shown.stdout


def test_the_module_runs_from_a_folder_with_its_own_api(installed: Path, foreign: Path) -> None:
    shown = run(installed, foreign, "python", "-m", "headway", "tail", "--after", "x")
    assert (shown.returncode, shown.stderr[:17]) == (2, "headway: cursor: "), shown.stderr


def test_a_module_that_shadows_ours_is_named(installed: Path, foreign: Path) -> None:
    shown = subprocess.run(
        [installed / "bin" / "headway", "--version"],
        env={"PYTHONPATH": str(foreign)}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert shown.returncode == 1
    assert str(foreign / "api" / "__init__.py") in shown.stderr
    assert f"Take {foreign} out of PYTHONPATH" in shown.stderr


def test_the_installed_wheel_migrates_a_database(installed: Path, foreign: Path, empty_database_url: str) -> None:
    script = "import sys; from eventstore.migrate import migrate; print(migrate(sys.argv[1]))"
    shown = run(installed, foreign, "python", "-P", "-c", script, empty_database_url)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("(None, '0")


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-P", "-c", "import headway"],
        ["python", "-P", "-c", "import sys; sys.argv = ['headway', '--help']; import headway.__main__ as m; m.main()"],
    ],
    ids=["import", "help"],
)
def test_importing_headway_and_asking_for_help_load_no_database_and_no_web(
    installed: Path, foreign: Path, command: list[str]
) -> None:
    probe = "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr)); "
    shown = run(installed, foreign, *command[:-1], probe + command[-1])
    loaded = set(shown.stderr.split())
    assert "headway" in loaded
    assert not loaded & {"sqlalchemy", "psycopg", "redis", "alembic", "litestar", "uvicorn", "rich"}
