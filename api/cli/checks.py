"""What `doctor` looks at. Each check is a function of one connection that yields findings, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import psycopg

from api.cli.output import span
from api.cli.text import visible
from eventstore import statements
from eventstore.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    import redis

Conn = psycopg.Connection[Any]
Level = Literal["ok", "warn", "bad"]

OLDEST_POSTGRES: Final = 15
OLDEST_REDIS: Final = (5, 0)
LONG_TRANSACTION: Final = 300  # seconds
LONG_IDLE: Final = 30  # seconds
SKEW: Final = 2.0  # seconds
FULL: Final = 0.9  # of connections, of Redis' memory
MUCH_WAL: Final = 10 * 2**30  # bytes held by a replication slot
LAG: Final = 10_000  # events

SETTINGS: Final = (
    "SELECT name, setting FROM pg_settings WHERE name IN"
    " ('fsync', 'full_page_writes', 'synchronous_commit', 'autovacuum', 'max_connections', 'server_version_num')"
)
DATABASE: Final = (
    "SELECT pg_encoding_to_char(encoding), datctype, to_jsonb(d)->>'datlocprovider',"
    " coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale') FROM pg_database d"
    " WHERE datname = current_database()"
)
GUARDS: Final = (
    "SELECT tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND tgenabled = 'A'"
    " AND tgname IN ('events_immutable', 'events_not_truncated')"
)
SLOW: Final = (
    "SELECT pid, state, extract(epoch FROM clock_timestamp() - xact_start), coalesce(application_name, '')"
    " FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend' AND datname = current_database() AND (xact_start < clock_timestamp()"
    " - make_interval(secs => %(long)s) OR (state LIKE 'idle in transaction%%' AND state_change < clock_timestamp()"
    " - make_interval(secs => %(idle)s))) ORDER BY xact_start LIMIT 5"
)
PREPARED: Final = (
    "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0) FROM pg_prepared_xacts"
)
CONNECTIONS: Final = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
SLOTS: Final = (
    "SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots"
    " WHERE NOT active AND restart_lsn IS NOT NULL"
)
CHECKPOINTS: Final = (
    "SELECT name, position, lease_owner, lease_deadline > clock_timestamp() FROM checkpoints"
    " WHERE log_id = %s AND starts_with(name, 'relay:') ORDER BY name"
)
NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. `bad`: it does not work, or data is in danger; `advice` says what to do."""

    check: str
    level: Level
    text: str
    advice: str | None = None


def ok(check: str, text: str) -> Finding:
    return Finding(check=check, level="ok", text=text)


def warn(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, level="warn", text=text, advice=advice)


def bad(check: str, text: str, advice: str) -> Finding:
    return Finding(check=check, level="bad", text=text, advice=advice)


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


def durability(conn: Conn) -> Iterator[Finding]:
    """Version and the settings that decide whether an acknowledged event survives a crash."""
    settings = dict(conn.execute(SETTINGS).fetchall())
    major = int(settings["server_version_num"]) // 10_000
    if major < OLDEST_POSTGRES:
        yield bad("version", f"PostgreSQL {major}", f"upgrade it: Headway needs {OLDEST_POSTGRES} or newer")
    else:
        yield ok("version", f"PostgreSQL {major}")
    if conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        yield bad("primary", "this server is a read-only standby", "set DATABASE_URL to the primary")
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "on":
            yield ok(name, "on")
        else:
            yield bad(
                name, f"{settings[name]}: a crash can lose or tear acknowledged events, so appends are refused",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            )  # fmt: skip
    commit = settings["synchronous_commit"]
    note = "" if commit != "off" else "; each append sets it on for itself"
    yield ok("synchronous_commit", f"{commit}{note}")
    if settings["autovacuum"] != "on":
        yield warn("autovacuum", "off: tables grow without end", "ALTER SYSTEM SET autovacuum = on; then reload")
    found = conn.execute(CONNECTIONS).fetchone()
    used, most = (found[0] if found else 0), int(settings["max_connections"])
    if used > FULL * most:
        yield warn("connections", f"{used} of {most} in use", "raise max_connections, or put PgBouncer before it")
    else:
        yield ok("connections", f"{used} of {most} in use")


def locale(conn: Conn) -> Iterator[Finding]:
    """Encoding and character classes: messages are in any language."""
    row = conn.execute(DATABASE).fetchone()
    assert row is not None
    encoding, ctype, provider, own = row
    if encoding != "UTF8":
        yield bad(
            "encoding", f"{encoding}: texts in other languages are refused", "make the database with ENCODING 'UTF8'"
        )
    else:
        yield ok("encoding", "UTF8")
    if provider in ("c", None) and ctype in ("C", "POSIX"):
        yield warn(
            "ctype", f"{ctype}: letters outside ASCII have no case and no trigrams, so text search misses them",
            "make the database with LOCALE 'C.UTF-8' (or --locale-provider=builtin from 17) and move the data over",
        )  # fmt: skip
    else:
        yield ok("ctype", visible(own or ctype))


