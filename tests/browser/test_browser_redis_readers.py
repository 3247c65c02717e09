"""The log's stream in Redis, read raw by programs that no one here wrote, while a relay publishes: the same events.

redis-py, ioredis (Node.js) and redis-cli read with plain XREAD; two consumers of a group share it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from eventstore.events import NewEvent
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay, start_relay
from eventstore.store import EventStore
from eventstore.wire import cursor_of, encode_event, stream_key
from tests.support.npm import missing, node, npm_folder
from tests.support.relays import OwnValkey, own_valkey

COUNT = 600
HERE = Path(__file__).parent
Entries = list[tuple[str, dict[str, str]]]
Reader = Callable[[str, str], Entries]


def by_redis_py(url: str, key: str) -> Entries:
    found: Entries = []
    with redis.Redis.from_url(url, decode_responses=True, protocol=2) as client:
        last = "0"
        while len(found) < COUNT:
            answer: Any = client.xread({key: last}, count=100, block=1000)
            for _, entries in answer or ():
                found += entries
                last = entries[-1][0]
    return found


def by_ioredis(url: str, key: str) -> Entries:
    command = [node(), HERE / "redis_reader.mjs", npm_folder(), url, key, str(COUNT)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [(ident, paired(fields)) for ident, fields in json.loads(shown.stdout)]


def by_redis_cli(url: str, key: str) -> Entries:
    program = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if program is None:
        missing("there is no redis-cli: install it (Debian: redis-tools)")
    found: Entries = []
    last = "0"
    while len(found) < COUNT:
        command = [program, "-u", url, "--json", "XREAD", "COUNT", "100", "BLOCK", "1000", "STREAMS", key, last]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        for entries in (json.loads(shown.stdout) or {}).values():
            found += [(ident, paired(fields)) for ident, fields in entries]
            last = found[-1][0]
    return found


def by_a_consumer_group(url: str, key: str) -> Entries:
    found: Entries = []
    with redis.Redis.from_url(url, decode_responses=True, protocol=2) as client:
        client.xgroup_create(key, "auditors", id="0", mkstream=False)
        while len(found) < COUNT:
            for consumer in ("one", "two"):
                answer: Any = client.xreadgroup("auditors", consumer, {key: ">"}, count=50, block=1000)
                for _, entries in answer or ():
                    found += entries
                    client.xack(key, "auditors", *(ident for ident, _ in entries))
        assert client.xpending(key, "auditors")["pending"] == 0
    return found


def paired(fields: list[str]) -> dict[str, str]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


@pytest.fixture(scope="module")
def valkey() -> Iterator[OwnValkey]:
    """One with a port, as other people's programs expect."""
    with own_valkey() as own:
        yield own


@pytest.fixture(autouse=True)
def _empty(valkey: OwnValkey) -> None:
    valkey.client.flushall()


@pytest.mark.parametrize("read", [by_redis_py, by_ioredis, by_redis_cli, by_a_consumer_group])
def test_a_raw_reader_sees_what_the_log_holds(read: Reader, database_url: str, valkey: OwnValkey) -> None:
    redis_url = valkey.url
    with EventStore(database_url) as store, start_relay_of(store, redis_url), ThreadPoolExecutor(1) as threads:
        store.append("raw:0", [noted(0)])
        key = stream_key(store.log, store.head().epoch)
        with redis.Redis.from_url(redis_url) as client:
            client.xread({key: "0"}, block=20_000)
        reading = threads.submit(read, redis_url, key)
        for number in range(1, COUNT, 20):
            store.append(f"raw:{number % 3}", [noted(n) for n in range(number, min(number + 20, COUNT))])
        entries = reading.result(90)
        events = store.read_log()
        assert [ident for ident, _ in entries] == [f"{n}-0" for n in range(1, COUNT + 1)]
        for (_, fields), event in zip(entries, events, strict=True):
            assert fields == {
                "job": event.job_id,
                "cursor": cursor_of(event, 1),
                "event": encode_event(event, 1).decode(),
            }


def noted(number: int) -> NewEvent:
    message = f"第 {number} 条 \u2028 \r\n\t\"'\\ 💥"
    return NewEvent(type="job.noted", data={"level": "info", "message": message})


def start_relay_of(store: EventStore, redis_url: str) -> Any:
    store.create_log()
    return start_relay(Relay(store, [RedisStreams(redis_url)]))
