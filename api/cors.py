"""Web pages of other origins: closed, unless origins are listed (Fetch standard, "HTTP-CORS protocol").

No cookie is ever looked at, so credentials are not allowed: a page sends its token or key itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

Header = tuple[bytes, bytes]

ALLOWED: Final = (
    b"authorization, content-type, accept, idempotency-key, if-match, if-none-match, last-event-id, x-request-id,"
    b" traceparent"
)
EXPOSED: Final = b"etag, link, location, retry-after, x-request-id"
MAX_AGE: Final = b"600"  # seconds that a browser keeps a preflight's answer


@lru_cache(maxsize=256)
def is_near(host: str) -> bool:
    """Whether a `Host` header is one that no stranger's page can have: localhost, an address, a name without a dot.

    A page may let its own name point to 127.0.0.1 (DNS rebinding), and is of the same origin then as whoever listens
    there: where no key is needed, only this header tells.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if ("." not in name and ":" not in name) or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Cors:
    """Which origins' pages may call. Without origins it adds nothing to any answer."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def headers(self, origin: str | None) -> list[Header]:
        """What an answer to a page of this origin carries."""
        found: list[Header] = [] if self._any else [(b"vary", b"origin")]
        allowed = self._allowed(origin)
        if allowed is not None:
            found += [(b"access-control-allow-origin", allowed), (b"access-control-expose-headers", EXPOSED)]
        return found

    def preflight(self, origin: str | None, methods: Iterable[str]) -> list[Header]:
        """What the answer to a preflight carries, for a path with these methods."""
        found: list[Header] = [
            (b"vary", b"origin, access-control-request-method, access-control-request-headers"),
        ]
        allowed = self._allowed(origin)
        if allowed is not None:
            found += [
                (b"access-control-allow-origin", allowed),
                (b"access-control-allow-methods", ", ".join(sorted(methods)).encode()),
                (b"access-control-allow-headers", ALLOWED),
                (b"access-control-max-age", MAX_AGE),
            ]
        return found

    def _allowed(self, origin: str | None) -> bytes | None:
        if origin is None:
            return None
        if self._any:
            return b"*"
        given = origin.encode("latin-1")
        return given if given in self._origins else None
