"""Real servers for a test session."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from api import embedded
from api.embedded.folder import prepare
from api.embedded.servers import wait_stopped


@contextmanager
def embedded_servers(
    *, postgres: bool = True, valkey: bool = True, options: Mapping[str, str] | None = None
) -> Iterator[embedded.Servers]:
    """A PostgreSQL and a Valkey in a new temporary folder; stopped and removed at the end.

    Raises embedded.BinariesMissing when there are none here. A pytest temporary folder would not do for root: its
    parents are closed to the user that PostgreSQL then runs as.
    """
    folder = Path(tempfile.mkdtemp(prefix="headway-tests-")).resolve()
    try:
        with embedded.start(folder, postgres=postgres, valkey=valkey, options=options) as lease:
            yield lease.servers
    finally:
        wait_stopped(prepare(folder))
        shutil.rmtree(folder, ignore_errors=True)
