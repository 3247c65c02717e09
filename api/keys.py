"""The keys of this server: who holds which, and whether it is still good.

All keys are held in memory; a look every few seconds tells whether a row changed. So a request costs one SHA-256, a
revoked key is known within seconds, and while PostgreSQL is away what was known goes on.
"""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING, ClassVar, Final

import anyio
import anyio.to_thread
import psycopg

from api import key_table
from api.auth import Principal, Scope, everybody
from api.key_table import KEY, Key, digest
from api.problems import Unauthorized
from api.wiring import WiringError
from eventstore.errors import EventStoreError, StoreUnavailable

if TYPE_CHECKING:
    from eventstore.store import EventStore

logger = logging.getLogger("headway.keys")

LOOK: Final = 5.0  # seconds between looks
SOONEST: Final = 0.2  # seconds between looks because of keys that are not known
PATIENCE: Final = 10.0  # seconds for the database to answer a look
SHORT: Final = 1.0  # seconds that a request with an unknown key waits for it
_NOBODY: Final = bytes(32)
_SCOPES: Final = {scope.value: scope for scope in Scope}


class NoKeys(WiringError):
    """Keys are needed and there is none."""

    code: ClassVar[str] = "no_keys"

    def __init__(self, log: str) -> None:
        super().__init__(
            "there is no key yet, so nobody could use this server. Make one first:\n"
            f"  headway keys create --log {log} --scope append --scope read --scope audit\n"
            "  (without keys only embedded servers on 127.0.0.1 are served)"
        )


class KeyRing:
    """Keys as the server knows them, and the secrets of its stream tokens. `load` first, then keep `run` running.

    `keyless`: whoever sends no key may do all there is. `look`: seconds between looks.
    """

    def __init__(self, store: EventStore, *, keyless: bool, look: float = LOOK) -> None:
        self.keyless = keyless
        self.signing: list[tuple[str, bytes]] = []
        """Ids and secrets of stream tokens; the first one signs."""
        self._store = store
        self._look = look
        self._everybody = everybody(store.log)
        self._keys: dict[str, tuple[Key, Principal]] = {}
        self._state: tuple[str, str] | None = None
        self._looked_at = float("-inf")
        self._looking: anyio.Lock | None = None
        self._reading = False

    async def authenticate(self, authorization: str | None) -> Principal:
        """Whose key an `Authorization` header holds. Raises `Unauthorized`, for a bad key also if none is needed.

        An id that nobody has and a wrong secret are the same work and the same answer.
        """
        kind, _, text = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            if self.keyless:
                return self._everybody
            raise Unauthorized
        given = KEY.fullmatch(text.strip())
        if given is None:
            raise Unauthorized
        found = self._check(given[1], given[0])
        if found is None and await self.refresh():
            found = self._check(given[1], given[0])
        if found is None:
            raise Unauthorized
        return found

    def _check(self, key_id: str, text: str) -> Principal | None:
        key, who = self._keys.get(key_id, (None, None))
        same = hmac.compare_digest(digest(text), _NOBODY if key is None else key.sha256)
        return who if same and key is not None and key.is_good(time.time()) else None

    def is_good(self, key_id: str | None) -> bool:
        """Whether this key still may do what it could: neither revoked nor expired. True for None.

        Asks nobody; what happens in the database is known here within 5 to 10 s.
        """
        if key_id is None:
            return True
        key, _ = self._keys.get(key_id, (None, None))
        return key is not None and key.is_good(time.time())

    def holder(self, key_id: str) -> Principal | None:
        """Who has this key, if it is good."""
        key, who = self._keys.get(key_id, (None, None))
        return who if key is not None and key.is_good(time.time()) else None

    def any(self) -> bool:
        """Whether there is a key that somebody can use."""
        now = time.time()
        return any(key.is_good(now) for key, _ in self._keys.values())

    async def load(self) -> None:
        """Read the keys. Raises `StoreUnavailable`."""
        async with self._turn():
            await self._look_now()

    async def refresh(self) -> bool:
        """`load` because of something unknown, at most five times a second for all who ask; whether it was done."""
        asked = time.monotonic()
        if asked - self._looked_at < SOONEST:
            return False
        with anyio.move_on_after(SHORT):
            async with self._turn():
                if asked - self._looked_at >= SOONEST:  # else another one looked while this one waited
                    try:
                        await self._look_now()
                    except (EventStoreError, psycopg.Error):
                        return False
            return True
        return False

    def _turn(self) -> anyio.Lock:
        if self._looking is None:
            self._looking = anyio.Lock()
        return self._looking

    async def _look_now(self) -> None:
        begun = time.monotonic()
        try:
            if self._reading:
                raise StoreUnavailable("the keys are being read, and the database gives no answer")
            with anyio.fail_after(PATIENCE):
                await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except TimeoutError:
            raise StoreUnavailable("the keys can't be read: the database gives no answer") from None
        finally:
            self._looked_at = begun

    def _read(self) -> None:
        """In a thread, which nobody waits for if the database hangs; one at a time."""
        self._reading = True
        try:
            self._read_rows()
        finally:
            self._reading = False

    def _read_rows(self) -> None:
        with self._store.database.session() as conn:
            state = key_table.state(conn)
            if state == self._state:
                return
            signing = key_table.signing_keys(conn)
            keys = key_table.list_keys(conn)
        self._keys = {key.id: (key, _principal(key)) for key in keys}
        self.signing, self._state = signing, state

    async def run(self) -> None:
        """Keep what is known up to date, until cancelled. While PostgreSQL is away the keys stay as they were."""
        away = False
        while True:
            await anyio.sleep(self._look)
            try:
                await self.load()
            except (EventStoreError, psycopg.Error) as error:
                if not away:
                    logger.warning("keys can't be looked up, those that are known stay good: %s", error)
                away = True
            else:
                if away:
                    logger.warning("keys can be looked up again")
                away = False


def _principal(key: Key) -> Principal:
    scopes = frozenset(_SCOPES[scope] for scope in key.scopes if scope in _SCOPES)
    return Principal(key_id=key.id, log=key.log, log_id=key.log_id, scopes=scopes, prefix=key.prefix)
