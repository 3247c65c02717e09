"""What the environment and the configuration file say, read once and checked: the only place that looks at it.

The environment wins over the file, the file over the defaults. A variable that is empty counts as not set. A value
that breaks its rule is refused by name; nothing falls back in silence to a default that nobody asked for. Passwords
are hidden wherever settings are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import unquote

import msgspec

from api.variables import BY_FIELD, OF_CLIENTS, VARIABLES, Variable

DEFAULT_LOG: Final = "default"
HIDDEN: Final = "***"
FILE: Final = "headway.toml"

_FLAGS: Final = re.IGNORECASE | re.DOTALL
_USER_PART: Final = re.compile(r"(?P<before>^[a-z][a-z0-9+.-]*://[^/?#:@]*:)(?P<secret>.+)(?=@)", _FLAGS)
_IN_TEXT: Final = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^/?#:@\s]*:)(?P<secret>[^@\s]+)(?=@)", _FLAGS)
_NAMED: Final = re.compile(
    r"(?P<before>\b(?:password|sslpassword|oauth_client_secret)\s*=\s*)(?P<secret>'(?:[^'\\]|\\.)*'|[^\s&#]+)", _FLAGS
)
_SHORTEST: Final = 4  # characters; a shorter password is not looked for in free text, every word would have it


class SettingsError(Exception):
    """A setting breaks its rule. `variable`, `given` (passwords hidden) and `rule` say which."""

    code: ClassVar[str] = "invalid_setting"
    retryable: ClassVar[bool] = False

    def __init__(self, variable: str, given: str, rule: str) -> None:
        shown = hide(given)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        super().__init__(f"{variable}: {rule}; given {shown!r}")
        self.variable, self.given, self.rule = variable, shown, rule


class BadConfigFile(SettingsError):
    """The configuration file can't be read, is no TOML, or names a setting that does not exist."""

    def __init__(self, path: Path, why: str) -> None:
        Exception.__init__(self, f"{path}: {why}")
        self.variable, self.given, self.rule = str(path), "", why


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
    """All that can be set; `VARIABLES` says what each is for. `""` for a URL means: not set, so the embedded server is
    used where there is one.
    """

    config: str = ""
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
    host: str = "127.0.0.1"
    port: int = 8_000
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    require_keys: bool = False
    token_ttl: int = 900
    append_rate: int = 200
    append_burst: int = 1_000
    streams_per_key: int = 100
    max_streams: int = 10_000
    max_connections: int = 15_000
    stop_patience: int = 15
    keep_traceparent: bool = True
    access_log: bool = True
    log_format: Literal["text", "json"] = "text"
    debug: bool = False

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """The settings of this process. Raises `SettingsError` for the first one that breaks its rule."""
        return cls.load_with_origins(environ)[0]

    @classmethod
    def load_with_origins(cls, environ: Mapping[str, str] | None = None) -> tuple[Settings, dict[str, str]]:
        """The settings, and where each that is no default comes from: a variable's name, or the file's path."""
        given = os.environ if environ is None else environ
        path = _config_file(given)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        if path is not None:
            values = _read_file(path)
            origins = dict.fromkeys(values, str(path))
        for name, variable in VARIABLES.items():
            text = given.get(name, "")
            if text:
                values[variable.field] = _parse(name, variable, text)
                origins[variable.field] = name
        return cls(**values), origins

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


def _parse(name: str, variable: Variable, text: str) -> Any:
    try:
        return variable.parse(text)
    except ValueError:
        raise SettingsError(name, text, variable.rule) from None


def _config_file(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("HEADWAY_CONFIG", "")
    if named:
        return Path(named)
    here = Path(FILE)
    return here if here.is_file() else None


def _read_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfigFile(path, f"it can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadConfigFile(path, "it is no UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfigFile(path, f"it is no TOML: {error}") from None
    values: dict[str, Any] = {}
    for field, value in found.items():
        name = BY_FIELD.get(field)
        if name is None or field == "config":
            raise BadConfigFile(path, f"there is no setting {field!r}{suggestion(field, BY_FIELD)}")
        variable = VARIABLES[name]
        values[field] = _parse(f"{path}: {field}", variable, _as_text(value))
    return values


def _as_text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join(_as_text(part) for part in value)
        case str() | int():
            return str(value)
        case _:
            return repr(value)


def suggestion(name: str, names: Mapping[str, object]) -> str:
    """What was meant by a name that does not exist, as the end of a sentence."""
    import difflib

    field = name.lower().removeprefix("headway_")
    near = [field] if field in names else difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; `headway config` lists them"


def wants_tracebacks(environ: Mapping[str, str] | None = None) -> bool:
    """Whether HEADWAY_DEBUG asks for tracebacks; works when other variables are wrong."""
    given = os.environ if environ is None else environ
    return given.get("HEADWAY_DEBUG", "").lower() in ("1", "true", "yes", "on")


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Variables that begin with HEADWAY_ and mean nothing: most likely a slip of the pen."""
    given = os.environ if environ is None else environ
    known = VARIABLES.keys() | OF_CLIENTS
    return sorted(name for name in given if name.startswith("HEADWAY_") and name not in known)
