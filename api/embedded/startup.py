"""Make the wanted servers of a data folder run: recognise what runs, start what does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from api.embedded import binaries, janitor, launch, locks, postgres, valkey
from api.embedded.errors import UsedElsewhere
from api.embedded.folder import Folder, Process, State, read_state

STOPPING = 150.0  # seconds to wait for a janitor that stops the servers: above its patience


class Servers(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers are. A server that was not asked for has "" as its URL.

    `database_url` is for libpq (`psycopg.connect`): user and database are "headway", over a unix socket.
    `redis_url` is for `redis.from_url` and holds a password, which `repr` hides.
    """

    database_url: str
    redis_url: str
    data_dir: str

    def __repr__(self) -> str:
        shown = "unix://:***@" + self.redis_url.rpartition("@")[2] if self.redis_url else ""
        return f"Servers(database_url={self.database_url!r}, redis_url={shown!r}, data_dir={self.data_dir!r})"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user of the servers asked for."""

    postgres: bool
    valkey: bool
    options: Mapping[str, str]
    progress: Callable[[str], None]


def addresses(folder: Folder, socket_dir: Path, with_postgres: bool, with_valkey: bool) -> Servers:
    return Servers(
        database_url=postgres.url(socket_dir) if with_postgres else "",
        redis_url=valkey.url(socket_dir, folder.password()) if with_valkey else "",
        data_dir=str(folder.path),
    )


def postgres_answers(folder: Folder, state: State) -> bool:
    process = state.postgres
    return process is not None and _alive(process, state) and postgres.answers(folder, Path(state.socket_dir), process)


def valkey_answers(folder: Folder, state: State) -> bool:
    process = state.valkey
    return process is not None and _alive(process, state) and valkey.answers(Path(state.socket_dir), folder.password())


def _alive(process: Process, state: State) -> bool:
    # A process number of another container says nothing here; there only the answer on the socket counts.
    return process.alive() if state.host == janitor.host() else True


def all_answer(folder: Folder, state: State, wanted: Wanted) -> bool:
    return (not wanted.postgres or postgres_answers(folder, state)) and (
        not wanted.valkey or valkey_answers(folder, state)
    )


def ensure_janitor(folder: Folder) -> None:
    """See that a janitor watches; the caller holds the start lock and is a user."""
    if not locks.held(folder, janitor.JANITOR_LOCK):
        launch.leave_janitor("watch", folder)


def bring_up(folder: Folder, users: int, wanted: Wanted) -> Servers:
    """Make the wanted servers run. The caller holds the start lock and, by the lock `users`, is a user of them.

    The janitor stands before the first server does, and the note "starting" too: whenever this process is
    killed, the janitor finds what it had started. Raises EmbeddedError.
    """
    ensure_janitor(folder)
    noted = read_state(folder.path)
    if noted is not None and all_answer(folder, noted, wanted):
        return addresses(folder, Path(noted.socket_dir), wanted.postgres, wanted.valkey)

    if noted is not None and noted.host != janitor.host() and not locks.sole_user(users, folder, STOPPING):
        # A server there may be starting or hang; we cannot see it, and a second one would ruin the data.
        raise UsedElsewhere(folder.path)
    folder.check_reachable()
    here = noted if noted is not None and noted.host == janitor.host() else None
    old_postgres = _still(here.postgres if here else None) or postgres.find(folder)
    old_valkey = _still(here.valkey if here else None) or valkey.find(folder)
    socket_dir = folder.socket_dir(Path(here.socket_dir) if here else None)
    state = State(host=janitor.host(), socket_dir=str(socket_dir), postgres=old_postgres, valkey=old_valkey)

    if wanted.postgres and old_postgres and not postgres.wait_ready(folder, old_postgres, socket_dir, wanted.progress):
        old_postgres = None
    if wanted.valkey and old_valkey and not valkey.wait_ready(folder, old_valkey, socket_dir):
        old_valkey = None
    _start(folder, wanted, state, start_postgres=not old_postgres, start_valkey=not old_valkey)
    return addresses(folder, socket_dir, wanted.postgres, wanted.valkey)


def _still(process: Process | None) -> Process | None:
    return process if process is not None and process.alive() else None


def _start(folder: Folder, wanted: Wanted, state: State, *, start_postgres: bool, start_valkey: bool) -> None:
    socket_dir = Path(state.socket_dir)
    programs: dict[str, binaries.Program] = {}
    if wanted.postgres and start_postgres:
        programs["postgres"] = binaries.postgres(folder, wanted.progress)
        if not postgres.exists(folder):
            wanted.progress("initialising the database cluster…")
            postgres.initialise(folder, programs["postgres"])
        postgres.clear_after_crash(folder, socket_dir, wanted.progress)
    if wanted.valkey and start_valkey:
        programs["valkey"] = binaries.valkey(folder, wanted.progress)
    log_start = {name: launch.log_size(folder, name) for name in programs}

    folder.note(msgspec.structs.replace(state, starting=True))
    if "postgres" in programs:
        wanted.progress(f"starting PostgreSQL {programs['postgres'].version}…")
        state = msgspec.structs.replace(
            state, postgres=postgres.begin(folder, programs["postgres"], socket_dir, wanted.options)
        )
    if "valkey" in programs:
        wanted.progress(f"starting Valkey {programs['valkey'].version}…")
        state = msgspec.structs.replace(state, valkey=valkey.begin(folder, programs["valkey"], socket_dir))
    folder.note(state)

    if "valkey" in programs and state.valkey and not valkey.wait_ready(folder, state.valkey, socket_dir):
        raise valkey.failed(folder, "it ended", log_start["valkey"])
    deadline = time.monotonic() + postgres.SETTLE
    while (
        "postgres" in programs
        and state.postgres
        and not postgres.wait_ready(folder, state.postgres, socket_dir, wanted.progress)
    ):
        if time.monotonic() > deadline or not postgres.blocked_by_a_dying_one(folder, log_start["postgres"]):
            raise postgres.failed(folder, "it ended", log_start["postgres"])
        time.sleep(0.2)
        log_start["postgres"] = launch.log_size(folder, "postgres")
        again = postgres.begin(folder, programs["postgres"], socket_dir, wanted.options)
        state = msgspec.structs.replace(state, postgres=again)
        folder.note(state)
