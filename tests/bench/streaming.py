"""Streams under load: fan-out, idle connections, first bytes, readers that never read, from a POST to another's screen.

The server is a process of its own, as `headway serve` runs it; readers and writers are others. On two cores the server
has one and its load the other.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from eventstore.events import NewEvent
from eventstore.store import EventStore
from projections.progress import Progress
from tests.bench.report import Report
from tests.bench.stream_load import never_readers, part, readers, writer

LIVE, LONG, MILLION = "bench-streams", "bench-long", "bench-million"


class Served(NamedTuple):
    port: int
    pid: int

    def rss(self) -> float:
        """Resident memory in MB."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    def cpu(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def ended(self, reason: str) -> int:
        """How many streams have ended for a reason."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            found = re.search(rf'headway_stream_ends_total{{reason="{reason}"}} ([0-9.]+)', answer.read().decode())
        return int(float(found[1])) if found else 0


@contextlib.contextmanager
def server(url: str, redis_url: str, log: str) -> Iterator[Served]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.streaming", url, redis_url, log],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield Served(int(child.stdout.readline()), child.pid)
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()


def run(url: str, redis_url: str, report: Report, *, quick: bool = False) -> None:
    seconds = 5.0 if quick else 15.0
    with server(url, redis_url, LIVE) as served:
        latency(served, report, seconds=seconds)
    with server(url, redis_url, LIVE) as served:
        fan_out(served, report, count=1_000, rate=100, seconds=seconds)
    with server(url, redis_url, LIVE) as served:
        never(served, report, seconds=max(seconds, 15.0))
    with server(url, redis_url, LIVE) as served:
        idle(served, report, count=1_000 if quick else 5_000)
    # Not before: a server takes care of all logs, and would spend the rounds above with the past of these.
    for log in (LONG, MILLION):
        with EventStore(url, log=log, projection=Progress()) as store:
            if not any(head.name == log for head in store.logs()):
                _fill(url, store)
    with server(url, redis_url, LONG) as served:
        first_bytes(served, report, "a job with 50,000 events, from its snapshot", lambda _: "/v1/jobs/long/stream")
        first_bytes(served, report, "… from an old cursor", lambda n: f"/v1/jobs/long/stream?after={n + 1}")
    with server(url, redis_url, MILLION) as served:
        first_bytes(served, report, "a log of 1,000,000, from an old cursor", lambda n: f"/v1/stream?after={n + 1_000}")
        first_bytes(
            served, report, "… a job of it, from its start", lambda n: f"/v1/jobs/build:{n}/stream?after=-1&wait=true"
        )
        replay(served, report, count=20, events=50_000 if quick else 200_000)


def _fill(url: str, store: EventStore) -> None:
    if store.log == LONG:
        store.create_log()
        for start in range(0, 50_000, 1_000):
            store.append(
                "long",
                [
                    NewEvent(type="step.progressed", step="push", data={"done": start + n, "total": 60_000})
                    for n in range(1_000)
                ],
            )
    else:
        from tests.support.million import fill

        with psycopg.connect(url, autocommit=True) as conn:
            fill(conn, store.log)
            conn.execute(
                "UPDATE logs SET head_hash = (SELECT hash FROM events e WHERE e.log_id = logs.log_id"
                " AND position = head), system_id = (SELECT system_identifier::text FROM pg_control_system()),"
                " timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) WHERE name = %s",
                (store.log,),
            )


def share(values: Sequence[float], part_of: float) -> float:
    return values[min(int(len(values) * part_of), len(values) - 1)] if values else float("nan")


def fan_out(served: Served, report: Report, *, count: int, rate: float, seconds: float) -> None:
    """Every subscriber gets every event; how late."""
    job = f"fan:{time.time_ns()}"
    with (
        part(writer, served.port, job, rate, seconds, 40) as writing,
        part(readers, served.port, f"/v1/jobs/{job}/stream?wait=true", count) as reading,
    ):
        before, begun = served.cpu(), time.perf_counter()
        writing.tell()
        acknowledged, posted = writing.result(seconds + 60)
        used = (served.cpu() - before) / (time.perf_counter() - begun)
        time.sleep(2)
        reading.tell()
        events, waits, cut = reading.result()
    delivered = sum(events)
    missing = count * acknowledged - delivered
    report.line(
        f"SSE: {count:,} subscribers × {rate:g} events/s",
        f"{delivered:,} delivered, {missing} missing, {cut} cut; p50 {share(waits, 0.5) / 1000:.1f} ms,"
        f" p99 {share(waits, 0.99) / 1000:.1f} ms, max {share(waits, 1) / 1000:.1f} ms; {used:.0%} of a core;"
        f" the POSTs' p50 {share(posted, 0.5) / 1000:.1f} ms, p99 {share(posted, 0.99) / 1000:.1f} ms",
    )
    report.ratio("  delivered / expected", delivered / (count * acknowledged), 1.0)
    report.ratio("  p99 from before the POST to the reader, ms", share(waits, 0.99) / 1000, 250, at_most=True)


def latency(served: Served, report: Report, *, seconds: float) -> None:
    """From the POST of one to the stream of another, without load."""
    job = f"latency:{time.time_ns()}"
    with (
        part(writer, served.port, job, 20, seconds, 40) as writing,
        part(readers, served.port, f"/v1/jobs/{job}/stream?wait=true", 1) as reading,
    ):
        writing.tell()
        _, posted = writing.result(seconds + 60)
        time.sleep(0.5)
        reading.tell()
        _, waits, _ = reading.result()
    report.line("the POST's own p50", f"{share(posted, 0.5) / 1000:.2f} ms")
    report.ratio("POST → EventSource on another connection, p50 ms", share(waits, 0.5) / 1000, 15, at_most=True)


def first_bytes(served: Served, report: Report, name: str, path: Callable[[int], str], rounds: int = 20) -> None:
    """Until the first event or snapshot is there, not only the head. Each round asks for something else."""
    took = []
    for number in range(1, rounds + 1):
        begun = time.perf_counter()
        with socket.create_connection(("127.0.0.1", served.port)) as sock:
            sock.sendall(f"GET {path(number)} HTTP/1.1\r\nHost: b\r\n\r\n".encode())
            data = b""
            while b"\ndata: " not in data:
                part = sock.recv(65_536)
                assert part, data
                data += part
            took.append((time.perf_counter() - begun) * 1000)
    took.sort()
    report.ratio(f"first data of {name}, p50 ms (max {took[-1]:.1f})", share(took, 0.5), 30, at_most=True)


def never(
    served: Served, report: Report, *, seconds: float, count: int = 200, rate: float = 100, size: int = 1_000
) -> None:
    """What 100 readers that never read do to the others, in one run with and without them."""
    p99 = []
    grown, cut = 0.0, 0
    for silent in (0, 100):
        job = f"never:{time.time_ns()}"
        path = f"/v1/jobs/{job}/stream?wait=true"
        with contextlib.ExitStack() as stack:
            writing = stack.enter_context(part(writer, served.port, job, rate, seconds, size))
            reading = stack.enter_context(part(readers, served.port, path, count))
            before = served.rss()
            nobody = stack.enter_context(part(never_readers, served.port, path, silent)) if silent else None
            writing.tell()
            most = before
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                most = max(most, served.rss())
                time.sleep(0.1)
            writing.result(seconds + 60)
            if nobody is not None:
                end = time.monotonic() + 15
                while time.monotonic() < end:
                    most = max(most, served.rss())
                    time.sleep(0.1)
                cut = served.ended("slow")
                nobody.tell()
                nobody.result()
                grown = most - before
            time.sleep(1)
            reading.tell()
            _, waits, _ = reading.result()
            p99.append(share(waits, 0.99) / 1000)
    report.line(
        "100 clients that never read: cut", f"{cut}; p99 of the others {p99[0]:.1f} ms without, {p99[1]:.1f} ms with"
    )
    report.ratio("  memory growth, MB", grown, 50, at_most=True)
    report.ratio("  p99 of the others, with / without", p99[1] / p99[0], 1.5, at_most=True)


def idle(served: Served, report: Report, *, count: int) -> None:
    before = served.rss()
    with part(readers, served.port, "/v1/stream?after=now", count) as reading:
        time.sleep(2)
        after = served.rss()
        used = served.cpu()
        time.sleep(5)
        used = (served.cpu() - used) / 5
        reading.tell()
        reading.result()
    report.line(f"{count:,} idle subscribers: {(after - before) * 1024 / count:.1f} KiB each", f"{used:.1%} of a core")
    report.ratio(f"  memory of the whole process, MB (before {before:.0f})", after, 250, at_most=True)


def replay(served: Served, report: Report, *, count: int, events: int) -> None:
    """Many who read the whole log from the start, until each has so many events."""
    begun = time.perf_counter()
    before = most = served.rss()
    clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(count)]
    seen = [0] * count
    import selectors

    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            client.sendall(b"GET /v1/stream?after=-1 HTTP/1.1\r\nHost: b\r\n\r\n")
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ, number)
        first: float | None = None
        while min(seen) < events:
            for key, _ in selector.select(5):
                seen[key.data] += key.fileobj.recv(262_144).count(b"\nid: ")  # type: ignore[union-attr]
                if first is None and seen[key.data] >= events:
                    first = min(seen) / events
            most = max(most, served.rss())
        took = time.perf_counter() - begun
    for client in clients:
        client.close()
    time.sleep(1)
    idle_from = served.cpu()
    time.sleep(2)
    report.line(
        f"{count} clients replay {events:,} events each of 1,000,000",
        f"{count * events / took:,.0f} events/s together; +{most - before:.0f} MB; the last has"
        f" {first or 1:.0%} when the first is done; a second after they left"
        f" {(served.cpu() - idle_from) / 2:.0%} of a core is in use",
    )


def _serve(url: str, redis_url: str, log: str) -> None:
    import anyio

    from api.serving import serve
    from api.settings import Settings
    from api.wiring import ensure_log, wired

    async def main() -> None:
        stop = anyio.Event()

        async def until_told() -> None:
            await anyio.to_thread.run_sync(sys.stdin.read)
            stop.set()

        def ready(port: int, services: Any) -> None:
            print(port, flush=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(until_told)
            # A relay and projections that catch up with the past would be measured instead.
            beside = log == LIVE
            await serve(wiring, host="127.0.0.1", port=0, ready=ready, stop=stop, keyless=True, background=beside)

    settings = Settings(database_url=url, redis_url=redis_url, log=log, access_log=False)
    with wired(settings) as wiring:
        ensure_log(wiring.store(), log)
        anyio.run(main, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    _serve(*sys.argv[1:])
