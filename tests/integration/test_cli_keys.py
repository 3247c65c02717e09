"""`headway keys`: made once, listed without secrets, revoked for ever."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import psycopg
import pytest

from eventstore.store import EventStore
from tests.support.cli import Cli
from tests.support.keys import make_logs


@pytest.fixture
def cli_of_its_own(own: EventStore, database_url: str) -> Cli:
    make_logs(database_url, "tenant-a")
    return Cli(DATABASE_URL=database_url)


def test_a_key_is_printed_once_and_only_its_digest_is_kept(cli_of_its_own: Cli, database_url: str) -> None:
    said = cli_of_its_own("keys", "create", "--name", "构建 <b>", "--log", "tenant-a")
    key = said.out.strip()
    assert re.fullmatch(r"hw_[a-z2-7]{12}_[a-z2-7]{40}", key)
    assert "only time" in said.err
    with psycopg.connect(database_url) as conn:
        row = conn.execute("SELECT to_jsonb(k), sha256 FROM api_keys k").fetchone()
    assert row is not None
    assert key.split("_")[2] not in str(row)
    assert row[1] == hashlib.sha256(key.encode()).digest()
    assert (row[0]["name"], row[0]["scopes"], row[0]["expires_at"]) == ("构建 <b>", ["append", "read"], None)
    shown = cli_of_its_own("keys", "list").out + cli_of_its_own("keys", "list", "--json").out
    assert key.split("_")[1] in shown
    assert key.split("_")[2] not in shown
    assert row[1].hex() not in shown


def test_keys_of_programs_come_as_json(cli_of_its_own: Cli) -> None:
    args = (
        "--scope",
        "audit",
        "--scope",
        "read",
        "--prefix",
        "build:",
        "--expires",
        "90d",
        "--name",
        "nightly",
        "--json",
    )
    made = cli_of_its_own("keys", "create", *args).json
    assert made == {
        "id": made["key"].split("_")[1], "key": made["key"], "log": "default", "scopes": ["audit", "read"],
        "prefix": "build:", "name": "nightly", "expires_at": made["expires_at"],
    }  # fmt: skip
    (listed,) = cli_of_its_own("keys", "list", "--json").json
    assert made["expires_at"] == listed["expires_at"]
    assert (listed["scopes"], listed["prefix"], listed["revoked_at"]) == (["audit", "read"], "build:", None)
    assert listed["expires_at"] > listed["created_at"]
    assert "sha256" not in listed
    assert cli_of_its_own("keys", "create", "--json").json["expires_at"] is None


def test_a_revoked_key_stays_revoked_since_the_first_time(cli_of_its_own: Cli) -> None:
    first, second = (cli_of_its_own("keys", "create", "--json").json["id"] for _ in range(2))
    assert cli_of_its_own("keys", "revoke", first).out == f"revoked {first}\n"
    moment = cli_of_its_own("keys", "revoke", first, "--json").json["revoked_at"]
    listed = {key["id"]: key["revoked_at"] for key in cli_of_its_own("keys", "list", "--json").json}
    assert listed == {first: moment, second: None}
    assert f"{first}  default  append read" in cli_of_its_own("keys", "list").out
    cli_of_its_own("keys", "revoke", "nobodys", code=3)


def test_the_list_is_of_one_log_when_one_is_named(cli_of_its_own: Cli) -> None:
    for log in ("default", "tenant-a"):
        cli_of_its_own("keys", "create", "--log", log)
    assert len(cli_of_its_own("keys", "list", "--json").json) == 2
    assert [key["log"] for key in cli_of_its_own("keys", "list", "--log", "tenant-a", "--json").json] == ["tenant-a"]


BAD: list[Any] = [
    ("--scope", "root"), ("--prefix", "no spaces"), ("--prefix", "-x"), ("--expires", "0d"), ("--expires", "soon"),
    ("--expires", "-1d"), ("--expires", "999999999w"), ("--name", "x" * 201), ("--name", "a\x1bb"),
]  # fmt: skip


@pytest.mark.parametrize("args", BAD, ids=lambda args: args[1][:12])
def test_what_no_key_can_be_is_refused(cli_of_its_own: Cli, args: tuple[str, str]) -> None:
    cli_of_its_own("keys", "create", *args, code=2)
    assert cli_of_its_own("keys", "list", "--json").json == []


def test_a_key_for_a_log_that_is_not_there_is_refused(cli_of_its_own: Cli) -> None:
    cli_of_its_own("keys", "create", "--log", "nowhere", code=3)
