"""Bulk actions: the same done to all that match, as a durable run, after a count and a forecast."""

from __future__ import annotations

from functools import partial

from fastapi import Response

from gristmill.api import bulk_runs
from gristmill.api.bulk_shapes import ActionState, WantedAction
from gristmill.api.listing import newest_first
from gristmill.api.problems import Refused
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.run_views import find_run
from gristmill.api.shapes import After, Asking, Id, Limit, OpenApp, Page

router = new_router("actions")


@router.post("/actions", responses={201: {"model": ActionState, "description": "it has begun"}})
@role("reviewer")
async def start_action(wanted: WantedAction, app: OpenApp, caller: Asking, response: Response) -> ActionState:
    """Without `confirm`: how many match, and what it would take; nothing is done. With it: a durable run begins."""
    if wanted.action not in bulk_runs.DECISIONS and not caller.may("operator"):
        raise Refused(403, f"{caller.role} may not do this: it takes operator", code="A403", safe="nothing was done")
    run = await find_run(app, wanted.run)
    chosen, found = await bulk_runs.foreseen(app, run, wanted)
    if wanted.confirm is None:
        return found
    begun = await bulk_runs.begin(app, run, wanted, chosen, caller)
    response.status_code = 201
    return begun


@router.get("/actions")
async def actions(app: OpenApp, after: After = None, limit: Limit = 50) -> Page[ActionState]:
    """Bulk actions, the newest first."""
    return await newest_first(partial(bulk_runs.actions, app), after, limit)


@router.get("/actions/{id}")
async def action(id: Id, app: OpenApp) -> ActionState:
    """One bulk action, and how far it is."""
    return await bulk_runs.action(app, id)
