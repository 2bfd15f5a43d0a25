"""How a run stands: its stages, its pictures, what failed, what holds it, and what was changed since the last time."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from gristmill.api import differences, pictures
from gristmill.api.routing import router as new_router
from gristmill.api.run_shapes import Cause, Difference, Failures, Flow, Held, Stage, Throughput
from gristmill.api.run_views import SQL, counters, run_row, stages
from gristmill.api.shapes import OpenApp
from gristmill.db.statements import statements
from gristmill.run import WHY

router = new_router("runs")
FAILED = 10_000  # broken tasks that are grouped
RunName = Annotated[str, Path(min_length=1, max_length=200, description="number or name of a run")]
Minutes = Annotated[int, Query(ge=1, le=1440, description="span that ends now")]


@router.get("/runs/{run}/stages")
async def run_stages(run: RunName, app: OpenApp) -> list[Stage]:
    """The steps of a run: counts, pace, and how long attempts take."""
    return await stages(app, await run_row(app, run))


@router.get("/runs/{run}/flow")
async def run_flow(run: RunName, app: OpenApp, points: Annotated[int, Query(ge=2, le=500)] = 500) -> Flow:
    """The cumulative flow: how many pieces of each stage were waiting, running, done and failed over the time."""
    return await pictures.flow(app, await run_row(app, run), points)


@router.get("/runs/{run}/throughput")
async def run_throughput(run: RunName, app: OpenApp, minutes: Minutes = 60) -> Throughput:
    """Pieces a minute by stage, and what happened meanwhile."""
    return await pictures.throughput(app, (await run_row(app, run))["id"], minutes)


@router.get("/throughput", tags=["monitoring"])
async def throughput(app: OpenApp, minutes: Minutes = 60) -> Throughput:
    """Pieces a minute by stage over all runs, and what happened meanwhile."""
    return await pictures.throughput(app, None, minutes)


@router.get("/runs/{run}/failures")
async def run_failures(run: RunName, app: OpenApp) -> Failures:
    """What failed, grouped by cause and stage; `cause` is what a retry takes."""
    run_id = (await run_row(app, run))["id"]
    failed = sum(stage.failed for stage in (await counters(app.pool, [run_id])).get(run_id, {}).values())
    groups = [Cause(**dict(row)) for row in await app.pool.fetch(SQL["causes"], run_id, FAILED)]
    inputs = [
        Cause(
            cause=None, stage=None, code=row["code"], error=None, message=row["message"], state="unreadable",
            count=row["count"], sample_item=row["sample"],
        )
        for row in await app.pool.fetch(SQL["unreadable"], run_id)
    ]  # fmt: skip
    unreadable = await app.pool.fetchval(statements("workflow")["count_unreadable"], run_id)
    complete = sum(group.count for group in groups) >= failed
    return Failures(failed=failed, unreadable=unreadable, complete=complete, causes=[*groups, *inputs])


@router.get("/runs/{run}/held_by")
async def run_held_by(run: RunName, app: OpenApp) -> list[Held]:
    """Why tasks wait: exactly one reason for each, the largest group first."""
    run_id = (await run_row(app, run))["id"]
    rows = await app.pool.fetch(WHY["held_by"], run_id, None)
    return [Held(stage=row["step"], reason=row["reason"], tasks=row["tasks"]) for row in rows]


@router.get("/runs/{run}/difference")
async def run_difference(run: RunName, app: OpenApp) -> Difference:
    """What was changed since the run of the same workflow before this one."""
    return await differences.difference(app, await run_row(app, run))
