"""Metrics for Prometheus: what this process did, and how far everything is at the moment of a scrape.

    services.metrics.cache_hit()
    services.metrics.stream_opened("job")

Counting is cheap enough for every request (about a microsecond); gauges are asked for when somebody scrapes. Each
`Metrics` has a registry of its own, so several servers may live in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from eventstore.batch import Head
from eventstore.events import RecordedEvent

CONTENT_TYPE: Final = "text/plain; version=0.0.4"  # Litestar adds the charset

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
_STREAM_SECONDS: Final = (1, 5, 15, 60, 300, 900, 1_800)


class Gauge:
    """A value that is asked for at a scrape: pairs of label values and value."""

    __slots__ = ("labels", "name", "purpose", "read")

    def __init__(
        self,
        name: str,
        purpose: str,
        labels: Sequence[str],
        read: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        self.name, self.purpose, self.labels, self.read = name, purpose, labels, read


class _Gauges(Collector):
    def __init__(self) -> None:
        self.gauges: list[Gauge] = []

    def collect(self) -> Iterable[Metric]:
        for gauge in self.gauges:
            family = GaugeMetricFamily(gauge.name, gauge.purpose, labels=gauge.labels)
            for labels, value in gauge.read():
                family.add_metric(labels, value)
            yield family


class Metrics:
    """What one server counts. Every method may be called from any thread, and never fails."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._gauges = _Gauges()
        self._requests = Histogram(
            "headway_http_request_seconds",
            "Time from a request's head to the end of its answer; streams are counted on their own",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._request: dict[tuple[str, str, int], Histogram] = {}
        self._append = Histogram(
            "headway_append_seconds",
            "Time from an append's submission to its acknowledgement on disk",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "headway_append_batch_events", "Events committed in one transaction", buckets=_EVENTS, registry=registry
        )
        self._appended = Counter("headway_events_appended", "Events appended", ("log",), registry=registry)
        self._rejected = Counter(
            "headway_events_rejected",
            "Events that were stored and did not count, by reason",
            ("log", "reason"),
            registry=registry,
        )
        self._cache = Counter(
            "headway_snapshot_cache_reads", "Snapshots asked of the cache: hit or miss", ("result",), registry=registry
        )
        self._hit, self._miss = self._cache.labels("hit"), self._cache.labels("miss")
        self._stream_seconds = Histogram(
            "headway_stream_seconds", "How long streams lasted", ("kind",), buckets=_STREAM_SECONDS, registry=registry
        )
        self._stream_events = Counter("headway_stream_events", "Events sent on streams", ("kind",), registry=registry)
        self._stream_ends = Counter(
            "headway_stream_ends", "Why streams ended or were not opened", ("reason",), registry=registry
        )
        self._refused = Counter(
            "headway_requests_refused", "Requests refused before their route, by reason", ("reason",), registry=registry
        )
        self._open: dict[str, int] = {}
        self.add_gauge(
            "headway_subscribers",
            "Open streams by kind",
            ("kind",),
            lambda: [((kind,), count) for kind, count in self._open.items()],
        )
        registry.register(self._gauges)

    # -- requests and appends ---------------------------------------------------------------------------------------

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the template, never the path: labels must be few."""
        key = (method, route, status)
        child = self._request.get(key)
        if child is None:
            child = self._request[key] = self._requests.labels(method, route, str(status))
        child.observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused before its route: `head_timeout`, `malformed`, `too_many_connections` …"""
        self._refused.labels(reason).inc()

    def append_done(self, seconds: float) -> None:
        """An append was acknowledged `seconds` after it was submitted."""
        self._append.observe(seconds)

    def on_append(self, head: Head, events: Sequence[RecordedEvent]) -> None:
        """A batch was committed: the listener for `EventStore.on_append`."""
        self._batch.observe(len(events))
        self._appended.labels(head.name).inc(len(events))
        for event in events:
            if not event.applied:
                self._rejected.labels(head.name, event.reason or "").inc()

    def cache_hit(self) -> None:
        """A snapshot came from the cache."""
        self._hit.inc()

    def cache_miss(self) -> None:
        """A snapshot had to come from PostgreSQL."""
        self._miss.inc()

    # -- streams ----------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> int:
        """Streams open now, of all kinds."""
        return sum(self._open.values())

    def stream_opened(self, kind: str) -> None:
        """A stream begins; `kind` is `job`, `jobs` or `log`. Each is followed by one `stream_closed`."""
        self._open[kind] = self._open.get(kind, 0) + 1

    def stream_closed(self, kind: str, seconds: float, events: int) -> None:
        """A stream that was opened has ended after so many events."""
        self._open[kind] -= 1
        self._stream_seconds.labels(kind).observe(seconds)
        self._stream_events.labels(kind).inc(events)

    def stream_ended(self, reason: str) -> None:
        """Why: `job_ended`, `recycled`, `slow`, `gone`, `stopping`, `reauth`, `gap`, `too_many` …"""
        self._stream_ends.labels(reason).inc()

    # -- the scrape -------------------------------------------------------------------------------------------------

    def add_gauge(
        self,
        name: str,
        purpose: str,
        labels: Sequence[str],
        read: Callable[[], Iterable[tuple[Sequence[str], float]]],
    ) -> None:
        """Show a value that `read` gives at each scrape, as pairs of label values and value."""
        self._gauges.gauges.append(Gauge(name, purpose, labels, read))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)
