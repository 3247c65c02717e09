"""What the README and examples/README.md say about the API runs as it stands there: the client's lines, and curl's."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import headway
from tests.support.http import Server, serving
from tests.support.npm import missing

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8000"


def blocks(mark: str, language: str) -> list[str]:
    """The code after each comment that says what it is."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "examples/README.md")]
    found = [
        block for text in texts for block in re.findall(rf"<!-- {mark}:.*?-->\n```{language}\n(.*?)```", text, re.S)
    ]
    assert found, f"no block is marked {mark!r}"
    return found


@pytest.fixture
def server(database_url: str) -> Iterator[Server]:
    with serving(database_url) as server:
        yield server


@contextmanager
def running(code: str, server: Server) -> Iterator[subprocess.Popen[str]]:
    assert ADDRESS in code
    program = [sys.executable, "-c", code.replace(ADDRESS, server.url)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("code", blocks("client", "python"))
def test_the_clients_lines_run_as_they_stand_there(code: str, server: Server) -> None:
    assert len([line for line in code.splitlines() if line.startswith("    ")]) <= 5
    with running(code, server) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "25.0\n"
        assert process.stdout.readline() == "snapshot 0.0\n"
        with headway.Client(server.url) as client:
            client.append("build:7", {"type": "job.completed"})
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "job.completed 100.0\n", "")


def test_ctrl_c_ends_a_program_that_follows(server: Server) -> None:
    with running(blocks("client", "python")[0], server) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)][1].startswith("snapshot")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGINT
        assert err.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("code", blocks("curl", "sh"))
def test_the_calls_with_curl_run_as_they_stand_there(code: str, server: Server) -> None:
    if shutil.which("curl") is None:
        missing("there is no curl: install it (Debian: curl)")
    program = code.replace("curl -s", "echo; curl --fail-with-body -s")
    environ = {"PATH": "/usr/bin:/bin", "HEADWAY_URL": server.url}
    done = subprocess.run(["sh", "-ec", program], env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers, stream = done.stdout.split("retry:", 1)
    told = [json.loads(line) for line in answers.splitlines() if line]
    assert [answer["job"]["percent"] for answer in told if "events" in answer and "job" in answer] == [0, 50, 50, 100]
    assert [answer["percent"] for answer in told if "steps" in answer] == [50.0, 50.0]
    assert "event: end" in stream
    assert stream.count("id: ") == 5
