"""Settings: what the environment says, checked by name, and no password ever shown."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.pretty import pprint

from api.settings import Settings, SettingsError, hide, unknown_variables, wants_tracebacks
from api.variables import VARIABLES


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
        "HEADWAY_HOST": "::",
        "HEADWAY_PORT": "0",
        "HEADWAY_TLS_CERT": "/c.pem",
        "HEADWAY_TLS_KEY": "/k.pem",
        "HEADWAY_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "HEADWAY_CORS_ORIGINS": "https://a.example,http://localhost:5173,https://a.example",
        "HEADWAY_REQUIRE_KEYS": "1",
        "HEADWAY_TOKEN_TTL": "60",
        "HEADWAY_APPEND_RATE": "5",
        "HEADWAY_APPEND_BURST": "6",
        "HEADWAY_STREAMS_PER_KEY": "7",
        "HEADWAY_MAX_STREAMS": "8",
        "HEADWAY_MAX_CONNECTIONS": "90",
        "HEADWAY_STOP_PATIENCE": "3",
        "HEADWAY_KEEP_TRACEPARENT": "0",
        "HEADWAY_ACCESS_LOG": "off",
        "HEADWAY_LOG_FORMAT": "json",
        "HEADWAY_DEBUG": "on",
    }
    loaded, origins = Settings.load_with_origins(given)
    assert loaded == Settings(
        database_url="host=/tmp dbname=x", redis_url="rediss://h/1", log="eu-1", data_dir="/d", pgbouncer=True,
        allow_unsafe=True, pool_size=3, max_job_events=7, stream_length=1_000, snapshot_ttl=60, host="::", port=0,
        tls_cert="/c.pem", tls_key="/k.pem", trusted_proxies=("10.0.0.0/8", "::1/128"),
        cors_origins=("https://a.example", "http://localhost:5173"), require_keys=True, token_ttl=60, append_rate=5,
        append_burst=6, streams_per_key=7, max_streams=8, max_connections=90, stop_patience=3,
        keep_traceparent=False, access_log=False, log_format="json", debug=True,
    )  # fmt: skip
    assert unknown_variables(given) == []
    assert set(origins.values()) == set(given) == set(VARIABLES) - {"HEADWAY_CONFIG"}


def test_every_setting_has_a_variable_and_every_variable_a_setting() -> None:
    assert sorted(variable.field for variable in VARIABLES.values()) == sorted(Settings.__struct_fields__)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Writes a configuration file; the environment that names it."""

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "headway.toml"
        path.write_text(text, encoding="utf-8")
        return {"HEADWAY_CONFIG": str(path)}

    return write


Config = Callable[[str], dict[str, str]]


def test_a_file_sets_what_the_environment_does_not(config: Config) -> None:
    given = config('log = "eu-1"\nport = 9000\naccess_log = false\ncors_origins = ["https://a.example"]\n')
    loaded, origins = Settings.load_with_origins(given | {"HEADWAY_PORT": "9001"})
    assert (loaded.log, loaded.port, loaded.access_log) == ("eu-1", 9001, False)
    assert loaded.cors_origins == ("https://a.example",)
    assert (origins["log"], origins["port"]) == (given["HEADWAY_CONFIG"], "HEADWAY_PORT")
    assert "pool_size" not in origins


def test_the_file_headway_toml_of_the_working_folder_is_read(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(config('log = "here"')["HEADWAY_CONFIG"]).parent)
    assert Settings.load({}).log == "here"
    assert Settings.load({"HEADWAY_LOG": "there"}).log == "there"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pool_sise = 3", "there is no setting 'pool_sise'; did you mean 'pool_size'?"),
        ("HEADWAY_LOG = 'x'", "there is no setting 'HEADWAY_LOG'; did you mean 'log'?"),
        ("config = 'other.toml'", "there is no setting 'config'"),
        ("[server]\nport = 1", "there is no setting 'server'"),
        ("port = true", "port: a whole number from 0 to 65535; given 'true'"),
        ("port = 1.5", "port: a whole number from 0 to 65535; given '1.5'"),
        ("port = 70000", "port: a whole number from 0 to 65535; given '70000'"),
        ("log = ['a', 'b']", "log: 1 to 63 of"),
        ("cors_origins = ['example.com']", "cors_origins: origins with commas"),
        ("cors_origins = ['https://a.example/path']", "cors_origins: origins with commas"),
        ("trusted_proxies = ['10.0.0.1/8']", "trusted_proxies: addresses or networks"),
        ("port = ", "it is no TOML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(config: Config, text: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(config(text))
    assert told in str(refused.value)
    assert "headway.toml" in str(refused.value)


def test_a_password_in_a_refused_file_is_hidden(config: Config) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(config('database_url = "mysql://u:s3cret@h/d"'))
    assert "s3cret" not in str(refused.value)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: it can't be read: No such file"):
        Settings.load({"HEADWAY_CONFIG": str(tmp_path / "none.toml")})


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
    assert unknown_variables({"HEADWAY_POOLSIZE": "3", "HEADWAY_LOG": "x", "HOME": "/", "HEADWAY_URL": "http://x"}) == [
        "HEADWAY_POOLSIZE"
    ]


def test_tracebacks_can_be_asked_for_when_other_variables_are_wrong() -> None:
    assert wants_tracebacks({"HEADWAY_DEBUG": "1", "HEADWAY_LOG": "Ä"})
    assert not wants_tracebacks({"HEADWAY_DEBUG": "0"})
    assert not wants_tracebacks({})
