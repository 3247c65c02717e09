"""Stream tokens: what they show, until when, and everything that is none (A3, S8)."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from freezegun import freeze_time

from api import key_table
from api.auth import Principal, Scope
from api.keys import KeyRing
from api.problems import Forbidden, MalformedRequest, NotFound, Unauthorized
from api.tokens import AUDIENCE, LONGEST, SKEW, StreamTokens
from eventstore.errors import InvalidEvent
from eventstore.store import EventStore
from tests.support.http import Server, serving
from tests.support.keys import bearer, id_of, make_key, make_logs, revoke_key
from tests.support.sessions import wait_until

pytestmark = pytest.mark.anyio

START = "2026-11-21T12:00:00Z"
READ = frozenset((Scope.READ,))


class Made:
    """A ring with a key of the log `default`, and its tokens."""

    def __init__(self, store: EventStore, keys: KeyRing, key: str) -> None:
        self.store, self.keys, self.key = store, keys, key
        self.tokens = StreamTokens(keys)
        who = keys.holder(id_of(key))
        assert who is not None
        self.who: Principal = who
        self.secret: bytes = keys.signing[0][1]
        self.kid: str = keys.signing[0][0]

    def forge(self, secret: Any = None, *, algorithm: str = "HS256", kid: Any = None, **claims: Any) -> str:
        """A token with our own claims but for these."""
        now = int(time.time())
        ours = {"aud": AUDIENCE, "iat": now, "exp": now + 900, "log": "default", "key": self.who.key_id,
                "prefix": "", "jobs": None} | claims  # fmt: skip
        ours = {name: value for name, value in ours.items() if value != "leave out"}
        headers = {"kid": self.kid if kid is None else kid}
        return jwt.encode(ours, self.secret if secret is None else secret, algorithm=algorithm, headers=headers)


@pytest.fixture
async def made(database_url: str) -> Any:
    make_logs(database_url, "default", "other")
    key = make_key(database_url, scopes=[Scope.READ])
    with EventStore(database_url, pool_size=2) as store:
        keys = KeyRing(store, keyless=False)
        await keys.load()
        yield Made(store, keys, key)


async def test_a_token_shows_what_its_maker_sees_and_no_more(made: Made) -> None:
    token, end = await made.tokens.mint(made.who, jobs=["a", "b"])
    grant = await made.tokens.read(token)
    who = grant.principal
    assert (grant.expires_at, grant.expired) == (end, False)
    assert (who.key_id, who.log, who.log_id, who.scopes) == (made.who.key_id, "default", 1, READ)
    assert [who.sees(job) for job in ("a", "b", "c", "ab")] == [True, True, False, False]
    everything = (await made.tokens.read((await made.tokens.mint(made.who))[0])).principal
    assert everything.sees("c")


async def test_a_token_may_be_narrower_than_its_key_and_never_wider(made: Made, database_url: str) -> None:
    key = make_key(database_url, scopes=[Scope.READ, Scope.APPEND, Scope.ADMIN], prefix="build:")
    await made.keys.load()
    who = made.keys.holder(id_of(key))
    assert who is not None
    narrow = (await made.tokens.read((await made.tokens.mint(who, prefix="build:7"))[0])).principal
    assert (narrow.prefix, narrow.scopes) == ("build:7", READ)
    assert (await made.tokens.read((await made.tokens.mint(who))[0])).principal.prefix == "build:"
    for prefix in ("b", "deploy:", "build"):
        with pytest.raises(Forbidden):
            await made.tokens.mint(who, prefix=prefix)
    with pytest.raises(NotFound):
        await made.tokens.mint(who, jobs=["build:1", "deploy:1"])


@pytest.mark.parametrize("ttl", [0, -1, 901])
async def test_a_token_never_lasts_longer_than_the_setting(made: Made, ttl: int) -> None:
    with pytest.raises(MalformedRequest, match="ttl"):
        await made.tokens.mint(made.who, ttl=ttl)
    assert (await made.tokens.mint(made.who, ttl=900))[1] <= time.time() + 900


@pytest.mark.parametrize("jobs", [[], ["j"] * 101, ["j" * 200] * 21, ["no job"], [""]])
async def test_jobs_that_break_a_rule_get_no_token(made: Made, jobs: list[str]) -> None:
    with pytest.raises((MalformedRequest, InvalidEvent)):
        await made.tokens.mint(made.who, jobs=jobs)


async def test_a_token_opens_until_its_end_and_says_expired_from_then_on(made: Made) -> None:
    """S8: after `exp` it is known whose it was: the answer is `reauth`, never 401."""
    with freeze_time(START, real_asyncio=True) as now:
        token, end = await made.tokens.mint(made.who)
        assert end == int(time.time()) + 900
        now.tick(899)
        assert not (await made.tokens.read(token)).expired
        now.tick(1)
        assert (await made.tokens.read(token)).expired
        now.tick(86_400 * 30)
        grant = await made.tokens.read(token)
        assert grant.expired
        assert grant.principal.key_id == made.who.key_id


async def test_clocks_of_two_servers_may_differ_by_half_a_minute(made: Made) -> None:
    with freeze_time(START, real_asyncio=True) as now:
        token, _ = await made.tokens.mint(made.who)
        now.tick(-SKEW)
        assert not (await made.tokens.read(token)).expired
        now.tick(-1)
        with pytest.raises(Unauthorized):
            await made.tokens.read(token)


def unsigned(claims: dict[str, Any]) -> str:
    parts = ({"alg": "none", "typ": "JWT", "kid": "1"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."


FORGERIES: dict[str, Any] = {
    "another secret": lambda m: m.forge(b"x" * 32),
    "no secret": lambda m: m.forge(b"\0" * 32),
    "none": lambda m: unsigned(jwt.decode(m.forge(), options={"verify_signature": False})),
    "another algorithm": lambda m: m.forge(m.secret + m.secret, algorithm="HS512"),
    "HS512 with the secret": lambda m: m.forge(m.secret * 2, algorithm="HS512"),
    "an unknown key id": lambda m: m.forge(kid="2"),
    "a key id of a table's row": lambda m: m.forge(kid="1' OR '1'='1"),
    "for another purpose": lambda m: m.forge(aud="headway:admin"),
    "for two purposes": lambda m: m.forge(aud=[AUDIENCE, "x"]),
    "for no purpose": lambda m: m.forge(aud="leave out"),
    "without an end": lambda m: m.forge(exp="leave out"),
    "without a beginning": lambda m: m.forge(iat="leave out"),
    "without a key": lambda m: m.forge(key=None),
    "of another log": lambda m: m.forge(log="other"),
    "with more claims": lambda m: m.forge(scope="admin"),
    "with scopes": lambda m: m.forge(scopes=["append"]),
    "jobs that are none": lambda m: m.forge(jobs=[1]),
    "from the future": lambda m: m.forge(iat=int(time.time()) + 3_600),
    "an end that is no number": lambda m: m.forge(exp="never"),
    "an end that is no time": lambda m: m.forge(exp=1e400),
    "cut": lambda m: m.forge()[:-2],
    "another payload": lambda m: ".".join(
        [m.forge().split(".")[0], m.forge(jobs=["x"]).split(".")[1], m.forge().split(".")[2]]
    ),
    "an API key": lambda m: m.key,
    "nothing": lambda m: "",
    "dots": lambda m: "..",
    "no text": lambda m: "\x00\xff💥",
    "much": lambda m: "e" * (LONGEST + 1),
}


@pytest.mark.parametrize("name", sorted(FORGERIES))
async def test_what_nobody_here_signed_is_no_token(made: Made, name: str) -> None:
    """A3: forged, none-alg, wrong aud, another log: 401."""
    assert not (await made.tokens.read(made.forge())).expired
    try:
        token = FORGERIES[name](made)
    except (TypeError, jwt.PyJWTError):
        pytest.skip("the library makes no such token")
    with pytest.raises(Unauthorized):
        await made.tokens.read(token)


async def test_the_token_of_a_revoked_key_shows_nothing_any_more(made: Made, database_url: str) -> None:
    """S9: it is well signed, so the page is told to fetch a new one, which it will not get."""
    token, _ = await made.tokens.mint(made.who)
    revoke_key(database_url, made.key)
    await made.keys.load()
    assert (await made.tokens.read(token)).expired
    assert not made.keys.is_good(made.who.key_id)


async def test_the_token_of_a_key_that_expired_shows_nothing_any_more(made: Made, database_url: str) -> None:
    key = make_key(database_url, lasts=3_600)
    await made.keys.load()
    who = made.keys.holder(id_of(key))
    assert who is not None
    with freeze_time(real_asyncio=True) as now:
        now.tick(3_000)
        token, _ = await made.tokens.mint(who)
        assert not (await made.tokens.read(token)).expired
        now.tick(700)
        assert (await made.tokens.read(token)).expired


async def test_all_servers_of_a_database_know_each_others_tokens(made: Made, database_url: str) -> None:
    with EventStore(database_url, pool_size=1) as elsewhere:
        keys = KeyRing(elsewhere, keyless=False)
        await keys.load()
        token, _ = await made.tokens.mint(made.who)
        assert (await StreamTokens(keys).read(token)).principal.key_id == made.who.key_id
        with elsewhere.database.session() as conn:
            assert conn.execute("SELECT count(*) FROM signing_keys").fetchone() == (1,)


async def test_a_new_signing_key_takes_over_and_the_old_ones_tokens_stay_good(made: Made) -> None:
    old, _ = await made.tokens.mint(made.who)
    with made.store.database.session() as conn:
        conn.execute("INSERT INTO signing_keys (id, secret) VALUES ('2', sha256('a') || sha256('b'))")
    await made.keys.load()
    new, _ = await made.tokens.mint(made.who)
    assert jwt.get_unverified_header(new)["kid"] == "2"
    for token in (old, new):
        assert not (await made.tokens.read(token)).expired
    with made.store.database.session() as conn:
        conn.execute("DELETE FROM signing_keys WHERE id <> '2'")
    await made.keys.load()
    with pytest.raises(Unauthorized):
        await made.tokens.read(old)
    assert not (await made.tokens.read(new)).expired


def test_two_processes_that_need_the_first_secret_make_one(database_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with EventStore(database_url, pool_size=8) as store:

        def ask(_: int) -> list[tuple[str, bytes]]:
            with store.database.session() as conn:
                return key_table.signing_keys(conn)

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, range(8)))
    assert all(secrets == found[0] for secrets in found)
    assert [len(secrets) for secrets in found] == [1] * 8


# -- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(shared_database: str) -> Iterator[tuple[Server, str]]:
    make_logs(shared_database, "default")
    key = make_key(shared_database)
    with serving(shared_database, keyless=False) as server:
        for job in ("a", "b"):
            httpx.post(
                f"{server.url}/v1/jobs/{job}/events", json={"type": "job.started"}, headers=bearer(key)
            ).raise_for_status()
        yield server, key


def ask(server: Server, key: str, body: Any = None) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/stream-tokens", json=body, headers=bearer(key))


def opened(server: Server, path: str, token: str) -> tuple[int, str]:
    """Status, and what a stream says first."""
    with httpx.stream("GET", server.url + path, params={"token": token}, timeout=20) as answer:
        if answer.status_code != 200:
            return answer.status_code, answer.read().decode()
        text = ""
        for piece in answer.iter_text():
            text += piece
            if "\nevent:" in text or "\ndata:" in text:
                break
        return 200, text


def test_a_page_gets_a_token_and_opens_its_jobs_stream_and_no_other(served: tuple[Server, str]) -> None:
    server, key = served
    answer = ask(server, key, {"jobs": ["a"], "ttl": 60})
    assert answer.status_code == 201
    token = answer.json()["token"]
    assert answer.headers["cache-control"] == "no-store"
    assert "snapshot" in opened(server, "/v1/jobs/a/stream", token)[1]
    assert opened(server, "/v1/jobs/b/stream", token)[0] == 404


@pytest.mark.parametrize("path", ["/v1/jobs/a", "/v1/jobs", "/v1/events", "/metrics", "/v1/jobs/a/events"])
def test_a_token_is_good_for_streams_only(served: tuple[Server, str], path: str) -> None:
    server, key = served
    token = ask(server, key).json()["token"]
    asked = httpx.get(server.url + path, params={"token": token})
    assert asked.status_code == 401
    assert "opens streams only" in asked.json()["detail"]
    assert httpx.get(f"{server.url}{path}?token={token}&token={token}").status_code == 401
    forged = token[:-5] + "abcde"
    refused, same = (httpx.get(server.url + path, headers=bearer(each)) for each in (token, forged))
    assert (refused.status_code, same.status_code) == (401, 401)
    assert "opens streams only" in refused.json()["detail"]
    assert refused.json()["detail"] == same.json()["detail"], "whether the token is good is not told"
    answer = httpx.post(server.url + "/v1/jobs/a/events", params={"token": token}, json={"type": "job.started"})
    assert answer.status_code == 401
    assert httpx.post(server.url + "/v1/stream-tokens", params={"token": token}).status_code == 401


def test_a_forged_token_is_401_and_an_expired_one_is_told_to_come_back(
    served: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A3, S8."""
    server, key = served
    token = ask(server, key).json()["token"]
    assert opened(server, "/v1/jobs/a/stream", token[:-3] + "abc")[0] == 401
    monkeypatch.setattr(server.services.tokens, "_clock", lambda: time.time() + 901)
    status, text = opened(server, "/v1/jobs/a/stream", token)
    assert status == 200
    assert "event: reauth" in text
    assert "snapshot" not in text


