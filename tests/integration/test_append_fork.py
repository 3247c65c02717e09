"""After a fork the child appends at once with connections of its own, and the parent notices nothing."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from eventstore.store import EventStore
from eventstore.verify import verify

SCRIPT = """
import os, sys
from eventstore.errors import Forked
from eventstore.events import NewEvent
from eventstore.store import EventStore
from tests.support.sessions import Watcher, holding_log

url, log = sys.argv[1:]
event = lambda text: NewEvent(type="job.noted", data={"message": text})
store = EventStore(url, log=log, pool_size=2)
store.create_log(log + "-b")
seen = []
store.on_append(lambda head, events: seen.append(head.position))
store.append("parent", [event("before")])
store.head()
with holding_log(url, log) as holder:
    call = store.submit(store.prepare("parent", [event("queued")]))
    watcher = Watcher(url)
    watcher.until_waiting()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                call.wait()
            except Forked:
                code = 2
            other = store.for_log(log + "-b")
            assert other.append("child", [event("child")])[0].position == 1
            assert other.read_log()[0].job_id == "child"
            assert store.head().position == 1
            assert len(seen) == 1, "a listener of the parent was called in the child"
            grandchild = os.fork()
            if grandchild == 0:
                other.append("child", [event("grandchild")])
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
            assert other.append("child", [event("child")])[0].position == 3
            store.close()
            code = 0 if code == 2 else 3
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, code
    holder.rollback()
assert call.wait()[0].position == 2
assert store.append("parent", [event("after")])[0].position == 3
assert store.head().position == 3
assert seen == [1, 2, 3], seen
watcher.close()
store.close()
"""


@pytest.mark.parametrize("warnings", ["default", "error"])
def test_a_child_appends_at_once_and_the_parents_calls_stay_the_parents(shared_database, warnings):
    log = f"log-{uuid.uuid4().hex[:12]}"
    with EventStore(shared_database, log=log, pool_size=1) as store:
        store.create_log()
        done = subprocess.run(
            [sys.executable, "-W", warnings, "-c", SCRIPT, shared_database, log],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [e.data["message"] for e in store.read_log()] == ["before", "queued", "after"]
        assert [e.data["message"] for e in store.for_log(f"{log}-b").read_log()] == ["child", "grandchild", "child"]
        assert verify(store).events == verify(store.for_log(f"{log}-b")).events == 3
        if warnings == "default":
            assert "ResourceWarning" not in done.stderr
