"""What is asked for at each scrape: lags, queues, places in use, connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.protocol import Edge
    from api.services import Services

Values = Iterable[tuple[Sequence[str], float]]


def add_gauges(services: Services, edge: Edge) -> None:
    """Show the state of a server in its metrics."""
    metrics, background = services.metrics, services.background
    metrics.add_gauge("headway_info", "The version", ("version",), lambda: [((version("headway"),), 1)])
    metrics.add_gauge("headway_connections", "Connections of clients", (), lambda: [((), edge.connections)])
    metrics.add_gauge(
        "headway_append_queue_events",
        "Events that wait to be appended",
        ("log",),
        lambda: [((log,), waiting) for log, waiting in services.store.queued().items()],
    )
    metrics.add_gauge(
        "headway_reads_in_use", "Reads that run, or hang, in a place", (), lambda: [((), services.reads.in_use)]
    )
    metrics.add_gauge("headway_reads_places", "Reads that may run at once", (), lambda: [((), services.reads.places)])
    if background is None:
        return
    where = ("log", "publisher")

    def relay(field: str) -> Values:
        return [((at.log, at.name), float(getattr(at, field))) for at in background.relays()]

    def projection(field: str) -> Values:
        return [((at.log, at.name), float(getattr(at, field))) for at in background.projections()]

    metrics.add_gauge("headway_relay_leading", "Whether this process publishes", where, lambda: relay("leading"))
    metrics.add_gauge("headway_relay_lag_events", "Events not published yet", where, lambda: relay("lag"))
    metrics.add_gauge(
        "headway_relay_lag_seconds", "Time since everything was published", where, lambda: relay("seconds")
    )
    metrics.add_gauge(
        "headway_relay_up",
        "0 while a publisher can't go on",
        where,
        lambda: [((at.log, at.name), float(at.error is None)) for at in background.relays()],
    )
    of = ("log", "projection")
    metrics.add_gauge("headway_projection_leading", "Whether this process works", of, lambda: projection("leading"))
    metrics.add_gauge("headway_projection_lag_events", "Events not applied yet", of, lambda: projection("lag"))
    metrics.add_gauge(
        "headway_projection_lag_seconds", "Time since everything was applied", of, lambda: projection("seconds")
    )