BAD_BODIES: list[Any] = [
    [], "x", 1, {"jobs": "a"}, {"jobs": [1]}, {"jobs": []}, {"ttl": 0}, {"ttl": 1.5}, {"ttl": "x"}, {"ttl": 10**9},
    {"job": ["a"]}, {"jobs": ["a"], "prefix": "a"}, {"prefix": "no prefix"}, {"jobs": ["a/b"]}, {"scope": "admin"},
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_BODIES, ids=json.dumps)
def test_a_request_for_a_token_that_breaks_a_rule_is_refused(served: tuple[Server, str], body: Any) -> None:
    server, key = served
    assert ask(server, key, body).status_code in (400, 422)


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"jobs": "a"}, "jobs", "jobs: give a list of job ids; given 'a'"),
        ({"jobs": ["a", 1]}, "jobs", "jobs: give a list of job ids"),
        ({"prefix": 7}, "prefix", "prefix: give a text; given 7"),
        ({"ttl": "60"}, "ttl", "ttl: give a whole number of seconds"),
        ({"job": ["a"]}, "job", "'job': there is no such field. Did you mean jobs? "),
        ({"jobs": ["a"], "prefix": "a"}, "prefix", "give jobs or prefix, not both"),
        ([], None, "the body: give an object"),
    ],
)
def test_a_refused_request_for_a_token_names_its_field(
    served: tuple[Server, str], body: Any, field: str | None, told: str
) -> None:
    server, key = served
    problem = ask(server, key, body).json()
    assert (problem["status"], problem.get("field")) == (400, field)
    assert problem["detail"].startswith(told)
    assert "$." not in problem["detail"]


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"ttl": 1e999}', b"[" * 5_000, b" " * 20_000])
def test_a_body_that_is_no_json_is_refused(served: tuple[Server, str], body: bytes) -> None:
    server, key = served
    answer = httpx.post(f"{server.url}/v1/stream-tokens", content=body, headers=bearer(key))
    assert answer.status_code in (400, 413)


