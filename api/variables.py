"""Every setting there is: the variable of the environment, the field that it sets, its rule, and what it is for.

The one table of settings. In a configuration file they go by the field's name: `HEADWAY_POOL_SIZE` is `pool_size`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Variable(NamedTuple):
    """A variable: the field that it sets, how it is read (ValueError: it breaks the rule), its rule, what it is for."""

    field: str
    parse: Callable[[str], Any]
    rule: str
    purpose: str


def _matching(pattern: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.DOTALL)

    def parse(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError
        return text

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,12}", text) is None or not low <= int(text) <= high:
            raise ValueError
        return int(text)

    return parse


def _list(parse_one: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(parse_one(part.strip()) for part in text.split(",") if part.strip()))

    return parse


def _network(text: str) -> str:
    import ipaddress

    return str(ipaddress.ip_network(text))


def _switch(text: str) -> bool:
    match text.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError


_SWITCH: Final = "1 or 0 (true, yes, on; false, no, off)"
_POSTGRES: Final = r"(postgres|postgresql|postgresql\+psycopg)://.*|\s*[a-z_]+\s*=.*"
_PATH: Final = r"[^\x00-\x1f\x7f]+"
_PATH_RULE: Final = "a path without control characters"
_ORIGIN: Final = r"\*|https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?"


def _number(field: str, low: int, high: int, purpose: str, *, unit: str = "") -> Variable:
    rule = f"{unit + ', ' if unit else ''}a whole number from {low} to {high}"
    return Variable(field, _whole(low, high), rule, f"{purpose}, in {unit}" if unit else purpose)


VARIABLES: Final[dict[str, Variable]] = {
    "HEADWAY_CONFIG": Variable(
        "config", _matching(_PATH), _PATH_RULE, "a TOML file with settings by name; else ./headway.toml if it is there"
    ),
    "DATABASE_URL": Variable(
        "database_url",
        _matching(_POSTGRES),
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
        "PostgreSQL; without it one is started here",
    ),
    "REDIS_URL": Variable(
        "redis_url",
        _matching(r"(redis|rediss|unix)://.+"),
        "redis://, rediss:// or unix:// and an address",
        "Redis or Valkey; without it and DATABASE_URL one is started here",
    ),
    "HEADWAY_LOG": Variable(
        "log",
        _matching(r"[a-z0-9][a-z0-9_-]{0,62}"),
        "1 to 63 of a-z 0-9 _ -, beginning with a letter or digit",
        "the log to work on",
    ),
    "HEADWAY_DATA_DIR": Variable(
        "data_dir", _matching(_PATH), _PATH_RULE, "where the embedded servers keep their data"
    ),
    "HEADWAY_PGBOUNCER": Variable("pgbouncer", _switch, _SWITCH, "a transaction pooler stands before PostgreSQL"),
    "HEADWAY_ALLOW_UNSAFE": Variable(
        "allow_unsafe", _switch, _SWITCH, "append although fsync or full_page_writes is off"
    ),
    "HEADWAY_POOL_SIZE": _number("pool_size", 1, 100, "connections for reads"),
    "HEADWAY_MAX_JOB_EVENTS": _number("max_job_events", 1, 10_000_000, "events in one job"),
    "HEADWAY_STREAM_LENGTH": _number("stream_length", 1_000, 100_000_000, "events of a log kept in Redis, about"),
    "HEADWAY_SNAPSHOT_TTL": _number("snapshot_ttl", 1, 31_536_000, "how long a cached snapshot lives", unit="seconds"),
    "HEADWAY_HOST": Variable(
        "host", _matching(r"[0-9A-Za-z.:_-]{1,253}"), "an address or a name of this machine", "where `serve` listens"
    ),
    "HEADWAY_PORT": _number("port", 0, 65_535, "the port of `serve`; 0 takes a free one"),
    "HEADWAY_TLS_CERT": Variable(
        "tls_cert", _matching(_PATH), _PATH_RULE, "certificate with its chain (PEM): `serve` then speaks HTTPS"
    ),
    "HEADWAY_TLS_KEY": Variable("tls_key", _matching(_PATH), _PATH_RULE, "the certificate's private key (PEM)"),
    "HEADWAY_TRUSTED_PROXIES": Variable(
        "trusted_proxies",
        _list(_network),
        "addresses or networks with commas between: 10.0.0.0/8,127.0.0.1",
        "whose X-Forwarded-For and X-Forwarded-Proto are believed",
    ),
    "HEADWAY_CORS_ORIGINS": Variable(
        "cors_origins",
        _list(_matching(_ORIGIN)),
        "origins with commas between: https://app.example.com,http://localhost:5173; or *",
        "web pages of other origins that may call the API",
    ),
    "HEADWAY_REQUIRE_KEYS": Variable(
        "require_keys", _switch, _SWITCH, "keys are needed with embedded servers on 127.0.0.1 too"
    ),
    "HEADWAY_TOKEN_TTL": _number("token_ttl", 10, 86_400, "how long a stream token is good", unit="seconds"),
    "HEADWAY_APPEND_RATE": _number("append_rate", 1, 1_000_000, "append requests of one key a second"),
    "HEADWAY_APPEND_BURST": _number("append_burst", 1, 1_000_000, "append requests of one key at once"),
    "HEADWAY_STREAMS_PER_KEY": _number("streams_per_key", 1, 100_000, "streams that one key may have open"),
    "HEADWAY_MAX_STREAMS": _number("max_streams", 1, 100_000, "streams that one process has open"),
    "HEADWAY_MAX_CONNECTIONS": _number("max_connections", 10, 200_000, "connections that one process holds"),
    "HEADWAY_STOP_PATIENCE": _number(
        "stop_patience", 1, 600, "how long a stop waits for running requests", unit="seconds"
    ),
    "HEADWAY_KEEP_TRACEPARENT": Variable(
        "keep_traceparent", _switch, _SWITCH, "keep a request's traceparent in its events"
    ),
    "HEADWAY_ACCESS_LOG": Variable("access_log", _switch, _SWITCH, "one line per request on stderr"),
    "HEADWAY_LOG_FORMAT": Variable(
        "log_format", _matching("text|json"), "text or json", "what this program logs on stderr"
    ),
    "HEADWAY_DEBUG": Variable("debug", _switch, _SWITCH, "show tracebacks"),
}
"""By the name in the environment."""

BY_FIELD: Final = {variable.field: name for name, variable in VARIABLES.items()}

OF_CLIENTS: Final = frozenset(("HEADWAY_URL", "HEADWAY_KEY"))
"""Read by programs that talk to a server, not by the server."""
