"""A relay in a process of its own, which may kill or stop itself at a named point (tests/support/relays.py)."""

from __future__ import annotations

import os
import sys

import anyio

from eventstore import relay_leader
from eventstore.publishers.redis_streams import RedisStreams
from eventstore.relay import Relay
from eventstore.store import EventStore


def main(database_url: str, redis_url: str, point: str, count: str, number: str) -> None:
    left = int(count)

    def crash(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), int(number))

    relay_leader.crash_point = crash
    print("started", flush=True)
    with EventStore(database_url, pool_size=4) as store:
        anyio.run(Relay(store, [RedisStreams(redis_url)]).run)


if __name__ == "__main__":
    main(*sys.argv[1:])
