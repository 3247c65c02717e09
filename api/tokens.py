"""Stream tokens: short-lived and read only, for pages that can't send a header (EventSource)."""

from __future__ import annotations

from collections.abc import Sequence

from api.auth import Principal, StreamGrant
from api.problems import Unauthorized


class StreamTokens:
    """Makes and reads the tokens of one database; every server process over it knows the same secrets."""

    async def mint(
        self, who: Principal, *, jobs: Sequence[str] | None = None, prefix: str = "", ttl: float | None = None
    ) -> tuple[str, float]:
        """A token for streams of these jobs, or of those with a prefix, with its end (seconds since 1970)."""
        raise NotImplementedError

    async def read(self, token: str) -> StreamGrant:
        """What a token allows; `expired` if it did. Raises `Unauthorized` for what is not well signed."""
        raise Unauthorized
