"""The ordeal of a reader: 10,000 events, 50 cuts at random bytes, a token that expires, a server that is killed.

    with ordeal(database_url) as it:
        reading = start a reader at it.url with tokens from it.token(), or from POST it.desk
        it.tell_everything()
        it.judge(the ids that the reader saw)

The reader sees the server through a proxy that cuts its streams. What it saw is compared with the log read back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import headway
from eventstore.store import EventStore
from projections.progress import Progress
from tests.browser.desk import desk
from tests.support.cutting import Cutter, cutting
from tests.support.keys import make_key
from tests.support.relays import until
from tests.support.serve_process import ServeProcess, serve_processes

EVENTS = 10_000
CUTS = 50
BATCH = 100
FIRST_TOKEN = 2  # seconds
LAST_WORDS = "the end"
PATIENCE = 150.0  # seconds for what takes about 10


class Ordeal:
    def __init__(
        self, database_url: str, servers: list[ServeProcess], cutter: Cutter, key: str, redis_url: str
    ) -> None:
        self._database_url, self._redis_url = database_url, redis_url
        self._servers, self._cutter, self._key = servers, cutter, key
        self.url = cutter.url
        self.desk = ""
        """Where a page is, and where tokens are handed out. Its origin is listed for CORS."""
        self.tokens = 0
        """How many tokens were asked for."""
        self._told = 0
        self._lock = threading.Lock()

    def start_server(self) -> None:
        environ = {"DATABASE_URL": self._database_url, "HEADWAY_ACCESS_LOG": "0", "HEADWAY_CORS_ORIGINS": self.desk}
        if self._redis_url:
            environ["REDIS_URL"] = self._redis_url
        server = ServeProcess(**environ)
        self._servers.append(server)
        server.wait_for_start()
        self._cutter.target = server.port

    def kill_server(self) -> None:
        self._cutter.target = None
        self._servers[-1].process.kill()
        self._servers[-1].ended()

    def token(self) -> str:
        """A token; the first one is short-lived."""
        with self._lock:
            self.tokens += 1
            ttl = FIRST_TOKEN if self.tokens == 1 else 600
        with headway.Client(self._servers[-1].url, self._key) as client:
            return client.stream_token(ttl=ttl).token

    def tell(self, upto: int) -> None:
        """Append until so many events are there."""
        with headway.Client(self._servers[-1].url, self._key) as client:
            while self._told < upto:
                numbers = range(self._told, min(self._told + BATCH, upto))
                client.append_many(self._event(number) for number in numbers)
                self._told = numbers.stop

    def _event(self, number: int) -> dict[str, object]:
        message = LAST_WORDS if number == EVENTS - 1 else f"第 {number}\n\ndata: x\rid: 1\u2028"
        return {"job_id": f"ordeal:{number % 7}", "type": "job.noted", "data": {"level": "info", "message": message}}

    def tell_everything(self) -> None:
        """The story, with an expiry and a kill in it."""
        self.tell(EVENTS * 4 // 10)
        until(lambda: self.tokens > 1, PATIENCE)
        self.tell(EVENTS * 7 // 10)
        self.kill_server()
        self.start_server()
        self.tell(EVENTS)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell everything beside the block, and wait for the end of it; what went wrong is raised."""
        with ThreadPoolExecutor(1) as threads:
            story = threads.submit(self.tell_everything)
            try:
                yield
            finally:
                story.result(PATIENCE)

    def judge(self, seen: list[str]) -> None:
        """Nothing missing, nothing twice, in order, and it was as hard as it was meant to be."""
        with headway.Client(self._servers[-1].url, self._key) as client:
            there = [event.cursor for event in client.events(after=0, prefix="ordeal:")]
        assert len(there) == EVENTS
        told = set(there)
        assert len(seen) == len(set(seen)), "some came twice"
        assert told - set(seen) == set(), "some are missing"
        assert [cursor for cursor in seen if cursor in told] == there, "the order is another"
        assert self._cutter.cut == CUTS
        assert self.tokens >= 2
        assert len(self._servers) == 2


@contextmanager
def ordeal(database_url: str, *, seed: int = 0, page: str = "", redis_url: str = "") -> Iterator[Ordeal]:
    """`page`: HTML that is served at `desk`. With a `redis_url` live events come by Redis, else from PostgreSQL."""
    with EventStore(database_url, projection=Progress()) as store:
        store.create_log()
    key = make_key(database_url)
    with serve_processes() as servers, cutting(None, cuts=CUTS, most=60_000, seed=seed) as cutter:
        it = Ordeal(database_url, servers, cutter, key, redis_url)
        with desk(lambda: page, it.token) as it.desk:
            it.start_server()
            yield it
