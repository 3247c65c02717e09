"""`headway config`: what is set, where it comes from, and no password."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import Cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('port = 9000\nlog_format = "json"\ndatabase_url = "postgresql://u:s3cret@h/d"\n')
    return path


def test_every_setting_is_shown_with_its_origin_and_without_passwords(file: Path) -> None:
    cli = Cli(HEADWAY_CONFIG=str(file), HEADWAY_PORT="9001", REDIS_URL="redis://:hidden1@h/0", HEADWAY_POOLSIZE="3")
    said = cli("--log", "eu", "config", "--json")
    found = {one["name"]: (one["value"], one["from"]) for one in said.json["settings"]}
    assert found["port"] == (9001, "HEADWAY_PORT")
    assert found["log_format"] == ("json", str(file))
    assert found["database_url"] == ("postgresql://u:***@h/d", str(file))
    assert found["redis_url"] == ("redis://:***@h/0", "REDIS_URL")
    assert found["pool_size"] == (10, "default")
    assert found["log"] == ("eu", "--log")
    assert said.json["unknown_variables"] == [
        {"name": "HEADWAY_POOLSIZE", "hint": "; did you mean 'HEADWAY_POOL_SIZE'?"}
    ]
    for shown in (said, cli("config")):
        assert "s3cret" not in shown.out + shown.err
        assert "hidden1" not in shown.out + shown.err


def test_people_get_a_table_and_are_told_of_slips(file: Path) -> None:
    said = Cli(HEADWAY_CONFIG=str(file), HEADWAY_PROT="1")("config")
    (line,) = [line for line in said.lines if line.startswith("port ")]
    assert "9000" in line
    assert str(file) in line
    assert "HEADWAY_PROT is set and means nothing to this version; did you mean 'HEADWAY_PORT'?" in said.err


def test_a_file_with_a_mistake_is_refused_with_what_to_do(file: Path) -> None:
    file.write_text("prot = 1")
    said = Cli(HEADWAY_CONFIG=str(file))("config", code=2)
    assert "there is no setting 'prot'; did you mean 'port'?" in said.err
