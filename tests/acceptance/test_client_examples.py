"""What lies in examples/ runs: a worker in Node.js on a bad line, a page in Chromium over cuts and a restart."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import headway
from eventstore.store import EventStore
from projections.progress import Progress
from tests.browser.desk import desk
from tests.support.browser import chromium
from tests.support.cutting import cutting
from tests.support.http import serving
from tests.support.keys import make_key
from tests.support.npm import node
from tests.support.scripted import reply, script

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ASKED_AGAIN = """() => performance.getEntriesByType("resource").filter(e => e.name.endsWith("/tokens")).length > 1"""
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
PLAN = {
    "type": "job.planned",
    "data": {"title": HOSTILE, "steps": [{"step": "fetch"}, {"step": "store", "label": "写入数据库"}]},
}


@pytest.fixture
def key(database_url: str) -> Iterator[str]:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
    yield make_key(database_url)


def run_worker(url: str, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HEADWAY_URL": url, **({"HEADWAY_KEY": key} if key else {})}
    command = [node(), EXAMPLES / "worker.mjs", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=90, check=False)


def test_the_worker_in_javascript_reports_each_event_once_over_a_line_that_loses_answers(
    database_url: str, key: str
) -> None:
    with serving(database_url, keyless=False) as server:
        sent: list[list[str]] = []

        def passed_on(request: bytes) -> bytes:
            """To the server; every fourth answer is lost, every fourth says `busy` before anything was done."""
            head, _, body = request.partition(b"\r\n\r\n")
            sent.append([event["event_id"] for event in json.loads(body)])
            if len(sent) % 4 == 3:
                return reply(503, {"code": "busy", "detail": "later"}, retry_after="0")
            _, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            authorization = next(line for line in head.decode().split("\r\n") if line.lower().startswith("authoriz"))
            headers = {"content-type": "application/json", "authorization": authorization.split(": ")[1]}
            answer = httpx.post(server.url + target, content=body, headers=headers)
            return b"" if len(sent) % 4 == 1 else reply(answer.status_code, answer.json())

        with script(passed_on) as line:
            done = run_worker(line.url, "import:42", key=key)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "import:42: completed, 100 %\n"
        with headway.Client(server.url, key) as client:
            events = list(client.events("import:42"))
            job = client.job("import:42")
    ids = [event.event_id for event in events]
    drawn = list(dict.fromkeys(ident for some in sent for ident in some))
    assert ids == drawn
    assert sum(len(some) for some in sent) > len(drawn)
    assert [(event.type, event.reason) for event in events if not event.applied] == []
    assert [(step.step, step.status, len(step.attempts)) for step in job.steps] == [
        ("fetch", "completed", 2), ("store", "completed", 1),
    ]  # fmt: skip
    assert job.steps[0].attempts[0].error["message"] == "the source hung up"
    assert job.steps[1].label == "写入数据库"


def test_the_worker_in_javascript_stops_at_a_refusal_and_shows_no_key(database_url: str, key: str) -> None:
    with serving(database_url, keyless=False) as server:
        wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
        done = run_worker(server.url, "import:43", key=wrong)
    assert done.returncode == 1
    assert "401 unauthorized" in done.stderr
    assert key[10:-1] not in done.stderr + done.stdout


def test_the_page_shows_a_job_to_its_end_whatever_happens_to_its_stream(
    database_url: str, key: str, tmp_path: Path
) -> None:
    """Snapshot, live events, a token's end, cuts, a restart of the server, and the end; texts are shown as texts."""
    tokens: list[int] = []
    with cutting(None) as line:

        def token() -> str:
            tokens.append(1)
            with headway.Client(f"http://127.0.0.1:{line.target}", key) as client:
                return json.dumps(
                    {"token": client.stream_token(jobs=["page:1"], ttl=1 if len(tokens) == 1 else 60).token}
                )

        with chromium() as browser, desk(lambda: (EXAMPLES / "page.html").read_text("utf-8"), token) as origin:
            page = browser.new_page()
            outside: list[str] = []
            page.on("request", lambda request: outside.append(request.url))
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))

            def wait(text: str, where: str = "#percent") -> None:
                page.wait_for_function(
                    "([where, text]) => document.querySelector(where)?.textContent.includes(text)",
                    arg=[where, text], timeout=60_000,
                )  # fmt: skip

            with serving(database_url, keyless=False, cors_origins=(origin,)) as server:
                line.target = server.port
                with headway.Client(server.url, key) as client:
                    client.append("page:1", [PLAN, started("fetch"), progressed("fetch", 50)])
                    page.goto(f"{origin}/?job=page:1&server={line.url}&tokens={origin}/tokens")
                    wait("25.0 %")
                    wait("写入数据库", "[data-step=store]")
                    client.append("page:1", progressed("fetch", 60, message=HOSTILE))
                    wait("30.0 %")
                    wait("<img src=x", "[data-step=fetch]")
                    page.wait_for_function(ASKED_AGAIN, timeout=60_000)
                    client.append("page:1", progressed("fetch", 70))
                    wait("35.0 %")
                    line.drop_all()
                    client.append("page:1", progressed("fetch", 80))
                    wait("40.0 %")
                line.target = None
            with serving(database_url, keyless=False, cors_origins=(origin,)) as server:
                line.target = server.port
                with headway.Client(server.url, key) as client:
                    client.append("page:1", [completed("fetch"), started("store"), progressed("store", 20)])
                    wait("60.0 %")
                    page.screenshot(path=tmp_path / "page.png")
                    client.append("page:1", completed("store"))
                    wait("100.0 %")
                    wait("ended", "#connection")
            assert page.text_content("#status") == "completed"
            assert page.text_content("h1") == HOSTILE
            assert page.title() == HOSTILE
            assert page.locator("img").count() == 0
            assert page.evaluate("document.querySelector('progress').value") == 100
            assert errors == []
            assert all(address.startswith((origin, line.url)) for address in outside)
    assert len(tokens) >= 2


def started(step: str) -> dict[str, Any]:
    return {"type": "step.started", "step": step}


def progressed(step: str, percent: float, **data: Any) -> dict[str, Any]:
    return {"type": "step.progressed", "step": step, "data": {"percent": percent, **data}}


def completed(step: str) -> dict[str, Any]:
    return {"type": "step.completed", "step": step}
