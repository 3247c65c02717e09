"""PostgreSQL and Redis over TLS: all works with the right CA, nothing with a wrong one, and no password is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from eventstore.errors import StoreUnavailable
from eventstore.events import NewEvent
from eventstore.migrate import migrate
from eventstore.store import EventStore
from eventstore.wire import stream_key
from projections.progress import Progress
from projections.snapshots import read_snapshot
from tests.support.cli import Cli
from tests.support.http import serving
from tests.support.keys import bearer, make_key, make_logs
from tests.support.sessions import wait_until
from tests.support.tls import PASSWORD, Certificates, certificates, tls_postgres, tls_redis


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def postgres(pems: Certificates) -> Iterator[int]:
    with tls_postgres(pems.here) as port:
        yield port


@pytest.fixture(scope="module")
def redis_port(pems: Certificates) -> Iterator[int]:
    with tls_redis(pems.here, pems.ca) as port:
        yield port


def database(port: int, ca: Path, mode: str = "verify-full") -> str:
    return f"postgresql://postgres:{PASSWORD}@localhost:{port}/postgres?sslmode={mode}&sslrootcert={ca}"


def valkey(port: int, ca: Path) -> str:
    return f"rediss://:{PASSWORD}@localhost:{port}/0?ssl_ca_certs={ca}"


def findings(cli: Cli, code: int) -> dict[str, dict[str, str]]:
    told = cli("doctor", "--json", code=code)
    assert PASSWORD not in told.out + told.err
    return {finding["check"]: finding for finding in told.json["findings"]}


def test_a_server_works_over_tls_from_append_to_stream(pems: Certificates, postgres: int, redis_port: int) -> None:
    url, redis_url = database(postgres, pems.ca), valkey(redis_port, pems.ca)
    migrate(url)
    make_logs(url, "default")
    key = make_key(url)
    with serving(url, redis_url, keyless=False) as server:
        posted = httpx.post(f"{server.url}/v1/jobs/a/events", json={"type": "job.started"}, headers=bearer(key))
        assert posted.status_code == 201, posted.text
        shown = httpx.get(f"{server.url}/v1/jobs/a", headers=bearer(key))
        assert shown.json()["cursor"] == posted.json()["events"][0]["cursor"]
        with psycopg.connect(url) as conn:
            sessions = "FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'headway%'"
            assert conn.execute(f"SELECT bool_and(ssl), count(*) > 2 {sessions}").fetchone() == (True, True)
        import redis

        with redis.from_url(redis_url) as client:
            wait_until(lambda: client.xlen(stream_key("default", 1)) == 1, "the relay published over TLS")
    found = findings(Cli(DATABASE_URL=url, REDIS_URL=redis_url), 0)
    assert (found["postgresql"]["level"], found["redis"]["level"]) == ("ok", "ok")


def test_a_postgresql_that_another_ca_vouches_for_is_refused(pems: Certificates, postgres: int) -> None:
    url = database(postgres, pems.other_ca)
    with EventStore(url, projection=Progress()) as store:
        with pytest.raises(StoreUnavailable, match="certificate verify failed") as refused:
            store.head()
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            store.append("a", [NewEvent(type="job.started")])
        with pytest.raises(StoreUnavailable):
            read_snapshot(store, "a")
    assert PASSWORD not in str(refused.value)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        migrate(url)
    found = findings(Cli(DATABASE_URL=url, REDIS_URL="redis://127.0.0.1:1/0"), 1)
    assert "certificate verify failed" in found["postgresql"]["text"]


def test_a_postgresql_under_another_name_is_refused(pems: Certificates) -> None:
    with tls_postgres(pems.elsewhere) as port:
        with EventStore(database(port, pems.ca)) as store, pytest.raises(StoreUnavailable, match="does not match host"):
            store.head()
        with psycopg.connect(database(port, pems.ca, "verify-ca")) as conn:
            assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)


def test_a_postgresql_that_wants_tls_takes_nothing_else(pems: Certificates, postgres: int) -> None:
    with EventStore(database(postgres, pems.ca, "disable")) as store:
        with pytest.raises(StoreUnavailable, match="no encryption") as refused:
            store.head()
        assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("how", ["another CA", "the system's CAs", "without TLS"])
def test_a_redis_that_is_not_vouched_for_is_refused(pems: Certificates, redis_port: int, how: str) -> None:
    import redis

    urls = {
        "another CA": valkey(redis_port, pems.other_ca),
        "the system's CAs": f"rediss://:{PASSWORD}@localhost:{redis_port}/0",
        "without TLS": f"redis://:{PASSWORD}@localhost:{redis_port}/0",
    }
    with redis.from_url(urls[how]) as client, pytest.raises((redis.ConnectionError, redis.TimeoutError)):
        client.ping()
    found = findings(Cli(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", REDIS_URL=urls[how]), 1)
    assert found["redis"]["level"] == "bad"
    if how != "without TLS":
        assert "certificate verify failed" in found["redis"]["text"].lower()


def test_a_redis_under_another_name_is_refused(pems: Certificates) -> None:
    import redis

    with (
        tls_redis(pems.elsewhere, pems.ca) as port,
        redis.from_url(valkey(port, pems.ca)) as client,
        pytest.raises(redis.ConnectionError, match="Hostname mismatch"),
    ):
        client.ping()
