"""The documentation as it is served, and its examples against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from api.openapi.curl import address, content
from api.openapi.operations import OPERATIONS
from api.problems import TABLE
from api.routes import ROUTES
from tests.support.http import serving


@pytest.fixture
def client(database_url: str, redis_url: str) -> Iterator[httpx.Client]:
    with serving(database_url, redis_url) as server, httpx.Client(base_url=server.url) as client:
        yield client


def test_the_examples_of_the_documentation_work_in_their_order(client: httpx.Client) -> None:
    routes = {(route.method, route.path): route for route in ROUTES}
    for (method, path), operation in OPERATIONS.items():
        for example in operation.examples:
            headers = dict(example.headers)
            sent = None
            if example.body is not None:
                sent = content(example).encode()
                headers["content-type"] = example.kind
            where = address(routes[method, path], example)
            with client.stream(method, where, headers=headers, content=sent) as answer:
                if not example.endless:
                    answer.read()
                assert answer.status_code == example.status, (method, where, answer.read())
                kind = answer.headers.get("content-type", "").partition(";")[0]
                known = operation.answers.get(example.status)
                assert known is None or not known.content or kind in known.content


def test_the_document_and_its_pages_are_served_with_a_tag(client: httpx.Client) -> None:
    for path in ("/openapi.json", "/docs", "/"):
        first = client.get(path)
        assert first.status_code == 200
        assert client.get(path, headers={"if-none-match": first.headers["etag"]}).status_code == 304
    assert client.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_a_server_that_asks_for_no_keys_documents_none(client: httpx.Client) -> None:
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]
    assert "asks for no key" in client.get("/docs").text


def test_a_page_may_load_and_run_nothing(client: httpx.Client) -> None:
    for path in ("/docs", "/", "/problems/not_found"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_every_problem_leads_to_its_meaning(client: httpx.Client) -> None:
    found = client.get("/v1/jobs/nobody").json()
    assert found["code"] in client.get(found["type"]).text
    for error in TABLE:
        answer = client.get(f"/problems/{error.code}", headers={"accept": "application/json"})  # type: ignore[attr-defined]
        assert answer.json()["status"] == TABLE[error].status
    assert client.get("/problems/nonsense").status_code == 404
    assert client.get("/problems/not_found", headers={"accept": "image/png"}).status_code == 406


def test_links_inside_the_documentation_lead_somewhere(client: httpx.Client) -> None:
    page = client.get("/docs").text
    names = set(re.findall(r'id="([^"]+)"', page))
    for link in re.findall(r'href="([^"]+)"', page):
        if link.startswith("#"):
            assert link[1:] in names
        else:
            assert client.get(link.partition("#")[0]).status_code == 200, link
