"""Who may do what: every operation of the OpenAPI document × every role × two tenants, with and without our own filter.

Both logs hold a job of the same id and one of their own, full of a word that only they have. Whatever is asked, and
whatever the answer: the other tenant's word is not in it. With the application's filter turned to the wrong log,
row-level security alone must hold the same. An operation without a row in `RECIPES` fails the test.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import httpx
import psycopg
import pytest

from api import key_table
from api.auth import Scope
from eventstore.connections import Walled
from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from tests.support.http import Server, serving

TENANTS: Final = ("alpha", "beta")
WORD: Final = {"alpha": "alphasecret", "beta": "betasecret"}
SHARED: Final = "shared:1"
TOKEN: Final = "token"
BAD: Final = ("none", "garbage", "expired", "revoked", "in-query", "basic")
SCOPED: Final = tuple(scope.value for scope in Scope)
ROLES: Final = (*BAD, *SCOPED, "all", "prefixed", TOKEN)


class Recipe(NamedTuple):
    """How an operation is tried. `scopes`: one is needed; None: open. `ok`: answers when allowed, about a job of one's
    own; `foreign`: about a job that only the other tenant has."""

    scopes: frozenset[str] | None
    ok: frozenset[int]
    foreign: frozenset[int] = frozenset()
    body: Any = None
    query: str = ""
    stream: bool = False


def rule(*names: str) -> frozenset[str]:
    return frozenset(names)


NOTE: Final = {"type": "job.noted", "data": {"level": "info", "message": "tried"}}
READS: Final = rule("read", "audit")
RECIPES: Final[dict[tuple[str, str], Recipe]] = {
    ("POST", "/v1/jobs/{job}/events"): Recipe(rule("append"), frozenset({201}), frozenset({201}), body=NOTE),
    ("POST", "/v1/events"): Recipe(rule("append"), frozenset({201}), body=[{"job_id": "own:1", **NOTE}]),
    ("GET", "/v1/jobs"): Recipe(READS, frozenset({200})),
    ("GET", "/v1/jobs/{job}"): Recipe(READS, frozenset({200}), frozenset({404})),
    ("GET", "/v1/jobs/{job}/events"): Recipe(READS, frozenset({200}), frozenset({404})),
    ("GET", "/v1/events"): Recipe(READS, frozenset({200})),
    ("GET", "/v1/jobs/{job}/diff"): Recipe(READS, frozenset({200}), frozenset({404}), query="from=0&to=16"),
    ("GET", "/v1/jobs/{job}/stream"): Recipe(rule("read"), frozenset({200}), frozenset({404}), stream=True),
    ("GET", "/v1/stream"): Recipe(rule("read"), frozenset({200}), stream=True),
    ("POST", "/v1/stream-tokens"): Recipe(rule("read"), frozenset({201}), body={}),
    ("GET", "/healthz"): Recipe(None, frozenset({200})),
    ("GET", "/readyz"): Recipe(None, frozenset({200, 503})),
    ("GET", "/metrics"): Recipe(rule("admin"), frozenset({200})),
    ("GET", "/openapi.json"): Recipe(None, frozenset({200})),
    ("GET", "/docs"): Recipe(None, frozenset({200})),
    ("GET", "/"): Recipe(None, frozenset({200})),
    ("GET", "/problems/{code}"): Recipe(None, frozenset({200})),
}


class World(NamedTuple):
    server: Server
    headers: dict[tuple[str, str], dict[str, str]]
    tokens: dict[str, str]
    log_ids: dict[str, int]
    cursors: dict[str, str]


@pytest.fixture(scope="module")
def world(shared_database: str, servers: tuple[str, str]) -> Iterator[World]:
    headers: dict[tuple[str, str], dict[str, str]] = {}
    log_ids: dict[str, int] = {}
    cursors: dict[str, str] = {}
    keys: dict[str, str] = {}
    with EventStore(shared_database, log="alpha", projection=Progress()) as store:
        for tenant in TENANTS:
            log = store.for_log(tenant)
            log.create_log()
            log_ids[tenant] = log.log_id()
            for job in (SHARED, "own:1", f"own:{tenant}", f"other:{tenant}"):
                cursors[tenant] = log.append(job, secret_events(tenant))[-1].cursor
            with log.database.session() as conn:
                for role in (*SCOPED, "all", "prefixed", "expired", "revoked"):
                    scopes = [Scope(role)] if role in SCOPED else list(Scope)
                    prefix = "own:" if role == "prefixed" else ""
                    key = key_table.create(conn, log_ids[tenant], scopes=scopes, prefix=prefix)
                    keys[role] = key
                    headers[tenant, role] = {"authorization": f"Bearer {key}"}
                conn.execute(
                    "UPDATE api_keys SET expires_at = created_at + interval '1 ms' WHERE id = %s",
                    [part(keys["expired"])],
                )
                key_table.revoke(conn, part(keys["revoked"]))
            headers[tenant, "none"] = headers[tenant, "in-query"] = {}
            headers[tenant, "garbage"] = {"authorization": f"Bearer {keys['all'][:-4]}aaaa"}
            headers[tenant, "basic"] = {"authorization": "Basic YWxwaGE6YmV0YQ=="}
    with serving(shared_database, servers[1], keyless=False, log="alpha") as server:
        tokens = {}
        for tenant in TENANTS:
            answer = httpx.post(server.url + "/v1/stream-tokens", headers=headers[tenant, "read"], json={})
            tokens[tenant] = answer.json()["token"]
            headers[tenant, TOKEN] = {}
        yield World(server, headers, tokens, log_ids, cursors)


def part(key: str) -> str:
    return key.split("_")[1]


def secret_events(tenant: str) -> list[NewEvent]:
    word = WORD[tenant]
    return [
        NewEvent(type="job.planned", data={"title": word, "kind": word, "steps": [{"step": word, "label": word}]}),
        NewEvent(type="step.started", step=word, data={"worker": word}),
        NewEvent(type="step.progressed", step=word, data={"percent": 50, "message": word}),
        NewEvent(type="job.noted", actor=word, data={"level": "info", "message": word}),
    ]


def operations(server: Server) -> list[tuple[str, str]]:
    document = httpx.get(server.url + "/openapi.json").json()
    methods = ("get", "post", "put", "patch", "delete", "options", "head", "trace")
    return [(method.upper(), path) for path, item in document["paths"].items() for method in methods if method in item]


def ask(
    client: httpx.Client, world: World, operation: tuple[str, str], role: str, tenant: str, job: str
) -> tuple[int, str]:
    """The status and everything that was said, headers too."""
    method, path = operation
    recipe = RECIPES[operation]
    query = recipe.query
    if role == "in-query":
        query += "&token=" + world.headers[tenant, "all"]["authorization"].removeprefix("Bearer ")
    elif role == TOKEN:
        query += "&token=" + world.tokens[tenant]
    address = path.replace("{job}", job).replace("{code}", "not_found") + (f"?{query.strip('&')}" if query else "")
    body = None if recipe.body is None else json.dumps(recipe.body)
    headers = {**world.headers[tenant, role], **({"content-type": "application/json"} if body else {})}
    with client.stream(method, address, content=body, headers=headers) as answer:
        said = repr(answer.headers.raw)
        for text in answer.iter_text():
            said += text
            if recipe.stream and ("event: caught_up" in said or "event: end" in said):
                break
    return answer.status_code, said


def expected(recipe: Recipe, role: str, *, foreign: bool, job: str, has_job: bool) -> frozenset[int]:
    if recipe.scopes is None:
        return recipe.ok | {400} if role in ("in-query", TOKEN) else recipe.ok  # an unknown parameter
    if role == TOKEN:
        if not recipe.stream:
            return frozenset({401})
    elif role in BAD:
        return frozenset({401})
    elif role in SCOPED and role not in recipe.scopes:
        return frozenset({403})
    if has_job and role == "prefixed" and not job.startswith("own:"):
        return frozenset({404})
    return recipe.foreign if foreign and has_job else recipe.ok


def everything(world: World) -> Iterator[tuple[tuple[str, str], str, str, str, bool]]:
    """Each operation, role and tenant, about one's own job, one that both have, and one that only the other has."""
    for operation, role, tenant in itertools.product(operations(world.server), ROLES, TENANTS):
        other = TENANTS[1 - TENANTS.index(tenant)]
        yield operation, role, tenant, f"own:{tenant}", False
        if "{job}" in operation[1]:
            yield operation, role, tenant, SHARED, False
            if operation[0] == "GET":
                yield operation, role, tenant, f"own:{other}", True
                yield operation, role, tenant, f"other:{other}", True


