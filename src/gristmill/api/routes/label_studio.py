"""Annotations to a Label Studio server and back."""

from __future__ import annotations

from functools import partial

from gristmill.api import exchanges
from gristmill.api.exchanges import Exchange, WantedExchange
from gristmill.api.listing import newest_first
from gristmill.api.routing import router as new_router
from gristmill.api.run_views import find_run
from gristmill.api.shapes import After, Asking, Id, Limit, OpenApp, Page

router = new_router("reviews")


@router.post("/label-studio/push", status_code=201)
async def push_annotations(wanted: WantedExchange, app: OpenApp, caller: Asking) -> Exchange:
    """Sends what a run has annotated to the server: what is new, and what has changed here and not there."""
    return await exchanges.begin(app, await find_run(app, wanted.run), "push", wanted, caller)


@router.post("/label-studio/pull", status_code=201)
async def pull_annotations(wanted: WantedExchange, app: OpenApp, caller: Asking) -> Exchange:
    """Takes what people said on the server as decisions of theirs."""
    return await exchanges.begin(app, await find_run(app, wanted.run), "pull", wanted, caller)


@router.get("/label-studio")
async def list_exchanges(app: OpenApp, after: After = None, limit: Limit = 20) -> Page[Exchange]:
    """Pushes and pulls, the newest first."""
    return await newest_first(partial(exchanges.listed, app), after, limit)


@router.get("/label-studio/{id}")
async def one_exchange(id: Id, app: OpenApp) -> Exchange:
    """How a push or a pull stands."""
    return await exchanges.exchange(app, id)
