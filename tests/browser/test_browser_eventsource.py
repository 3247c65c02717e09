"""EventSource as others wrote it: Chromium's, and npm's. See `ordeal.py`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.browser.ordeal import ordeal
from tests.support.browser import chromium
from tests.support.npm import node, npm_folder

HERE = Path(__file__).parent
READER = (HERE / "reader.mjs").read_text("utf-8")
PAGE = f"""<!doctype html><script type="module">
{READER.replace("export ", "")}
window.reading = (base, tokens) => read({{
  EventSource, base, path: "/v1/stream", isLast: told => told.data.message === "the end",
  renew: async () => (await fetch(tokens, {{method: "POST"}})).text(),
}}).then(seen => window.seen = seen, error => window.seen = {{error: String(error)}})
</script>"""


def test_chromium_misses_nothing_and_sees_nothing_twice(database_url: str, redis_url: str) -> None:
    with chromium() as browser, ordeal(database_url, seed=1, page=PAGE, redis_url=redis_url) as it:
        page = browser.new_page()
        page.goto(it.desk)
        page.evaluate("([base, tokens]) => void reading(base, tokens)", [it.url, it.desk])
        with it.telling():
            page.wait_for_function("window.seen", timeout=150_000)
        seen = page.evaluate("window.seen")
        assert "error" not in seen, seen
        it.judge(seen["ids"])
        assert seen["reauths"] >= 1


def test_npm_eventsource_misses_nothing_and_sees_nothing_twice(database_url: str) -> None:
    program, packages = node(), npm_folder()
    with ordeal(database_url, seed=2) as it:
        reader = subprocess.Popen(
            [program, HERE / "node_reader.mjs", packages, it.url, it.desk],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            with it.telling():
                out, err = reader.communicate(timeout=150)
        finally:
            reader.kill()
        assert reader.returncode == 0, err
        seen = json.loads(out)
        it.judge(seen["ids"])
        assert seen["reauths"] >= 1
