"""Stream tokens: short-lived and read only, for pages that can't send a header (EventSource).

A token is a JWT (HS256) with the log, the key that made it, and which jobs it shows. It is good for opens and reopens
until `exp`; afterwards it still says whose it was, so that the answer can be `reauth` and not an end for good.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jwt
import msgspec

from api.auth import Principal, Scope, StreamGrant
from api.keys import KeyRing
from api.problems import Forbidden, MalformedRequest, NotFound, Unauthorized
from eventstore.codec import check_job_id

ALGORITHM: Final = "HS256"
AUDIENCE: Final = "headway:stream"
SKEW: Final = 30  # seconds by which the clocks of two servers may differ
LONGEST: Final = 8_192  # characters of a token; addresses much longer are refused on the way
MAX_JOBS: Final = 100
MAX_TEXT: Final = 4_000  # characters of all jobs together
_READ: Final = frozenset((Scope.READ,))
_BAD: Final = "this stream token is not one of this server's: get a new one at POST /v1/stream-tokens"


class _Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    aud: str
    iat: int
    exp: int
    log: str
    key: str | None
    prefix: str
    jobs: list[str] | None


def token_in(authorization: str) -> str | None:
    """The stream token in an `Authorization` header, where no log keeps it; None if that holds a key, or neither."""
    kind, _, text = authorization.partition(" ")
    return text if kind.lower() == "bearer" and text.startswith("eyJ") and text.count(".") == 2 else None


class StreamTokens:
    """Makes and reads tokens; every server process over one database knows the same secrets.

    `longest`: seconds that a token may be good for, and is unless asked otherwise. `clock`: seconds since 1970.
    """

    def __init__(self, keys: KeyRing, *, longest: int = 900, clock: Callable[[], float] | None = None) -> None:
        self._keys, self._longest, self._clock = keys, longest, clock

    def _now(self) -> float:
        return (self._clock or time.time)()

    async def mint(
        self, who: Principal, *, jobs: Sequence[str] | None = None, prefix: str = "", ttl: int | None = None
    ) -> tuple[str, int]:
        """A token for streams of these jobs, or of those with a prefix, with its end (seconds since 1970).

        It never shows more than its maker may see: `Forbidden` for a wider prefix, `NotFound` for a job that does not
        exist for the key. Raises `MalformedRequest` for what breaks a limit, `InvalidEvent` for what is no job's id.
        """
        lasts = self._longest if ttl is None else ttl
        if not 1 <= lasts <= self._longest:
            raise MalformedRequest(f"ttl: seconds from 1 to {self._longest}", field="ttl")
        if jobs is not None:
            if not 1 <= len(jobs) <= MAX_JOBS or sum(map(len, jobs)) > MAX_TEXT:
                rule = f"1 to {MAX_JOBS} jobs, {MAX_TEXT:,} characters together"
                raise MalformedRequest(f"jobs: {rule}; for more use a prefix", field="jobs")
            for job_id in jobs:
                check_job_id(job_id)
                if not who.sees(job_id):
                    raise NotFound(who.says_absent(job_id))
        if prefix:
            check_job_id(prefix, "prefix")
        if prefix and not prefix.startswith(who.prefix):
            raise Forbidden(f"prefix: this key sees only jobs whose id begins with {who.prefix!r}", field="prefix")
        if not self._keys.signing:
            await self._keys.load()
        key_id, secret = self._keys.signing[0]
        now = int(self._now())
        claims = _Claims(
            aud=AUDIENCE,
            iat=now,
            exp=now + lasts,
            log=who.log,
            key=who.key_id,
            prefix=prefix or who.prefix,
            jobs=None if jobs is None else sorted(set(jobs)),
        )
        token = jwt.encode(msgspec.to_builtins(claims), secret, algorithm=ALGORITHM, headers={"kid": key_id})
        return token, claims.exp

    async def read(self, token: str) -> StreamGrant:
        """What a token allows; `expired` if its time is over or its key is not good any more.

        Raises `Unauthorized` for what nobody here signed, for another purpose or log, or in the future.
        """
        claims = await self._claims(token)
        now = self._now()
        if claims.iat > now + SKEW:
            raise Unauthorized(_BAD)
        good, log_id, prefix = True, None, claims.prefix
        if claims.key is None:
            if not self._keys.keyless:
                raise Unauthorized(_BAD)
        else:
            holder = self._keys.holder(claims.key)
            if holder is None:
                good = False
            elif holder.log != claims.log:
                raise Unauthorized(_BAD)
            else:
                log_id = holder.log_id
                good = Scope.READ in holder.scopes and prefix.startswith(holder.prefix)
        who = Principal(
            key_id=claims.key,
            log=claims.log,
            log_id=log_id,
            scopes=_READ,
            prefix=prefix,
            jobs=None if claims.jobs is None else frozenset(claims.jobs),
        )
        return StreamGrant(principal=who, expires_at=claims.exp, expired=not good or now >= claims.exp)

    async def _claims(self, token: str) -> _Claims:
        if len(token) > LONGEST:
            raise Unauthorized(_BAD)
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            secret = self._secret(key_id)
            if secret is None and await self._keys.refresh():
                secret = self._secret(key_id)
            if secret is None:
                raise Unauthorized(_BAD)
            options: Any = {"require": ["exp", "iat", "aud"], "verify_exp": False, "verify_iat": False}
            found = jwt.decode(token, secret, algorithms=[ALGORITHM], audience=AUDIENCE, options=options)
            return msgspec.convert(found, _Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError):
            raise Unauthorized(_BAD) from None

    def _secret(self, key_id: object) -> bytes | None:
        return next((secret for known, secret in self._keys.signing if known == key_id), None)
