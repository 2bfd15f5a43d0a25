"""Runs: listed, started, foreseen, paused, resumed, cancelled, tried again; and their inputs."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field, model_validator

from gristmill.api import new_runs
from gristmill.api.listing import condition, page_of
from gristmill.api.new_runs import NewRun, OnceMore, Plan
from gristmill.api.problems import Refused
from gristmill.api.routes.progress import RunName
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.run_shapes import Item, RunDetail, RunSummary
from gristmill.api.run_views import PAGES, detail, find_run, run_row, steered, summaries
from gristmill.api.shapes import After, Answer, Asking, Body, Limit, OpenApp, Page, place
from gristmill.data.filter import Kind
from gristmill.engine.workflow import ENDED

router = new_router("runs")
Filter = Annotated[str | None, Query(max_length=10_000, description="the filter grammar: state = 'running'")]
RUN_COLUMNS: dict[str, Kind] = {
    "id": "number", "name": "text", "workflow": "text", "state": "text", "epoch": "number", "seconds": "number",
}  # fmt: skip
ITEM_COLUMNS: dict[str, Kind] = {
    "id": "number", "name": "text", "uri": "text", "state": "text", "outcome": "text", "code": "text", "reason": "text",
    "paused": "truth",
}  # fmt: skip


class Changed(Answer):
    """The run as it stands now, and how much was changed: tasks, inputs, or the run itself."""

    changed: int
    run: RunSummary


class Which(Body):
    """Of the whole run, or of one input of it by name."""

    item: Annotated[str | None, Field(min_length=1, max_length=4096)] = None


class Again(Which):
    """What is tried again: all that failed, what failed of one `cause`, or one input from its beginning.

    With `look_again` the inputs are looked at first: what is new is added, what is gone is taken out. With `degraded`
    also what came to something that stands in for an answer is asked again; it goes with neither `cause` nor `item`.
    """

    cause: Annotated[str | None, Field(pattern=r"^[0-9a-f]{64}$")] = None
    look_again: bool = False
    degraded: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Again:
        if self.degraded and (self.cause or self.item):
            raise ValueError("degraded is about the whole run: it goes with neither cause nor item")
        return self


@router.get("/runs")
async def runs(app: OpenApp, after: After = None, limit: Limit = 50, filter: Filter = None) -> Page[RunSummary]:
    """All runs of the project, the newest first."""
    keep = condition(filter, RUN_COLUMNS) if filter else None

    async def read(behind: tuple[Any, ...] | None, size: int) -> Any:
        return await app.pool.fetch(PAGES["runs"], app.settings.project, behind and behind[0], size)

    rows, following = await page_of(read, place(after, int), limit, lambda row: (row["id"],), keep)
    return Page(items=await summaries(app, rows), next=following)


@router.post("/runs", status_code=201)
async def start_run(wanted: NewRun, app: OpenApp, caller: Asking) -> RunDetail:
    """Starts a run, or goes on with the run of the same workflow over the same inputs. Durable from the answer on."""
    before = [await find_run(app, name) for name in wanted.after]
    run = await new_runs.start(app, wanted, caller, before)
    return await detail(app, await run_row(app, str(run.id)))


@router.post("/runs/plan")
async def plan_run(wanted: NewRun, app: OpenApp, caller: Asking) -> Plan:
    """What a run would take: calls, tokens, money, time and disk, from a sample of its inputs. Nothing is sent."""
    return await new_runs.plan(app, wanted, caller)


@router.get("/runs/{run}")
async def run_detail(run: RunName, app: OpenApp) -> RunDetail:
    """One run with its stages, from counters."""
    return await detail(app, await run_row(app, run))


@router.post("/runs/{run}/pause")
async def pause_run(run: RunName, which: Which, app: OpenApp) -> Changed:
    """Nothing more is claimed; what is under way finishes."""
    return await _changed(app, run, int(await (await steered(app, run)).pause(which.item)))


@router.post("/runs/{run}/resume")
async def resume_run(run: RunName, which: Which, app: OpenApp) -> Changed:
    """Goes on after a pause."""
    resumed = int(await (await steered(app, run)).resume(which.item))
    if resumed:
        await app.start_crew()
    return await _changed(app, run, resumed)


@router.post("/runs/{run}/cancel")
async def cancel_run(run: RunName, which: Which, app: OpenApp) -> Changed:
    """Ends the run, or one input, now; what was recorded stays. `changed` counts tasks (or inputs)."""
    found = await steered(app, run)
    if (await found.progress()).ended and which.item is None:
        return await _changed(app, run, 0)
    return await _changed(app, run, await found.cancel(which.item))


@router.post("/runs/{run}/retry")
async def retry_run(run: RunName, again: Again, app: OpenApp) -> Changed:
    """Tries what failed once more, in a new epoch. `changed` counts the tasks (or inputs) that begin anew."""
    found = await find_run(app, run)
    row = await run_row(app, run)
    if row["state"] == "cancelled":
        raise Refused(
            409, f"{row['name']} was cancelled: it is over for good", code="U315", safe="nothing was changed",
            hint="start it again: the new run uses all that was finished",
        )  # fmt: skip
    number = await found.retry(again.cause, item=again.item, degraded=again.degraded, look=again.look_again)
    if (await found.progress()).state not in ENDED:
        await app.start_crew()
    return await _changed(app, run, number)


async def _changed(app: Any, run: str, number: int) -> Changed:
    return Changed(changed=number, run=(await summaries(app, [await run_row(app, run)]))[0])


@router.post("/runs/{run}/again", status_code=201)
async def run_again(run: RunName, wanted: OnceMore, app: OpenApp) -> RunDetail:
    """Another run of the same workflow over the same inputs, with another model or other options."""
    inputs = json.loads((await run_row(app, run))["inputs"])
    made = await new_runs.again(app, await find_run(app, run), inputs, wanted)
    return await detail(app, await run_row(app, str(made.id)))


@router.get("/runs/{run}/items")
async def run_items(
    run: RunName, app: OpenApp, after: After = None, limit: Limit = 50, filter: Filter = None
) -> Page[Item]:
    """The inputs of a run, by their place."""
    run_id = (await run_row(app, run))["id"]
    keep = condition(filter, ITEM_COLUMNS) if filter else None

    async def read(behind: tuple[Any, ...] | None, size: int) -> Any:
        return await app.pool.fetch(PAGES["items"], run_id, *(behind or (None, None)), size)

    rows, following = await page_of(read, place(after, str, int), limit, lambda row: (row["uri"], row["id"]), keep)
    return Page(items=[Item(run=run_id, **dict(row)) for row in rows], next=following)


@router.get("/sources", tags=["library"])
@role("viewer")
async def sources(app: OpenApp, after: After = None, limit: Limit = 50, filter: Filter = None) -> Page[Item]:
    """The inputs of all runs of the project, the newest first."""
    keep = condition(filter, ITEM_COLUMNS) if filter else None

    async def read(behind: tuple[Any, ...] | None, size: int) -> Any:
        return await app.pool.fetch(PAGES["sources"], app.settings.project, behind and behind[0], size)

    rows, following = await page_of(read, place(after, int), limit, lambda row: (row["id"],), keep)
    items = [
        Item(run=row["run_id"], run_name=row["run"], **{k: v for k, v in row.items() if k not in ("run", "run_id")})
        for row in rows
    ]
    return Page(items=items, next=following)
