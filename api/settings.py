"""What the environment says, read once and checked: the only place that looks at it.

A variable that is empty counts as not set. A value that breaks its rule is refused by name; nothing falls back in
silence to a default that nobody asked for. Passwords are hidden wherever settings are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

DEFAULT_LOG: Final = "default"
HIDDEN: Final = "***"

_FLAGS: Final = re.IGNORECASE | re.DOTALL
_USER_PART: Final = re.compile(r"(?P<before>^[a-z][a-z0-9+.-]*://[^/?#:@]*:)(?P<secret>.+)(?=@)", _FLAGS)
_IN_TEXT: Final = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^/?#:@\s]*:)(?P<secret>[^@\s]+)(?=@)", _FLAGS)
_NAMED: Final = re.compile(
    r"(?P<before>\b(?:password|sslpassword|oauth_client_secret)\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'|[^\s&#]+)", _FLAGS
)
_SHORTEST: Final = 4  # characters; a shorter password is not looked for in free text, every word would have it


class SettingsError(Exception):
    """A variable of the environment breaks its rule. `variable`, `given` (passwords hidden) and `rule` say which."""

    code: ClassVar[str] = "invalid_setting"
    retryable: ClassVar[bool] = False

    def __init__(self, variable: str, given: str, rule: str) -> None:
        shown = hide(given)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        super().__init__(f"{variable}: {rule}; given {shown!r}")
        self.variable, self.given, self.rule = variable, shown, rule


def secrets_of(url: str) -> Iterator[str]:
    """The passwords in a URL or a libpq connection string, as written and as they are meant."""
    for pattern in (_USER_PART, _NAMED):
        for found in pattern.finditer(url):
            secret = found["secret"].strip("'")
            yield from {secret, unquote(secret)} - {""}


def hide(url: str) -> str:
    """A URL or connection string as it may be shown: without its passwords."""
    for pattern in (_USER_PART, _NAMED):
        url = pattern.sub(lambda found: found["before"] + HIDDEN, url)
    return url


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be set. `""` for a URL means: not set, so the embedded server is used where there is one.

    `pool_size` connections for reads; `max_job_events` events in a job before only its end is accepted;
    `stream_length` events kept in Redis per log, about; `snapshot_ttl` seconds of a cached snapshot.
    """

    database_url: str = ""
    redis_url: str = ""
    log: str = DEFAULT_LOG
    data_dir: str = ""
    pgbouncer: bool = False
    allow_unsafe: bool = False
    pool_size: int = 10
    max_job_events: int = 50_000
    stream_length: int = 100_000
    snapshot_ttl: int = 3_600
    log_format: Literal["text", "json"] = "text"
    debug: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of this process. Raises `SettingsError` for the first variable that breaks its rule."""
        given = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for name, variable in VARIABLES.items():
            text = given.get(name, "")
            if text:
                try:
                    values[variable.field] = variable.parse(text)
                except ValueError:
                    raise SettingsError(name, text, variable.rule) from None
        return cls(**values)

    @property
    def embeds_postgres(self) -> bool:
        return not self.database_url

    @property
    def embeds_redis(self) -> bool:
        """Only beside an embedded PostgreSQL: who shares a database elsewhere shares no Valkey of this machine."""
        return not self.database_url and not self.redis_url

    def hide(self, text: str) -> str:
        """`text` without the passwords of these settings and of any URL in it, for what a driver says of an address."""
        for url in (self.database_url, self.redis_url):
            text = text.replace(url, hide(url)) if url else text
            for secret in sorted(secrets_of(url), key=len, reverse=True):
                if len(secret) >= _SHORTEST:
                    text = text.replace(secret, HIDDEN)
        return _IN_TEXT.sub(lambda found: found["before"] + HIDDEN, text)

    def shown(self) -> dict[str, Any]:
        """The settings with passwords hidden, by name."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: hide(value) if name.endswith("_url") else value for name, value in values.items()}

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(self.shown().items())


def wants_tracebacks(environ: Mapping[str, str] | None = None) -> bool:
    """Whether HEADWAY_DEBUG asks for tracebacks; works when other variables are wrong."""
    given = os.environ if environ is None else environ
    return given.get("HEADWAY_DEBUG", "").lower() in ("1", "true", "yes", "on")


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables that begin with HEADWAY_ and mean nothing: most likely a slip of the pen."""
    given = os.environ if environ is None else environ
    return sorted(name for name in given if name.startswith("HEADWAY_") and name not in VARIABLES)


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

VARIABLES: Final[dict[str, Variable]] = {
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
        "data_dir",
        _matching(r"[^\x00-\x1f\x7f]+"),
        "a path without control characters",
        "where the embedded servers keep their data",
    ),
    "HEADWAY_PGBOUNCER": Variable("pgbouncer", _switch, _SWITCH, "a transaction pooler stands before PostgreSQL"),
    "HEADWAY_ALLOW_UNSAFE": Variable(
        "allow_unsafe", _switch, _SWITCH, "append although fsync or full_page_writes is off"
    ),
    "HEADWAY_POOL_SIZE": Variable("pool_size", _whole(1, 100), "a whole number from 1 to 100", "connections for reads"),
    "HEADWAY_MAX_JOB_EVENTS": Variable(
        "max_job_events", _whole(1, 10_000_000), "a whole number from 1 to 10000000", "events in one job"
    ),
    "HEADWAY_STREAM_LENGTH": Variable(
        "stream_length",
        _whole(1_000, 100_000_000),
        "a whole number from 1000 to 100000000",
        "events of a log kept in Redis, about",
    ),
    "HEADWAY_SNAPSHOT_TTL": Variable(
        "snapshot_ttl",
        _whole(1, 31_536_000),
        "seconds, a whole number from 1 to 31536000",
        "how long a cached snapshot lives",
    ),
    "HEADWAY_LOG_FORMAT": Variable(
        "log_format", _matching("text|json"), "text or json", "what this program logs on stderr"
    ),
    "HEADWAY_DEBUG": Variable("debug", _switch, _SWITCH, "show tracebacks"),
}
