"""Schedules: runs and tasks that start at certain times."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Field

from gristmill.api.problems import NotFound
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Body, OpenApp
from gristmill.app import App
from gristmill.db.database import transaction
from gristmill.engine import schedule as engine
from gristmill.errors import UsageError
from gristmill.starting import RUN_START, start_options

router = new_router("schedules")
Name = Annotated[str, Path(min_length=1, max_length=200)]
Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Schedule(Answer):
    """`outcome`: the state of the latest tick's task; `message`: why it failed, or why the schedule is broken."""

    name: str
    cron: str | None
    every: float | None
    timezone: str | None
    catch_up: Literal["all", "last", "none"]
    task: dict[str, Any]
    paused: bool
    next_at: datetime
    last_at: datetime | None
    outcome: str | None
    message: str | None


class Schedules(Answer):
    items: list[Schedule]


class NewSchedule(Body):
    """When: `cron` in `timezone`, or `every` so many seconds. What: a run over `paths` of this server's machine, or a
    task of kind `task` with `payload`. `catch_up`: what is done about ticks that nobody was there for."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    cron: Annotated[str, Field(max_length=200)] | None = None
    every: Annotated[float, Field(gt=0, le=3.2e9)] | None = None
    timezone: Annotated[str, Field(min_length=1, max_length=100)] = "UTC"
    catch_up: Literal["all", "last", "none"] = "last"
    paths: Annotated[tuple[Text, ...], Field(max_length=1000)] = ()
    workflow: Annotated[str, Field(min_length=1, max_length=200)] = "qa"
    model: Annotated[str, Field(min_length=1, max_length=400)] | None = "extractive"
    task: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    pool: Annotated[str, Field(min_length=1, max_length=200)] = "*"
    payload: dict[str, Any] = Field({})
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5


@router.get("/schedules")
async def schedules(app: OpenApp) -> Schedules:
    """All schedules: their next tick, and what became of the latest one."""
    return await _listed(app)


@router.post("/schedules")
@role("admin")
async def add_schedule(new: NewSchedule, app: OpenApp) -> Schedule:
    """Adds a schedule, or changes the one of that name. An admin's business: paths are those of the server."""
    if bool(new.paths) == bool(new.task):
        raise UsageError("a schedule takes `paths` or `task`, one of them", code="U337", safe="nothing was changed")
    kind, payload = new.task or RUN_START, new.payload
    if new.paths:
        payload = start_options(list(new.paths), new.workflow, new.model)
        if new.model:
            await app.models.open(new.model)  # a wrong name or a missing key is found now, not at night
    made = engine.NewSchedule(
        new.name, kind, new.cron, new.every, new.timezone, new.catch_up, app.settings.project, new.pool,
        json.dumps(payload, ensure_ascii=False), new.attempts,
    )  # fmt: skip
    async with transaction(app.pool) as connection:
        await engine.add(connection, made)
    return await _named(app, new.name)


@router.post("/schedules/{name}/{order}")
@role("operator")
async def order_schedule(name: Name, order: Literal["pause", "resume"], app: OpenApp) -> Schedule:
    """No more ticks, or on with them; ticks of a pause count as missed."""
    async with transaction(app.pool) as connection:
        await (engine.pause if order == "pause" else engine.resume)(connection, name, app.settings.project)
    return await _named(app, name)


@router.delete("/schedules/{name}", status_code=204)
@role("operator")
async def remove_schedule(name: Name, app: OpenApp) -> None:
    """Takes a schedule away; what it has started goes on."""
    async with transaction(app.pool) as connection:
        await engine.remove(connection, name, app.settings.project)


async def _listed(app: App) -> Schedules:
    async with app.pool.acquire() as connection:
        entries = await engine.listed(connection, app.settings.project)
    return Schedules(items=[_schedule(entry) for entry in entries])


async def _named(app: App, name: str) -> Schedule:
    found = [one for one in (await _listed(app)).items if one.name == name]
    if not found:
        raise NotFound(f'there is no schedule "{name}" any more')
    return found[0]


def _schedule(entry: engine.Schedule) -> Schedule:
    timing = entry.timing
    every = timing.every.total_seconds() if timing is not None and timing.every is not None else None
    return Schedule(
        name=entry.name, cron=timing.cron if timing else None, every=every,
        timezone=timing.timezone if timing else None,
        catch_up=entry.catch_up, task=entry.task, paused=entry.paused, next_at=entry.next_at, last_at=entry.last_at,
        outcome=entry.outcome, message=entry.message,
    )  # fmt: skip
