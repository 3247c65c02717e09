"""npm packages for tests, of exact versions, in a folder of the environment; never in the repository.

Without Node.js, npm or a registry the tests that need them are skipped at a desk, and fail where CI=true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

PACKAGES = ("eventsource@4.1.1", "ioredis@6.0.0")


def missing(what: str) -> None:
    """Skip, or fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def node() -> str:
    """The program; version 20 or newer."""
    found = shutil.which("node")
    if found is None:
        missing("there is no Node.js: install it (Debian: nodejs, npm)")
    assert found is not None
    return found


@cache
def _install() -> Path | str:
    """The folder with `node_modules`, or why there is none."""
    name = "-".join(package.replace("@", "-") for package in PACKAGES)
    folder = Path(sys.prefix) / "npm" / name
    if folder.is_dir():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        return "there is no npm: install it (Debian: npm)"
    folder.parent.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent))
    command = [npm, "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run([*command, "--prefix", fresh, *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(fresh)
        return f"npm can't install {' '.join(PACKAGES)}: {done.stderr[-500:]}"
    try:
        fresh.rename(folder)  # another worker may have been faster
    except OSError:
        shutil.rmtree(fresh)
    return folder


def npm_folder() -> Path:
    """A folder in which `import … from "eventsource"` works for scripts that lie in it."""
    found = _install()
    if isinstance(found, str):
        missing(found)
    assert isinstance(found, Path)
    return found


def run_node(script: str, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
    """Start a module (ES syntax) that finds the npm packages."""
    where = folder or npm_folder()
    return subprocess.Popen(
        [node(), "--input-type=module", "-", *arguments] if script == "-" else [node(), script, *arguments],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
