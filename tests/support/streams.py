"""The streams of a server in this process, as a test looks into them."""

from __future__ import annotations

import threading
import time
from typing import Any

from api.streams.hub import Hub
from api.streams.subscriber import Subscriber
from tests.support.http import Server
from tests.support.sessions import wait_until


class Ahead:
    """The wheel's clock, put ahead by hand. It goes on by itself otherwise."""

    def __init__(self, server: Server) -> None:
        self._ahead = 0.0
        self._wheel = server.services.streams.wheel
        self._wheel.clock = self

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def go(self, seconds: float) -> None:
        """Put it ahead, and let the wheel have its turn."""
        self._ahead += seconds
        turned = threading.Event()

        def turn() -> None:
            self._wheel.turn()
            turned.set()

        task = self._wheel._task
        assert task is not None, "there are no streams"
        task.get_loop().call_soon_threadsafe(turn)
        assert turned.wait(20)


def subscribers(server: Server) -> list[Subscriber]:
    return list(server.services.streams.subscribers)


def hub(server: Server) -> Hub:
    """The hub of a server over one log."""
    hubs = [log.hub for log in server.services.streams._logs.values() if log.hub is not None]
    (found,) = (hub for hub in hubs if not hub.closed)
    return found


def until_dispatched(server: Server, position: int) -> None:
    wait_until(lambda: hub(server).at.position >= position, f"position {position} is handed out")


def until_stuck(server: Server, count: int = 1) -> list[Any]:
    """Subscribers that fell behind because their client does not read."""
    stuck: list[Any] = []

    def look() -> bool:
        stuck[:] = [one for one in subscribers(server) if one._behind and one._link.pending()]
        return len(stuck) >= count

    wait_until(look, f"{count} readers are behind")
    return stuck


def ended(server: Server, reason: str) -> int:
    """How many streams have ended for this reason."""
    samples = server.services.metrics.registry.get_sample_value("headway_stream_ends_total", {"reason": reason})
    return int(samples or 0)
