"""`make bench`: servers of its own, every section in turn, a table and a JSON file.

make bench                        all sections, about five minutes
make bench ARGS="append --quick"  one section, shorter rounds
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import psycopg

from eventstore.migrate import migrate
from tests.bench import append, auditing, importing, ingest_http, projecting, reading, rebuilding, streaming
from tests.bench.report import Report
from tests.support.servers import embedded_servers

SECTIONS = ("append", "replay", "relay", "latency", "rebuild", "import", "audit", "project", "http", "streams", "old")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which sections (default: all)")
    parser.add_argument("--quick", action="store_true", help="shorter rounds")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the JSON file")
    given = parser.parse_args()
    sections = given.sections or SECTIONS
    seconds, rounds, events = (1.0, 3, 100_000) if given.quick else (3.0, 5, 200_000)
    report = Report()
    with embedded_servers() as servers:
        url, redis_url = os.environ.get("BENCH_DATABASE_URL", servers.database_url), servers.redis_url
        migrate(url)
        with psycopg.connect(url, autocommit=True) as conn:
            version = conn.execute("SHOW server_version").fetchone()
        report.title(f"Headway on PostgreSQL {version[0] if version else '?'}, fsync on, {os.cpu_count()} cores")
        if "append" in sections:
            report.title("append: in turn, same server")
            append.run(url, report, seconds=seconds, rounds=rounds)
        if "http" in sections:
            report.title("append over HTTP: in turn, servers and load in processes of their own")
            ingest_http.run(url, report, seconds=seconds, rounds=rounds)
        if "replay" in sections:
            report.title("replay")
            reading.replay(url, report, rounds=rounds, events=events)
            reading.size(url, report)
        if "relay" in sections:
            report.title("relay")
            reading.relay_catch_up(url, redis_url, report, events=events)
        if "latency" in sections:
            report.title("end to end, consumer in another process")
            reading.latency(url, redis_url, report, seconds=seconds * 2)
        if "rebuild" in sections:
            report.title("rebuild, verify, time travel")
            rebuilding.run(url, report, events=100_000 if given.quick else 1_000_000)
        if "import" in sections:
            report.title("import and export")
            importing.run(url, report, cases=5_000 if given.quick else 13_000)
        if "audit" in sections:
            report.title("audit of a million events, time travel over an imported history")
            auditing.run(url, report, rounds=rounds)
        if "project" in sections:
            report.title("projections")
            projecting.run(url, report, events=20_000 if given.quick else 100_000)
            projecting.calibration(url, report)
        if "streams" in sections:
            report.title("streams: server, readers and writer in processes of their own")
            streaming.run(url, redis_url, report, quick=given.quick)
        if "old" in sections:
            report.title("what users of the old pair know")
            reading.old_system(url, redis_url, report, seconds=seconds)
    print(f"\nkept in {report.save(given.out)}")


if __name__ == "__main__":
    main()
