"""`consumers`: listed with their lag, put elsewhere, forgotten."""

from __future__ import annotations

import pytest

from eventstore.checkpoints import Checkpoints
from eventstore.store import EventStore
from tests.support.cli import Cli, Report


@pytest.fixture
def cursors(store: EventStore, report: Report) -> list[str]:
    """Cursors of five events; consumer 账单 has processed two of them, `mail` all."""
    cursors = [report("b", "step.progressed", "s", percent=number).cursor for number in range(5)]
    Checkpoints(store).save("账单", cursors[1])
    Checkpoints(store).save("mail", cursors[4])
    return cursors


def test_consumers_are_listed_with_their_cursors(cli: Cli, cursors: list[str]) -> None:
    listed = cli("consumers", "list", "--json").json
    assert [(one["name"], one["cursor"], one["behind"]) for one in listed] == [
        ("mail", cursors[4], 0), ("账单", cursors[1], 3)
    ]  # fmt: skip
    lines = cli("consumers", "list").lines
    assert lines[0].split() == ["CONSUMER", "CURSOR", "BEHIND", "MOVED"]
    assert lines[2].split()[:3] == ["账单", cursors[1], "3"]


def test_a_lag_that_is_too_much_ends_with_1(cli: Cli, cursors: list[str]) -> None:
    assert [line.split()[:2] for line in cli("consumers", "lag").lines[1:]] == [["mail", "0"], ["账单", "3"]]
    assert cli("consumers", "lag", "账单", "--max", "3", "--json").json[0]["behind"] == 3
    cli("consumers", "lag", "账单", "--max", "2", code=1)
    cli("consumers", "lag", "mail", "--max", "0")


def test_a_consumer_is_put_to_any_cursor(cli: Cli, cursors: list[str]) -> None:
    assert cli("consumers", "reset", "mail", "--to", cursors[2]).out == f"mail is at {cursors[2]}\n"
    for to, behind in (("-1", 5), ("3", 2), ("now", 0)):
        cli("consumers", "reset", "mail", "--to", to)
        assert cli("consumers", "lag", "mail", "--json").json[0]["behind"] == behind


def test_a_consumer_on_another_history_is_told_and_ends_with_1(cli: Cli, store: EventStore, cursors: list[str]) -> None:
    Checkpoints(store).save("lost", cursors[2][:-8] + "00000000")
    assert "not on this log's history: reset it" in cli("consumers", "list").out
    cli("consumers", "lag", "lost", code=1)
    cli("consumers", "reset", "lost", "--to", cursors[2])
    cli("consumers", "lag", "lost")


def test_a_deleted_consumer_is_gone(cli: Cli, cursors: list[str]) -> None:
    assert cli("consumers", "delete", "账单").out == "deleted 账单\n"
    assert [one["name"] for one in cli("consumers", "list", "--json").json] == ["mail"]


def test_wrong_input_is_told_apart(cli: Cli, cursors: list[str]) -> None:
    for command in (["reset", "nobody", "--to", "1"], ["delete", "nobody"], ["lag", "nobody"]):
        assert "headway consumers list" in cli("consumers", *command, code=3).err
    cli("consumers", "reset", "mail", code=2)
    cli("consumers", "reset", "mail", "--to", "+1", code=2)
    cli("consumers", "reset", "mail", "--to", cursors[2][:-8] + "00000000", code=1)
    assert "the relay's" in cli("consumers", "delete", "relay:redis-streams", code=2).err
    assert "\x1b" not in cli("consumers", "delete", "x\x1b[2J", code=2).err


def test_no_consumers_are_said_beside_the_output(cli: Cli) -> None:
    said = cli("consumers", "list")
    assert (said.out, said.err) == ("", "no consumers\n")
