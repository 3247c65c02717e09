"""schemathesis, a program that no one here wrote, on our OpenAPI document: no 5xx, no status or shape that the document
does not name, nothing accepted that breaks it, nothing refused that follows it, no route that forgets to ask for a key.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.parameters import ParameterLocation

from eventstore.store import EventStore
from projections.progress import Progress
from tests.support.http import Server, serving
from tests.support.keys import bearer, make_key

pytestmark = [
    pytest.mark.timeout(500),
    # The server's threads draw jitter while hypothesis looks whether a strategy did.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module"),
]
ROOT = Path(__file__).parents[2]
FEWEST = 2_000
"""Cases that one run has at least."""
CONFIG = """
generation.allow-x00 = false

# What may be said in an event depends on what else it says, which a schema can't tell: 422 is right, too; so is 400 for
# a line that is no JSON. Everywhere else what follows the document must be accepted.
[[operations]]
include-operation-id = ["appendToJob", "append"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "422"]
"""


@pytest.fixture(scope="module")
def keyed(shared_database: str, servers: tuple[str, str]) -> Iterator[tuple[Server, str]]:
    """A server that wants keys, and one with all scopes."""
    with EventStore(shared_database, projection=Progress()) as store:
        store.create_log()
    key = make_key(shared_database)
    limits = {"append_rate": 1_000_000, "append_burst": 1_000_000}
    with serving(shared_database, servers[1], keyless=False, access_log=False, **limits) as server:
        yield server, key


def run(server: Server, key: str, folder: Path, *options: str) -> int:
    """How many cases were tried; fails if one of them showed a fault."""
    (folder / "config.toml").write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", "config.toml", "run", f"{server.url}/openapi.json",
        "-H", f"Authorization: Bearer {key}", "--checks", "all", "--continue-on-failure", "--no-color",
        "--exclude-path-regex", "/stream$", *options,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=450, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    counted = re.search(r"([0-9]+) generated", done.stdout)
    assert counted is not None, done.stdout[-5_000:]
    return int(counted[1])


def test_whatever_the_document_allows_or_forbids_is_answered_as_it_says(
    keyed: tuple[Server, str], tmp_path: Path
) -> None:
    phases = ("--phases", "examples,coverage,fuzzing")
    assert run(*keyed, tmp_path, *phases, "--max-examples", "15", "--seed", "20260731") >= FEWEST


def test_calls_that_follow_one_another_are_answered_as_the_document_says(
    keyed: tuple[Server, str], tmp_path: Path
) -> None:
    seed = str(random.randrange(2**31))  # another one in each run; the report of a failure names it
    assert run(*keyed, tmp_path, "--phases", "fuzzing,stateful", "--max-examples", "20", "--seed", seed) > 0


def wrong_on_the_wire(case: Any) -> bool:
    """Whether path or query break the document, also after what has no text was left out of the address."""
    parts = (ParameterLocation.PATH, ParameterLocation.QUERY)
    wrong = any(part.mode is GenerationMode.NEGATIVE for where, part in case.meta.components.items() if where in parts)
    return wrong and all(value not in ([], {}, None) for value in (case.query or {}).values())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", ["/v1/jobs/{job}/stream", "/v1/stream"])
def test_a_stream_begins_as_the_document_says(keyed: tuple[Server, str], path: str, mode: GenerationMode) -> None:
    server, key = keyed
    httpx.post(f"{server.url}/v1/jobs/fuzz:1/events", headers=bearer(key), json={"type": "job.started"})
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operation = schema[path]["GET"]
    documented = set(operation.definition.raw["responses"])
    seen: set[int] = set()

    with requests.Session() as session:

        @settings(
            max_examples=60, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def begin(case: Any) -> None:
            if "{job}" in path and mode is GenerationMode.POSITIVE:
                case.path_parameters = {"job": "fuzz:1"}
            sent = case.as_transport_kwargs(base_url=server.url, headers=bearer(key))
            with session.request(**{**sent, "timeout": 30}, stream=True) as answer:
                pass  # the head is what is looked at: the body ends when the job does
            assert str(answer.status_code) in documented, answer.request.url
            kind = "text/event-stream" if answer.status_code == 200 else "application/problem+json"
            assert answer.status_code == 204 or answer.headers["content-type"].startswith(kind)
            assert answer.status_code < 500
            if wrong_on_the_wire(case):
                assert answer.status_code != 200, (answer.request.url, answer.request.headers)
            seen.add(answer.status_code)

        begin()
    assert (200 in seen) if mode is GenerationMode.POSITIVE else (seen & {400, 404, 422})