def schema(conn: Conn) -> Iterator[Finding]:
    """Whether the tables are this version's, and the guards on `events` stand."""
    from eventstore.migrate import current_revision

    found = current_revision(conn)
    if found != SCHEMA_VERSION:
        newer = found is not None and found > SCHEMA_VERSION
        advice = "upgrade this program" if newer else "headway migrate"
        yield bad("schema", f"{found or 'no tables'}, this program needs {SCHEMA_VERSION}", advice)
        return
    yield ok("schema", found)
    if len(conn.execute(GUARDS).fetchall()) == 2:
        yield ok("guards", "events can't be changed or deleted")
    else:
        yield bad(
            "guards", "a trigger that protects `events` is missing or off: history could be rewritten",
            "ALTER TABLE events ENABLE ALWAYS TRIGGER events_immutable; likewise events_not_truncated",
        )  # fmt: skip


def transactions(conn: Conn) -> Iterator[Finding]:
    """Transactions that hold back vacuum: dead rows pile up, and every progress report gets slower."""
    slow = conn.execute(SLOW, {"long": LONG_TRANSACTION, "idle": LONG_IDLE}).fetchall()
    for pid, state, seconds, program in slow:
        name = f" ({visible(program)})" if program else ""
        yield warn(
            "long transactions", f"pid {pid}{name} is {state} in a transaction of {span(int(seconds * 1_000_000))}",
            f"end it: SELECT pg_terminate_backend({pid}); and set idle_in_transaction_session_timeout there",
        )  # fmt: skip
    (count, oldest) = conn.execute(PREPARED).fetchone() or (0, 0)
    if count and oldest > LONG_TRANSACTION:
        yield warn(
            "prepared transactions", f"{count}, the oldest of {span(int(oldest * 1_000_000))}",
            "COMMIT PREPARED or ROLLBACK PREPARED what SELECT * FROM pg_prepared_xacts shows",
        )  # fmt: skip
    elif not slow:
        yield ok("long transactions", "none")
    for name, held in conn.execute(SLOTS).fetchall():
        if held > MUCH_WAL:
            yield warn(
                "replication slots", f"{visible(name)} is not used and holds {held / 2**30:.0f} GiB of WAL",
                "start its reader, or SELECT pg_drop_replication_slot(NAME)",
            )  # fmt: skip


def clock(conn: Conn) -> Iterator[Finding]:
    """The difference of the clocks, as far as a round trip can tell. Workers claim times by their own clock."""
    before = time.time()
    row = conn.execute(NOW).fetchone()
    after = time.time()
    assert row is not None
    away = row[0] / 1_000_000 - (before + after) / 2
    doubt = (after - before) / 2
    if abs(away) > SKEW + doubt:
        side = "ahead of" if away > 0 else "behind"
        yield warn(
            "clock", f"the database's clock is {span(int(abs(away) * 1_000_000))} {side} this machine's",
            "synchronise both with NTP: reported durations are off by as much",
        )  # fmt: skip
    else:
        yield ok("clock", f"within {max(abs(away), 0.001) * 1_000:.0f} ms of the database's")


def log(conn: Conn, name: str, fold_version: int) -> Iterator[Finding]:
    """Whether the log exists, and whether this program may append to it."""
    head = next((head for head in statements.list_logs(conn) if head.name == name), None)
    if head is None:
        yield bad("log", f"there is no log {name!r}", f"headway logs create {name}")
        return
    if head.fold_version != fold_version:
        yield bad(
            "fold", f"the log folds with version {head.fold_version}, this program with {fold_version}",
            "upgrade the older one; until then this program can't append",
        )  # fmt: skip
    yield ok("log", f"{name}: {head.position:,} events, epoch {head.epoch}")
    yield from relay(conn, head.log_id, head.position)


def relay(conn: Conn, log_id: int, head: int) -> Iterator[Finding]:
    """Who publishes, and how far."""
    rows = conn.execute(CHECKPOINTS, (log_id,)).fetchall()
    leading = [row for row in rows if row[2] is not None and row[3]]
    if not leading:
        yield warn("relay", "none is running: live readers poll PostgreSQL instead of reading Redis", "headway relay")
    for name, position, owner, _ in leading:
        behind = head - position
        text = f"{visible(name)} at {position:,}, {behind:,} behind, led by {visible(owner)}"
        if behind > LAG:
            yield warn("relay", text, "look at the relay's log: Redis may be slow or refuse writes")
        else:
            yield ok("relay", text)


# -- Redis ----------------------------------------------------------------------------------------------------------


def redis_server(client: redis.Redis) -> Iterator[Finding]:
    """Version, memory and eviction of the Redis or Valkey that the relay publishes to."""
    info: dict[str, Any] = client.info()
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info["redis_version"])
    if tuple(int(part) for part in str(info["redis_version"]).split(".")[:2]) < OLDEST_REDIS:
        yield bad("redis version", f"{product} {version}", "upgrade it: streams need 5.0 or newer")
    else:
        yield ok("redis version", f"{product} {version}")
    if info.get("role") == "slave":
        yield bad("redis role", "this server is a replica and refuses writes", "set REDIS_URL to the primary")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        yield bad(
            "eviction", f"maxmemory-policy is {policy}: Redis may drop a whole stream, and raw readers see no gap",
            "CONFIG SET maxmemory-policy noeviction (or volatile-ttl), and write it into its configuration",
        )  # fmt: skip
    else:
        yield ok("eviction", policy)
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    of = f" of {most / 2**20:,.0f} MiB" if most else ", no limit"
    text = f"{used / 2**20:,.0f} MiB{of}"
    if most and used > FULL * most:
        yield warn("redis memory", text, "raise maxmemory, or lower HEADWAY_STREAM_LENGTH")
    else:
        yield ok("redis memory", text)
