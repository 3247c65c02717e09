"""The HTTP client: append, look, follow. It needs a server's address, and neither its database nor its code.

    with headway.Client("http://127.0.0.1:8000", key="hw_…") as client:
        client.append("build:7", [{"type": "step.progressed", "step": "fetch", "data": {"done": 5, "total": 20}}])
        print(client.job("build:7").percent)
        for event in client.follow("build:7"):
            print(event.type, event.percent)

A call that fails on the way is sent again, and is one event all the same: each event has an id before it is sent first.
A stream that breaks is taken up where it broke: each event comes once, in order, or `Gap` is raised. `AsyncClient` has
the same methods with `await` and `async for`.

    sse  calls  following  retrying      requests and answers as plain values; no I/O
    sync  aio                            the two shells around them
    values  errors                       what comes back
"""

from headway.client.aio import AsyncClient, AsyncFollower
from headway.client.errors import (
    BadAnswer,
    ClientError,
    Conflict,
    EventIdConflict,
    Forbidden,
    Gap,
    InvalidRequest,
    LogDiverged,
    NotFound,
    Refused,
    TokenExpired,
    Unauthorized,
    Unavailable,
    Unreachable,
    WrongExpectedVersion,
)
from headway.client.sync import Client, Follower
from headway.client.values import (
    Appended,
    AppendedEvent,
    AppendedMany,
    AttemptView,
    Change,
    Condition,
    Diff,
    Estimate,
    Event,
    JobSnapshot,
    JobSummary,
    NewEvent,
    StepView,
    StreamToken,
)

__all__ = [
    "Appended",
    "AppendedEvent",
    "AppendedMany",
    "AsyncClient",
    "AsyncFollower",
    "AttemptView",
    "BadAnswer",
    "Change",
    "Client",
    "ClientError",
    "Condition",
    "Conflict",
    "Diff",
    "Estimate",
    "Event",
    "EventIdConflict",
    "Follower",
    "Forbidden",
    "Gap",
    "InvalidRequest",
    "JobSnapshot",
    "JobSummary",
    "LogDiverged",
    "NewEvent",
    "NotFound",
    "Refused",
    "StepView",
    "StreamToken",
    "TokenExpired",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
    "WrongExpectedVersion",
]
