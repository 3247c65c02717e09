"""Who asks, and what they may: keys, scopes, stream tokens (WIRE, "Auth").

A `Principal` belongs to one log. What it may not see does not exist for it: another log's job is a 404.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class Scope(enum.StrEnum):
    """What a key may do."""

    APPEND = "append"
    READ = "read"
    AUDIT = "audit"
    ACT_AS = "act-as"
    ADMIN = "admin"


ALL_SCOPES: Final = frozenset(Scope)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request, as far as it matters. `key_id` is None where no key is needed.

    `log_id` is the number that the key's row names (None without keys): the second wall is built from it, never from
    the log's name. `prefix`: only jobs whose id begins with it exist for this key.
    """

    key_id: str | None
    log: str
    log_id: int | None
    scopes: frozenset[Scope]
    prefix: str = ""

    def may(self, *scopes: Scope) -> bool:
        """Whether one of these scopes is among its own."""
        return not self.scopes.isdisjoint(scopes)

    def sees(self, job_id: str) -> bool:
        return job_id.startswith(self.prefix)


def everybody(log: str) -> Principal:
    """Whoever asks where no key is needed: embedded servers on 127.0.0.1."""
    return Principal(key_id=None, log=log, log_id=None, scopes=ALL_SCOPES)
