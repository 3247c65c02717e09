"""Settings: what the environment says, checked by name, and no password ever shown."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.pretty import pprint

from api.settings import Settings, SettingsError, hide, unknown_variables, wants_tracebacks


def test_nothing_set_means_embedded_servers_and_the_default_log() -> None:
    settings = Settings.load({})
    assert (settings.log, settings.embeds_postgres, settings.embeds_redis) == ("default", True, True)
    assert settings == Settings.load({"DATABASE_URL": "", "HEADWAY_LOG": "", "HEADWAY_POOL_SIZE": ""})


def test_a_database_elsewhere_embeds_nothing() -> None:
    settings = Settings.load({"DATABASE_URL": "postgresql://h/d"})
    assert (settings.embeds_postgres, settings.embeds_redis) == (False, False)


def test_a_redis_elsewhere_leaves_postgresql_embedded() -> None:
    settings = Settings.load({"REDIS_URL": "redis://h/0"})
    assert (settings.embeds_postgres, settings.embeds_redis) == (True, False)


def test_every_variable_is_read() -> None:
    given = {
        "DATABASE_URL": "host=/tmp dbname=x",
        "REDIS_URL": "rediss://h/1",
        "HEADWAY_LOG": "eu-1",
        "HEADWAY_DATA_DIR": "/d",
        "HEADWAY_PGBOUNCER": "yes",
        "HEADWAY_ALLOW_UNSAFE": "1",
        "HEADWAY_POOL_SIZE": "3",
        "HEADWAY_MAX_JOB_EVENTS": "7",
        "HEADWAY_STREAM_LENGTH": "1000",
        "HEADWAY_SNAPSHOT_TTL": "60",
        "HEADWAY_LOG_FORMAT": "json",
        "HEADWAY_DEBUG": "on",
    }
    assert Settings.load(given) == Settings(
        database_url="host=/tmp dbname=x", redis_url="rediss://h/1", log="eu-1", data_dir="/d", pgbouncer=True,
        allow_unsafe=True, pool_size=3, max_job_events=7, stream_length=1_000, snapshot_ttl=60, log_format="json",
        debug=True,
    )  # fmt: skip
    assert unknown_variables(given) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@h/d"),
        ("REDIS_URL", "http://h"),
        ("HEADWAY_LOG", "Default"),
        ("HEADWAY_LOG", "a\n"),
        ("HEADWAY_LOG", "x" * 64),
        ("HEADWAY_DATA_DIR", "/a\x1bb"),
        ("HEADWAY_PGBOUNCER", "maybe"),
        ("HEADWAY_POOL_SIZE", "0"),
        ("HEADWAY_POOL_SIZE", "101"),
        ("HEADWAY_POOL_SIZE", "+5"),
        ("HEADWAY_POOL_SIZE", "1e1"),
        ("HEADWAY_POOL_SIZE", "٣"),
        ("HEADWAY_MAX_JOB_EVENTS", "99999999999999"),
        ("HEADWAY_LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_by_name_with_the_rule(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({variable: value})
    assert refused.value.variable == variable
    assert str(refused.value).startswith(f"{variable}: {refused.value.rule}; given ")
    assert "s3cret" not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://u:s3cret@h:5/d", "s3cret"),
        ("postgresql://u:s3/c@r:et@h/d", "s3/c@r:et"),
        ("postgresql://u@h/d?password=s3cret&x=1", "s3cret"),
        ("host=h password='s3 cret' user=u", "s3 cret"),
        ("host=h password=s3cret user=u", "s3cret"),
        ("redis://:s3cret@h/0", "s3cret"),
        ("unix://:s3cret@/tmp/s.sock?db=0", "s3cret"),
    ],
)
def test_passwords_are_hidden_wherever_an_address_is_shown(url: str, secret: str) -> None:
    field = "database_url" if "redis" not in url and "unix" not in url else "redis_url"
    settings = Settings(**{field: url})
    drawn = StringIO()
    pprint(settings, console=Console(file=drawn, width=200))
    for shown in (hide(url), repr(settings), str(settings), str(settings.shown()), drawn.getvalue()):
        assert secret not in shown
        assert "***" in shown
    assert secret not in settings.hide(f"could not connect to {url}: password {secret!r} was refused")


def test_a_url_of_somebody_else_in_a_message_is_hidden_too() -> None:
    assert Settings().hide("tried redis://:s3cret@h:1/0 and failed") == "tried redis://:***@h:1/0 and failed"


def test_an_escaped_password_is_hidden_as_it_is_meant() -> None:
    assert "p@ss" not in Settings(database_url="postgresql://u:p%40ss@h/d").hide("password p@ss is wrong")


def test_a_variable_that_means_nothing_is_told() -> None:
    assert unknown_variables({"HEADWAY_POOLSIZE": "3", "HEADWAY_LOG": "x", "HOME": "/"}) == ["HEADWAY_POOLSIZE"]


def test_tracebacks_can_be_asked_for_when_other_variables_are_wrong() -> None:
    assert wants_tracebacks({"HEADWAY_DEBUG": "1", "HEADWAY_LOG": "Ä"})
    assert not wants_tracebacks({"HEADWAY_DEBUG": "0"})
    assert not wants_tracebacks({})
