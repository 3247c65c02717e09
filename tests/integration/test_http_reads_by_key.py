"""What a key reads: only jobs of its prefix, in lists and histories too, and nothing that the log says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from eventstore.events import LOG_JOB, NewEvent
from eventstore.store import EventStore
from projections.job_list import Order, jobs_page
from projections.progress import Progress
from tests.support.http import serving
from tests.support.keys import bearer, make_key

NOTE = NewEvent(type="job.noted", data={"level": "info", "message": "hello"})


@pytest.fixture(scope="module")
def clients(shared_database: str) -> Iterator[dict[str, httpx.Client]]:
    """Clients by the prefix of their keys, of a log with jobs acme:1, acme:2, other:1 and an event about itself."""
    with EventStore(shared_database, projection=Progress()) as store:
        store.create_log()
        for job in ("acme:1", "acme:2", "other:1", "hea"):
            store.append(job, [NOTE])
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute("UPDATE logs SET timeline = 'before the restore' WHERE name = 'default'")
    with EventStore(shared_database, projection=Progress()) as store:
        store.append("acme:1", [NOTE])
    keys = {prefix: make_key(shared_database, scopes=["read"], prefix=prefix) for prefix in ("", "acme:", "hea")}
    with serving(shared_database, keyless=False) as server:
        made = {prefix: httpx.Client(base_url=server.url, headers=bearer(key)) for prefix, key in keys.items()}
        yield made
        for client in made.values():
            client.close()


def jobs(client: httpx.Client, query: str = "") -> list[str]:
    answer = client.get(f"/v1/jobs{query}")
    assert answer.status_code == 200, answer.text
    return sorted(job["job_id"] for job in answer.json()["jobs"])


def history(client: httpx.Client, query: str = "") -> set[str]:
    page = client.get(f"/v1/events{query}")
    assert page.status_code == 200, page.text
    found = {event["job_id"] for event in page.json()["events"]}
    lines = client.get(f"/v1/events{query}", headers={"accept": "application/x-ndjson"}).text.splitlines()
    assert {json.loads(line)["job_id"] for line in lines} == found
    return found


def test_a_list_has_the_jobs_of_the_keys_prefix_only(clients: dict[str, httpx.Client]) -> None:
    assert jobs(clients[""]) == ["acme:1", "acme:2", "hea", "other:1"]
    assert jobs(clients["acme:"]) == ["acme:1", "acme:2"]
    assert jobs(clients["acme:"], "?prefix=a") == ["acme:1", "acme:2"]
    assert jobs(clients["acme:"], "?prefix=acme:2") == ["acme:2"]
    assert jobs(clients["acme:"], "?prefix=other") == []


def test_a_history_has_the_jobs_of_the_keys_prefix_only(clients: dict[str, httpx.Client]) -> None:
    assert history(clients["acme:"]) == {"acme:1", "acme:2"}
    assert history(clients["acme:"], "?prefix=acme:2") == {"acme:2"}
    assert history(clients["acme:"], "?prefix=other:") == set()
    assert history(clients["acme:"], "?text=hello&order=newest") == {"acme:1", "acme:2"}


def test_what_the_log_says_of_itself_is_for_keys_without_a_prefix(clients: dict[str, httpx.Client]) -> None:
    assert LOG_JOB in history(clients[""])
    assert LOG_JOB in history(clients[""], "?type=log.*")
    assert history(clients["hea"]) == {"hea"}
    assert history(clients["hea"], "?type=log.*") == set()


def test_a_job_outside_the_prefix_is_not_there(clients: dict[str, httpx.Client]) -> None:
    for path in ("/v1/jobs/other:1", "/v1/jobs/other:1/events", "/v1/jobs/other:1/diff"):
        assert clients["acme:"].get(path).status_code == 404
        assert clients[""].get(path).status_code == 200


def test_pages_that_look_at_few_jobs_lose_none(database_url: str) -> None:
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
        store.append_many([(f"many:{number}", NOTE) for number in range(50)])
        for order in Order:
            found, place = [], None
            while True:
                page = jobs_page(store, prefix="many:", order=order, place=place, limit=4, scan=7)
                found += [job.job_id for job in page.jobs]
                if (place := page.place) is None:
                    break
            expected = [f"many:{number}" for number in range(50)]
            assert found == (expected if order is Order.OLDEST else expected[::-1])
