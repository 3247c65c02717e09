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
    the log's name. `prefix`: only jobs whose id begins with it exist for this key; `jobs`: only these (None: no limit).
    """

    key_id: str | None
    log: str
    log_id: int | None
    scopes: frozenset[Scope]
    prefix: str = ""
    jobs: frozenset[str] | None = None

    def may(self, *scopes: Scope) -> bool:
        """Whether one of these scopes is among its own."""
        return not self.scopes.isdisjoint(scopes)

    def sees(self, job_id: str) -> bool:
        """Whether this job exists for it."""
        return job_id.startswith(self.prefix) and (self.jobs is None or job_id in self.jobs)

    def says_absent(self, job_id: str) -> str:
        """What its holder is told of a job that does not exist for it, whether others see it or not."""
        outside = f": this key's jobs begin with {self.prefix!r}" if not job_id.startswith(self.prefix) else ""
        return f"there is no job {job_id!r}{outside}"


class StreamGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a stream may see, and until when. `exchange.grant` of every route with `stream=True`.

    `principal.jobs` and `principal.prefix` are the token's filter. `expires_at`: seconds since 1970; None for a key,
    which has no end of its own here (ask `services.keys.is_good`). `expired`: the token was well signed and its time is
    over, or its key is revoked: the answer is 200, `retry`, `reauth`, end, and never data.
    """

    principal: Principal
    expires_at: float | None = None
    expired: bool = False


def everybody(log: str) -> Principal:
    """Whoever asks where no key is needed: embedded servers on 127.0.0.1."""
    return Principal(key_id=None, log=log, log_id=None, scopes=ALL_SCOPES)
