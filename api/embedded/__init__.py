"""Real servers without an installation: a PostgreSQL and a Valkey from wheels, in a data folder.

    with embedded.start() as lease:
        psycopg.connect(lease.servers.database_url)

The first process that calls `start` makes the cluster and starts the servers; every other one adopts them. Each
is a *user* for as long as it holds its lease. When the last user is gone, whether it closed its lease, ended or
was killed, the servers stop. How that holds without trust in anybody's good end:

 * a user holds a shared flock on `users.lock`; the kernel frees it at any death
 * a *janitor*, a small process of its own, waits for the exclusive lock on it and then stops the servers, which
   it recognises by process number and start time. A killed janitor is replaced by the next process that starts
   or closes
 * `up` leaves a *keeper* behind, a user that does nothing else; `down` ends it
 * `start.lock` is held while anything is started, so two starters at once end with one server

Only unix sockets, in a folder that only the servers' account (and root) can enter. PostgreSQL refuses to run as
root, so for root the servers run as the owner of the data folder, else `postgres`, else `nobody`. Nothing here
is imported from the wheels, and no folder that is not ours is opened to anybody. Linux and macOS; `errors` has
the tree of what can go wrong.
"""

from __future__ import annotations

from api.embedded.errors import (
    BinariesMissing,
    EmbeddedError,
    FolderNotYours,
    FolderUnreachable,
    MajorVersionDiffers,
    NotStopped,
    SocketFolderRefused,
    StartBusy,
    StartFailed,
    StillInUse,
    UsedElsewhere,
)
from api.embedded.folder import default_data_dir
from api.embedded.servers import Lease, down, running, start, up
from api.embedded.startup import Servers

__all__ = [
    "BinariesMissing",
    "EmbeddedError",
    "FolderNotYours",
    "FolderUnreachable",
    "Lease",
    "MajorVersionDiffers",
    "NotStopped",
    "Servers",
    "SocketFolderRefused",
    "StartBusy",
    "StartFailed",
    "StillInUse",
    "UsedElsewhere",
    "default_data_dir",
    "down",
    "running",
    "start",
    "up",
]
