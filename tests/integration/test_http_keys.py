"""Keys over HTTP: who gets in, to which log and which jobs, how often, and until when (A1, A2, A3, A5, A6, S9)."""

from __future__ import annotations

import http.client
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from api.auth import Principal, Scope
from api.keys import NoKeys
from eventstore.store import EventStore
from tests.support.http import Server, serving
from tests.support.keys import bearer, id_of, make_key, make_logs, revoke_key, wrong_secret
from tests.support.sessions import wait_until

TENANTS = 8


@pytest.fixture(scope="module")
def two(shared_database: str) -> Iterator[tuple[Server, str, str]]:
    """A server with two tenants, and a key of each with all scopes. Each has a job `job` and one that is its own."""
    make_logs(shared_database, "acme", "rival")
    keys = [make_key(shared_database, log) for log in ("acme", "rival")]
    with serving(shared_database, keyless=False, log="acme") as server:
        for log, key in zip(("acme", "rival"), keys, strict=True):
            for job in ("job", f"{log}-only"):
                event = {"type": "step.started", "step": "s", "data": {"label": f"of {log}"}}
                post(server, job, event, key).raise_for_status()
        yield server, *keys


def post(server: Server, job: str, event: Any, key: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/jobs/{job}/events", json=event, headers=bearer(key))


def get(server: Server, path: str, key: str | None) -> httpx.Response:
    return httpx.get(server.url + path, headers={} if key is None else bearer(key))


def known(server: Server, key: str) -> str:
    """The key, once the server that runs knows it."""
    wait_until(lambda: get(server, "/v1/jobs", key).status_code != 401, "the new key is known")
    return key


READS = [
    "/v1/jobs/{job}", "/v1/jobs/{job}?at=1", "/v1/jobs/{job}/events", "/v1/jobs/{job}/events?format=csv",
    "/v1/jobs/{job}/diff?from=0&to=now", "/v1/jobs/{job}/stream",
]  # fmt: skip


@pytest.mark.parametrize("path", READS)
def test_another_tenants_job_does_not_exist(two: tuple[Server, str, str], path: str) -> None:
    """A1: 404, the same answer as for a job that nobody has, on every route that names a job."""
    server, acme, _ = two
    theirs, nobodys = get(server, path.format(job="rival-only"), acme), get(server, path.format(job="nobodys"), acme)
    for answer in (theirs, nobodys):
        assert answer.status_code == 404
        assert answer.json()["code"] == "not_found"
    assert theirs.text.replace("rival-only", "nobodys").split("request_id")[0] == nobodys.text.split("request_id")[0]


def test_lists_and_history_show_only_the_keys_own_log(two: tuple[Server, str, str]) -> None:
    """A1."""
    server, *keys = two
    for path in ("/v1/jobs", "/v1/events", "/v1/events?format=csv", "/v1/events?text=of", "/v1/events?applied=true"):
        for key, own, others in zip(keys, ("acme", "rival"), ("rival", "acme"), strict=True):
            answer = get(server, path, key)
            assert answer.status_code == 200, answer.text
            assert f"{own}-only" in answer.text
            assert others not in answer.text


def test_what_is_appended_with_a_key_is_in_its_log_alone(two: tuple[Server, str, str]) -> None:
    """A1: writing to a job of the same name touches the key's own job."""
    server, acme, rival = two
    for _ in range(2):
        assert post(server, "of-both", {"type": "job.started"}, rival).status_code == 201
    assert post(server, "of-both", {"type": "job.started"}, acme).status_code == 201
    assert get(server, "/v1/jobs/of-both", rival).json()["version"] == 2
    assert get(server, "/v1/jobs/of-both", acme).json()["version"] == 1
    assert get(server, "/v1/events", acme).json()["events"][-1]["actor"] == id_of(acme)


def test_event_ids_and_positions_of_a_tenant_say_nothing_of_another(database_url: str) -> None:
    """A23, I16: an id that another tenant used is no conflict and no oracle; positions are dense in each log."""
    make_logs(database_url, "acme", "rival")
    keys = [make_key(database_url, log) for log in ("acme", "rival")]
    event = {"type": "job.started", "event_id": "01890a5d-ac96-774b-bcce-b302099a8057"}
    with serving(database_url, keyless=False, log="acme") as server:
        for _ in range(5):
            assert post(server, "busy", {"type": "job.started"}, keys[0]).status_code == 201
        for key, position in zip(keys, (6, 1), strict=True):
            answer = post(server, "job", event, key)
            assert answer.status_code == 201, answer.text
            (told,) = answer.json()["events"]
            assert (told["position"], told["duplicate"]) == (position, False)


def test_a_key_with_a_prefix_sees_and_writes_only_its_jobs(two: tuple[Server, str, str], shared_database: str) -> None:
    server, acme, _ = two
    key = known(server, make_key(shared_database, "acme", prefix="build:"))
    assert post(server, "build:1", {"type": "job.started"}, key).status_code == 201
    assert post(server, "job", {"type": "job.started"}, key).status_code == 404
    assert get(server, "/v1/jobs/job", key).status_code == 404
    assert [job["job_id"] for job in get(server, "/v1/jobs", key).json()["jobs"]] == ["build:1"]
    assert {event["job_id"] for event in get(server, "/v1/events", key).json()["events"]} == {"build:1"}
    assert get(server, "/v1/jobs/job", acme).status_code == 200


NO_KEYS: dict[str, Any] = {
    "none": {},
    "empty": {"authorization": ""},
    "only the kind": {"authorization": "Bearer"},
    "another kind": {"authorization": "Basic aHc6aHc="},
    "an id that nobody has": {"authorization": "Bearer hw_aaaaaaaaaaaa_" + "a" * 40},
    "too short": {"authorization": "Bearer hw_aaaaaaaaaaaa_a"},
    "upper case": {"authorization": "Bearer HW_AAAAAAAAAAAA_" + "A" * 40},
    "a control": {"authorization": "Bearer hw_aaaa\tb"},
    "bytes": {"authorization": b"Bearer \xff\xfe"},
    "another header": {"x-api-key": "hw_aaaaaaaaaaaa_" + "a" * 40},
}


@pytest.mark.parametrize("headers", NO_KEYS.values(), ids=NO_KEYS)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job", "/v1/events", "/v1/stream", "/metrics"])
def test_without_a_good_key_nothing_is_answered(two: tuple[Server, str, str], path: str, headers: Any) -> None:
    """A3: 401 with WWW-Authenticate, before anything is looked for."""
    server, _, _ = two
    answer = httpx.get(server.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["code"] == "unauthorized"


def test_a_wrong_secret_is_answered_like_an_id_that_nobody_has(two: tuple[Server, str, str]) -> None:
    """A3: no enumeration: the same words, and the same work (both look into the database)."""
    server, acme, _ = two
    known, unknown = wrong_secret(acme), "hw_aaaaaaaaaaaa_" + "a" * 40
    first, second = (get(server, "/v1/jobs", key) for key in (known, unknown))
    assert first.status_code == second.status_code == 401
    assert first.text.split("request_id")[0] == second.text.split("request_id")[0]
    assert set(first.headers) == set(second.headers)


@pytest.mark.parametrize("name", ["token", "key", "api_key", "access_token", "text"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/events", "/v1/stream", "/v1/jobs/job/stream"])
def test_a_key_in_an_address_is_refused_even_beside_a_good_one(
    two: tuple[Server, str, str], path: str, name: str
) -> None:
    """A3: addresses are kept in logs."""
    server, acme, _ = two
    for headers in ({}, bearer(acme)):
        answer = httpx.get(server.url + path, params={name: acme}, headers=headers)
        assert answer.status_code == 401
        assert acme not in answer.text


def test_a_key_that_is_over_or_revoked_is_no_key(two: tuple[Server, str, str], shared_database: str) -> None:
    """A3."""
    server, _, _ = two
    over, revoked = make_key(shared_database, "acme", lasts=-1), make_key(shared_database, "acme")
    revoke_key(shared_database, revoked)
    for key in (over, revoked):
        assert get(server, "/v1/jobs", key).status_code == 401


MAY = {
    Scope.APPEND: {"append"},
    Scope.READ: {"list", "snapshot", "history", "token"},
    Scope.AUDIT: {"list", "snapshot", "history"},
    Scope.ACT_AS: set(),
    Scope.ADMIN: {"metrics"},
}
CALLS: dict[str, tuple[str, str, Any]] = {
    "append": ("POST", "/v1/jobs/scoped/events", {"type": "job.started"}),
    "list": ("GET", "/v1/jobs", None),
    "snapshot": ("GET", "/v1/jobs/job", None),
    "history": ("GET", "/v1/events", None),
    "token": ("POST", "/v1/stream-tokens", {}),
    "metrics": ("GET", "/metrics", None),
}


@pytest.mark.parametrize("scope", list(Scope))
def test_a_key_may_what_its_scopes_say_and_nothing_else(
    two: tuple[Server, str, str], shared_database: str, scope: Scope
) -> None:
    """A6: an append key that asks for history, audit or metrics gets 403."""
    server, _, _ = two
    key = known(server, make_key(shared_database, "acme", scopes=[scope]))
    for name, (method, path, body) in CALLS.items():
        answer = httpx.request(method, server.url + path, json=body, headers=bearer(key))
        if name in MAY[scope]:
            assert answer.status_code in (200, 201), (name, answer.text)
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), name


@pytest.mark.slow
def test_10_000_interleaved_requests_of_8_tenants_never_cross(database_url: str) -> None:
    """A2: each over few pooled connections, all at once; every answer is of who asked."""
    make_logs(database_url, *(f"tenant-{n}" for n in range(TENANTS)))
    keys = [make_key(database_url, f"tenant-{n}") for n in range(TENANTS)]
    crossed: list[str] = []
    with serving(database_url, keyless=False, log="tenant-0", pool_size=4, access_log=False) as server:
        for n, key in enumerate(keys):
            event = {"type": "step.started", "step": f"of-{n}-only"}
            assert post(server, "job", event, key).status_code == 201

        def ask(seed: int) -> int:
            turns, done = random.Random(seed), 0
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            for _ in range(1_250):
                n = turns.randrange(TENANTS)
                path = turns.choice(("/v1/jobs/job", "/v1/jobs/job", "/v1/jobs/job", "/v1/events?limit=5"))
                client.request("GET", path, headers=bearer(keys[n]))
                answer = client.getresponse()
                text = answer.read().decode()
                others = [m for m in range(TENANTS) if m != n and f"of-{m}-only" in text]
                if answer.status == 200 and (others or f"of-{n}-only" not in text):
                    crossed.append(text)
                done += answer.status == 200
            client.close()
            return done

        with ThreadPoolExecutor(TENANTS) as threads:
            done = sum(threads.map(ask, range(TENANTS)))
        assert crossed == []
        assert done == 10_000
        assert server.services.walls


def test_a_flood_of_appends_is_told_when_to_come_back(database_url: str) -> None:
    """A5: at the burst it is taken, one past it 429 with Retry-After, and another key is not affected."""
    make_logs(database_url, "default")
    flooding, calm = make_key(database_url), make_key(database_url)
    with serving(database_url, keyless=False, append_rate=1, append_burst=20) as server:
        answers = [post(server, "job", {"type": "job.started"}, flooding) for _ in range(60)]
        codes = [answer.status_code for answer in answers]
        assert codes[:20] == [201] * 20
        assert 429 in codes[20:]
        refused = answers[codes.index(429)]
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["code"] == "too_many_requests"
        assert post(server, "job", {"type": "job.started"}, calm).status_code == 201
        assert get(server, "/v1/jobs/job", flooding).status_code == 200


def test_a_revoked_key_is_refused_soon_by_a_server_that_runs(database_url: str) -> None:
    """S9, the ring's part: known by polling, nobody has to ask for it."""
    make_logs(database_url, "default")
    key, other = make_key(database_url), make_key(database_url)
    with serving(database_url, keyless=False) as server:
        assert get(server, "/v1/jobs", key).status_code == 200
        assert server.services.keys.is_good(id_of(key))
        revoke_key(database_url, key)
        wait_until(lambda: not server.services.keys.is_good(id_of(key)), "the server knows that the key is revoked")
        assert get(server, "/v1/jobs", key).status_code == 401
        assert get(server, "/v1/jobs", other).status_code == 200


def test_a_key_made_while_the_server_runs_works_without_a_restart(
    two: tuple[Server, str, str], shared_database: str
) -> None:
    server, _, _ = two
    for _ in range(3):
        assert get(server, "/v1/jobs", known(server, make_key(shared_database, "acme"))).status_code == 200


def test_without_a_key_in_the_table_a_server_that_needs_one_does_not_start(database_url: str) -> None:
    make_logs(database_url, "default")
    make_key(database_url, lasts=-1)
    with pytest.raises(NoKeys, match="headway keys create"), serving(database_url, keyless=False):
        pass


def test_where_no_key_is_needed_a_bad_one_is_still_refused(database_url: str) -> None:
    with serving(database_url, keyless=True) as server:
        key = known(server, make_key(database_url, prefix="a"))
        assert get(server, "/v1/jobs", None).status_code == 200
        assert get(server, "/v1/jobs", wrong_secret(key)).status_code == 401
        assert get(server, "/v1/jobs/b", key).status_code == 404
        assert httpx.get(server.url + "/v1/jobs", headers={"authorization": "Basic Og=="}).status_code == 200


def test_keys_that_are_known_stay_good_while_postgresql_is_away(database_url: str) -> None:
    make_logs(database_url, "default")
    key = make_key(database_url)
    with serving(database_url, keyless=False) as server:
        assert get(server, "/v1/jobs", key).status_code == 200
        with away(database_url):
            assert get(server, "/v1/jobs", key).status_code == 503
            assert get(server, "/v1/jobs", wrong_secret(key)).status_code == 401
            assert server.services.keys.is_good(id_of(key))
        wait_until(lambda: get(server, "/v1/jobs", key).status_code == 200, "PostgreSQL is back")


@contextmanager
def away(database_url: str) -> Iterator[None]:
    """The database takes no connection, and those that there were are gone."""
    name = conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(make_conninfo(database_url, dbname="postgres"), autocommit=True) as conn:
        conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        conn.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def test_a_login_that_may_not_enter_reads_without_the_wall_and_says_so(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_logs(database_url, "default")
    with EventStore(database_url) as store:
        key, name = make_key(database_url), f"plain_{random.randrange(10**9)}"
        with store.database.session() as conn:
            conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'app' IN ROLE headway_server")
            conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
            for table in ("logs", "events", "jobs", "steps", "attempts", "api_keys", "checkpoints", "epochs"):
                conn.execute(f"CREATE POLICY {name} ON {table} TO {name} USING (true) WITH CHECK (true)")
            conn.execute(f"REVOKE headway_server FROM {name}")
            conn.execute(f"GRANT headway_append TO {name}")
            conn.execute(f"GRANT SELECT, INSERT ON signing_keys TO {name}")
        url = make_conninfo(database_url, user=name, password="app")
        try:
            with caplog.at_level("WARNING", "headway.serve"), serving(url, keyless=False) as server:
                assert not server.services.walls
                assert get(server, "/v1/jobs", key).status_code == 200
            assert caplog.text.count("row-level security is not used") == 1
        finally:
            with store.database.session() as conn:
                conn.execute(f"DROP OWNED BY {name}")
                conn.execute(f"DROP ROLE {name}")


def test_without_keys_there_is_no_limit_of_appends_for_anybody() -> None:
    from api.auth import everybody
    from api.limits import Limits

    limits = Limits(rate=1, burst=1)
    for _ in range(100):
        limits.append(everybody("default"))


def test_the_wall_is_built_from_the_keys_row_and_not_from_the_logs_name(
    two: tuple[Server, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1: with a principal whose name and number disagree (a fault of the program) nothing is read."""
    server, _, rival = two
    services = server.services
    (rivals,) = (who for _, who in services.keys._keys.values() if who.key_id == id_of(rival))
    crossed = Principal(key_id="x", log="acme", log_id=rivals.log_id, scopes=rivals.scopes)
    tenant = services.tenant(crossed)
    assert tenant.store.read_log() == []


def test_while_the_database_does_not_say_who_has_a_key_no_stranger_waits(
    database_url: str,
) -> None:
    make_logs(database_url, "acme")
    key = make_key(database_url, "acme")
    with serving(database_url, keyless=False, log="acme") as server:
        with psycopg.connect(database_url) as conn:
            conn.execute("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
            for stranger in (wrong_secret(key), wrong_secret(key), "hw_" + "a" * 12 + "_" + "a" * 40):
                assert get(server, "/v1/jobs", stranger).status_code == 401
            assert get(server, "/v1/jobs", key).status_code == 200
        known(server, make_key(database_url, "acme"))


def test_what_one_tenant_knows_is_no_answer_to_another(two: tuple[Server, str, str]) -> None:
    server, acme, rival = two
    ours = get(server, "/v1/jobs/job", acme)
    theirs = httpx.get(f"{server.url}/v1/jobs/job", headers=bearer(rival) | {"if-none-match": ours.headers["etag"]})
    assert (theirs.status_code, theirs.json()["version"]) == (200, ours.json()["version"])
