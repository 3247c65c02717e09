"""The keys of this server: who holds which, and whether it is still good."""

from __future__ import annotations

from api.auth import Principal, everybody
from api.problems import Unauthorized


class KeyRing:
    """Keys as the server knows them; the database is not asked for each request.

    `keyless`: no key is needed, whoever asks may do all there is.
    """

    def __init__(self, log: str, *, keyless: bool) -> None:
        self.keyless = keyless
        self._everybody = everybody(log)

    async def authenticate(self, authorization: str | None) -> Principal:
        """Whose key an `Authorization` header holds. Raises `Unauthorized`."""
        if self.keyless:
            return self._everybody
        raise Unauthorized

    def is_good(self, key_id: str | None) -> bool:
        """Whether this key still may do what it could: neither revoked nor expired. True for None.

        Asks nobody; what happens in the database is known here within 5 to 10 s.
        """
        return key_id is None

    async def run(self) -> None:
        """Keep what is known up to date, until cancelled."""
