"""Reading a log's Redis stream with nothing but XREAD: the example of the README.

XREAD skips silently what was trimmed, and after FLUSHALL it goes on silently. So each id is compared with the last one
+ 1, and a hole is read from PostgreSQL, where everything is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import redis

from eventstore.store import EventStore
from eventstore.wire import as_dict, stream_key


def follow(redis_url: str, store: EventStore, position: int = 0) -> Iterator[dict[str, Any]]:
    """Every event after a position, for ever. Ends when a new epoch begins: then ask `store.resolve(cursor)`."""
    epoch = store.head().epoch
    key = stream_key(store.log, epoch)
    with redis.Redis.from_url(redis_url, protocol=2, socket_timeout=10) as client:
        while store.head().epoch == epoch:
            for _, entries in client.xread({key: f"{position}-0"}, count=1_000, block=1_000):
                for ident, fields in entries:
                    found = int(ident.split(b"-")[0])
                    while position + 1 < found:
                        for event in store.read_log(position, upto=found - 1):
                            yield as_dict(event, epoch)
                            position = event.position
                    yield msgspec.json.decode(fields[b"event"])
                    position = found