def test_every_operation_of_the_document_has_a_row_in_the_matrix(world: World) -> None:
    assert set(operations(world.server)) == set(RECIPES)


def test_every_role_of_every_tenant_gets_what_it_may_and_never_the_others_word(world: World) -> None:
    """FAULTS A1, A3, A6."""
    wrong, tried = [], 0
    with httpx.Client(base_url=world.server.url) as client:
        for operation, role, tenant, job, foreign in everything(world):
            other = TENANTS[1 - TENANTS.index(tenant)]
            status, said = ask(client, world, operation, role, tenant, job)
            want = expected(RECIPES[operation], role, foreign=foreign, job=job, has_job="{job}" in operation[1])
            tried += 1
            if status not in want or WORD[other] in said:
                wrong.append((operation, role, tenant, job, status, sorted(want), WORD[other] in said))
    assert not wrong, "\n".join(map(str, wrong))
    assert tried > 800


def test_what_one_may_see_is_there(world: World) -> None:
    """Else an empty answer to everybody would pass the matrix."""
    with httpx.Client(base_url=world.server.url) as client:
        for operation, tenant in itertools.product(RECIPES, TENANTS):
            if operation[0] == "GET" and operation[1].startswith("/v1"):
                assert WORD[tenant] in ask(client, world, operation, "all", tenant, f"own:{tenant}")[1], operation


def test_row_level_security_alone_keeps_the_tenants_apart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS A1: the application's filter is turned to the other tenant's log; the wall is not."""
    right = EventStore.log_id
    swapped = {world.log_ids["alpha"]: world.log_ids["beta"], world.log_ids["beta"]: world.log_ids["alpha"]}
    turned = 0

    def wrong_log(self: EventStore) -> int:
        nonlocal turned
        log_id = right(self)
        if not isinstance(self.database, Walled):
            return log_id
        turned += 1
        return swapped[log_id]

    monkeypatch.setattr(EventStore, "log_id", wrong_log)
    leaks = []
    with httpx.Client(base_url=world.server.url, timeout=30) as client:
        for operation, role, tenant, job, _ in everything(world):
            if operation[0] == "GET" and not RECIPES[operation].stream and role in ("read", "audit", "all", "prefixed"):
                other = TENANTS[1 - TENANTS.index(tenant)]
                if WORD[other] in ask(client, world, operation, role, tenant, job)[1]:
                    leaks.append((operation, role, tenant, job))
    assert turned > 50
    assert not leaks


def test_without_the_wall_the_wrong_filter_would_leak(world: World, shared_database: str) -> None:
    """So the test before this one can fail."""
    with psycopg.connect(shared_database) as conn:
        found = conn.execute(
            "SELECT count(*) FROM jobs WHERE log_id = %s AND title = %s", (world.log_ids["beta"], WORD["beta"])
        ).fetchone()
    assert found is not None
    assert found[0] >= 3