def test_without_a_body_the_token_is_for_all_that_the_key_sees(served: tuple[Server, str]) -> None:
    server, key = served
    answer = httpx.post(f"{server.url}/v1/stream-tokens", headers=bearer(key))
    assert answer.status_code == 201
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    assert (claims["jobs"], claims["prefix"], claims["exp"] - claims["iat"]) == (None, "", 900)
    assert set(claims) == {"aud", "iat", "exp", "log", "key", "prefix", "jobs"}


def test_a_token_of_a_server_without_keys_is_no_token_where_keys_are_needed(
    served: tuple[Server, str], shared_database: str
) -> None:
    server, _ = served
    with serving(shared_database, keyless=True) as free:
        token = httpx.post(f"{free.url}/v1/stream-tokens").json()["token"]
        assert opened(free, "/v1/jobs/a/stream", token)[0] == 200
    assert opened(server, "/v1/jobs/a/stream", token)[0] == 401


def test_a_revoked_keys_token_opens_nothing(served: tuple[Server, str], shared_database: str) -> None:
    server, _ = served
    key = make_key(shared_database)
    wait_until(lambda: ask(server, key).status_code == 201, "the new key is known")
    token = ask(server, key).json()["token"]
    revoke_key(shared_database, key)
    wait_until(lambda: not server.services.keys.is_good(id_of(key)), "the server knows that the key is revoked")
    status, text = opened(server, "/v1/jobs/a/stream", token)
    assert status == 200
    assert "event: reauth" in text
    assert "snapshot" not in text
    assert ask(server, key).status_code == 401
