"""Keys as text, and the table they stand in. Of a key only its SHA-256 is kept, so it is shown once, when it is made.

    hw_ID_SECRET        ID: 12 characters, the key's name everywhere        SECRET: 200 bits

The secrets that sign stream tokens stand beside them; the first process that needs one makes it.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from api.auth import Scope
from eventstore.events import to_datetime
from eventstore.statements import Conn

KEY: Final = re.compile(r"hw_([a-z2-7]{12})_[a-z2-7]{40}")
_ANYWHERE: Final = re.compile(rb"hw_[a-z2-7]{12}_[a-z2-7]{40}")
MAX_TEXT: Final = 200  # characters of a name, and of a prefix
PREFIX: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:@-]{0,199})?")
DEFAULT_SCOPES: Final = (Scope.APPEND, Scope.READ)

CREATE: Final = """
INSERT INTO api_keys (id, sha256, log_id, name, scopes, prefix, expires_at)
VALUES (%(id)s, %(sha256)s, %(log_id)s, %(name)s, %(scopes)s, %(prefix)s,
        clock_timestamp() + make_interval(secs => %(lasts)s)) RETURNING id
"""
ALL: Final = """
SELECT k.id, k.sha256, k.log_id, l.name, k.name, k.scopes, k.prefix, k.created_at, k.expires_at, k.revoked_at
  FROM api_keys k JOIN logs l USING (log_id) ORDER BY k.created_at, k.id
"""
REVOKE: Final = (
    "UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = %s RETURNING revoked_at"
)
STATE: Final = """
SELECT (SELECT coalesce(sum(hashtextextended(k::text, 0)), 0) FROM api_keys k)::text,
       (SELECT coalesce(sum(hashtextextended(s::text, 0)), 0) FROM signing_keys s)::text
"""
"""Another one if any row changed: asked every few seconds, so that the rows are read after a change only."""
SIGNING: Final = "SELECT id, secret FROM signing_keys ORDER BY created_at DESC, id DESC"
MAKE_SIGNING: Final = (
    "INSERT INTO signing_keys (id, secret) SELECT %s, %s WHERE NOT EXISTS (SELECT FROM signing_keys)"
    " ON CONFLICT (id) DO NOTHING"
)
FIRST: Final = "1"


class NoSuchKey(Exception):
    """There is no key with this id."""

    code: ClassVar[str] = "no_such_key"
    retryable: ClassVar[bool] = False

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id!r}: `headway keys list` shows the ids")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. Times are the database's; `expires_at` and `revoked_at` are None if it is neither."""

    id: str
    sha256: bytes
    log_id: int
    log: str
    name: str
    scopes: tuple[str, ...]
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_good(self, now: float) -> bool:
        """Whether it may be used; `now` in seconds since 1970."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at.timestamp())


def digest(text: str) -> bytes:
    """What is kept of a key. 200 random bits need no slow hash."""
    return hashlib.sha256(text.encode()).digest()


def has_key(query: bytes) -> bool:
    """Whether a key stands somewhere in the query of an address."""
    return _ANYWHERE.search(query) is not None


def create(
    conn: Conn,
    log_id: int,
    *,
    scopes: Iterable[Scope] = DEFAULT_SCOPES,
    name: str = "",
    prefix: str = "",
    lasts: float | None = None,
) -> str:
    """Make a key for a log; the whole key, which nobody can read again. `lasts`: seconds until it expires."""
    key_id = _random(8)[:12]
    text = f"hw_{key_id}_{_random(25)}"
    conn.execute(
        CREATE,
        {
            "id": key_id,
            "sha256": digest(text),
            "log_id": log_id,
            "name": name,
            "scopes": sorted(set(scopes)),
            "prefix": prefix,
            "lasts": lasts,
        },
    )
    return text


def revoke(conn: Conn, key_id: str) -> datetime:
    """End a key for ever; when it was. Once is enough. Raises `NoSuchKey`."""
    row = conn.execute(REVOKE, (key_id,), binary=True).fetchone()
    if row is None:
        raise NoSuchKey(key_id)
    return to_datetime(row[0])


def list_keys(conn: Conn) -> list[Key]:
    """All keys of all logs, oldest first; the revoked ones too."""
    return [_key(row) for row in conn.execute(ALL, binary=True).fetchall()]


def state(conn: Conn) -> tuple[str, str]:
    """Something that changes when a row of either table does."""
    keys, signing = conn.execute(STATE).fetchone() or ("", "")
    return str(keys), str(signing)


def signing_keys(conn: Conn) -> list[tuple[str, bytes]]:
    """The secrets of stream tokens, the newest first; made now if there is none. All processes get the same."""
    found = conn.execute(SIGNING, binary=True).fetchall()
    if not found:
        conn.execute(MAKE_SIGNING, (FIRST, secrets.token_bytes(32)))
        found = conn.execute(SIGNING, binary=True).fetchall()
    return [(str(key_id), bytes(secret)) for key_id, secret in found]


def _key(row: Sequence[Any]) -> Key:
    key_id, sha256, log_id, log, name, scopes, prefix, created, expires, revoked = row
    return Key(
        id=key_id,
        sha256=sha256,
        log_id=log_id,
        log=log,
        name=name,
        scopes=tuple(scopes),
        prefix=prefix,
        created_at=to_datetime(created),
        expires_at=None if expires is None else to_datetime(expires),
        revoked_at=None if revoked is None else to_datetime(revoked),
    )


def _random(size: int) -> str:
    return base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower()
