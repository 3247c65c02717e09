"""Jobs as they are: the list, and one with its steps."""

from __future__ import annotations

from typing import Annotated, Final

from litestar import Request, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter

from api.problems import NotFound
from api.requests import Exchange
from api.services import Services
from projections.snapshots import JobSnapshot, read_snapshot


@get("/v1/jobs/{job:str}")
async def show(
    job: Annotated[str, PathParameter(description="The job's id")], request: Request[None, None, State]
) -> JobSnapshot:
    """A job with its steps, attempts and the cursor after which its news begin."""
    services: Services = request.app.state["services"]
    exchange: Exchange = request.scope["headway"]  # type: ignore[typeddict-item]
    tenant = services.tenant(exchange.principal)
    found = await tenant.reads.run(read_snapshot, tenant.store, job)
    if found is None:
        raise NotFound(f"there is no job {job!r}")
    return found


HANDLERS: Final[list[HTTPRouteHandler]] = [show]
