"""What the README says runs: its code is executed as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.events import NewEvent
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.wire import decode_event, stream_key
from projections.progress import Progress
from tests.support.sessions import wait_until

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")


def block(mark: str) -> str:
    """The Python after a comment that says what it is."""
    found = re.search(rf"<!-- {mark}:.*?-->\n```python\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no block marked {mark!r}"
    return found[1]


def test_the_quickstart_runs_as_it_stands_in_a_folder_of_its_own(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
    (tmp_path / "quickstart.py").write_text(block("quickstart"))
    shown = subprocess.run(
        [sys.executable, "quickstart.py"],
        cwd=tmp_path,
        env={"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split()[:2] == ["1", "job.planned"]
    assert lines[-1].split()[1:] == ["job.completed", "None", "100.0", "%"]
    percents = [float(re.search(r"([\d.]+) %", line)[1]) for line in lines]  # type: ignore[index]
    assert percents == sorted(percents)
    assert not [line for line in lines if "regression" in line]


def test_the_quickstart_is_at_most_twenty_lines_of_code() -> None:
    lines = [line for line in block("quickstart").splitlines() if line.strip()]
    assert len(lines) <= 20


def test_reading_the_redis_stream_directly_fills_holes_from_postgresql(database_url: str, redis_url: str) -> None:
    names: dict[str, Any] = {"stream_key": stream_key, "decode_event": decode_event}
    exec(block("raw reader"), names)
    events = [NewEvent(type="job.noted", data={"level": "info", "message": f"第 {n} 条"}) for n in range(30)]
    with EventStore(database_url) as store, redis.Redis.from_url(redis_url, protocol=2) as client:
        store.create_log()
        key = stream_key(store.log, 1)
        with start_relay(Relay(store, [RedisStreams(redis_url)])):
            store.append("job", events)
            wait_until(lambda: client.xlen(key) == 30, "the relay has published")
        client.xtrim(key, maxlen=7)
        client.xdel(key, "25-0")
        seen = list(islice(names["follow"](client, store), 30))
        assert [position for position, _ in seen] == list(range(1, 31))
        assert [event for _, event in seen] == store.read_log()
