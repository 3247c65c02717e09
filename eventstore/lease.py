"""Who leads: one row of `checkpoints` per log and publisher, with an owner and a deadline by the database's clock.

A lease only spares work. Two leaders at once are harmless, because the sink compares before it appends.
Each function takes an autocommit connection; the statements are served by checkpoints_pkey.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Final

import msgspec

from eventstore.statements import Conn

SECONDS: Final = 2.0
"""How long a lease holds without renewal: a killed leader is replaced after that at the latest, plus one attempt."""
RENEW: Final = 0.5
"""Seconds between renewals, and between the attempts of who waits for one."""

ACQUIRE: Final = """
INSERT INTO checkpoints AS c (log_id, name, lease_owner, lease_deadline)
VALUES (%(log_id)s, %(name)s, %(owner)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (log_id, name) DO UPDATE SET lease_owner = excluded.lease_owner, lease_deadline = excluded.lease_deadline
WHERE c.lease_owner IS NULL OR c.lease_deadline IS NULL OR c.lease_deadline < clock_timestamp()
   OR c.lease_owner = excluded.lease_owner
RETURNING position, hash8, epoch
"""
RENEW_SQL: Final = """
UPDATE checkpoints
   SET position = %(position)s, hash8 = %(hash8)s, epoch = %(epoch)s,
       updated_at = CASE WHEN position = %(position)s THEN updated_at ELSE clock_timestamp() END,
       lease_deadline = clock_timestamp() + make_interval(secs => %(seconds)s)
 WHERE log_id = %(log_id)s AND name = %(name)s AND lease_owner = %(owner)s
"""
RELEASE: Final = """
UPDATE checkpoints SET lease_owner = NULL, lease_deadline = NULL
 WHERE log_id = %(log_id)s AND name = %(name)s AND lease_owner = %(owner)s
"""


class Published(msgspec.Struct, frozen=True):
    """A checkpoint: up to where a publisher has published, in which epoch; position 0 for nothing yet."""

    position: int
    hash8: str
    epoch: int


def new_owner() -> str:
    """A name for one leader, different for each: host, process and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def acquire(conn: Conn, log_id: int, name: str, owner: str, seconds: float = SECONDS) -> Published | None:
    """Take the lease if it is free, or was not renewed in time: the checkpoint. None while another one holds it."""
    row = conn.execute(ACQUIRE, {"log_id": log_id, "name": name, "owner": owner, "seconds": seconds}).fetchone()
    return None if row is None else Published(*row)


def renew(conn: Conn, log_id: int, name: str, owner: str, at: Published, seconds: float = SECONDS) -> bool:
    """Write the checkpoint and hold the lease for longer. False: it is another one's by now, nothing was written."""
    done = conn.execute(
        RENEW_SQL,
        {"log_id": log_id, "name": name, "owner": owner, "seconds": seconds, "position": at.position}
        | {"hash8": at.hash8, "epoch": at.epoch},
    )
    return done.rowcount == 1


def release(conn: Conn, log_id: int, name: str, owner: str) -> None:
    """Give the lease back, so that another one need not wait for its end."""
    conn.execute(RELEASE, {"log_id": log_id, "name": name, "owner": owner})
