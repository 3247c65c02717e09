"""The server answers: append, snapshot, problem documents."""

from __future__ import annotations

import httpx

from tests.support.http import serving


def test_what_was_posted_is_read_back_as_a_snapshot(database_url: str) -> None:
    with serving(database_url) as server, httpx.Client(base_url=server.url) as client:
        answer = client.post("/v1/jobs/build:7/events", json={"type": "job.started"})
        assert answer.status_code == 201
        shown = client.get("/v1/jobs/build:7").json()
        assert (shown["status"], shown["cursor"]) == ("running", answer.json()["events"][0]["cursor"])


def test_an_unknown_path_is_a_problem_document(database_url: str) -> None:
    with serving(database_url) as server:
        answer = httpx.get(server.url + "/nowhere")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "not_found"
