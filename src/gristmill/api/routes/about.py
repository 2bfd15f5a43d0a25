"""Whether it lives, and which version it is."""

from __future__ import annotations

from typing import Literal

from fastapi import Request, Response
from starlette.responses import JSONResponse

from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, OpenApp
from gristmill.version import __version__

router = new_router("about")


class Health(Answer):
    """`degraded`: it answers, but nothing is worked on. Details take a login: /api/monitoring/health."""

    status: Literal["ok", "down"]


class Version(Answer):
    version: str
    api: int


@router.get("/health", response_model=Health, responses={503: {"model": Health}})
@role(None)
async def health(app: OpenApp) -> Response:
    """For probes: 200 when the database answers, else 503. Says nothing else to somebody unknown."""
    try:
        await app.pool.fetchval("select 1", timeout=5)
    except Exception:  # whatever is wrong with it today
        return JSONResponse({"status": "down"}, 503)
    return JSONResponse({"status": "ok"})


@router.get("/version")
@role(None)
async def version(request: Request) -> Version:
    """The version of Gristmill, and that of the API."""
    return Version(version=__version__, api=1)
