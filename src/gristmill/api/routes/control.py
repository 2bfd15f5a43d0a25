"""Start, stop, pause, resume: of everything, or of what is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from gristmill.api.problems import NotFound, Refused
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, Body, OpenApp
from gristmill.app import App
from gristmill.crew import orders
from gristmill.crew.places import crew_name
from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import fleet, queue, workflow

router = new_router("control")
SQL = statements("api_live")
Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=1000)]


class Target(Body):
    """What is meant. Nothing named: all runs that have not ended (pause, resume), all workers (stop)."""

    runs: Names = ()
    workers: Names = ()
    pools: Names = ()


class Start(Body):
    """Which workers of the crew should run: places ("parse-2") or kinds ("parse"); none named: all."""

    workers: Names = ()
    crew: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class Controlled(Answer):
    """What was changed: names of runs, workers and pools; `refused` says why what else was named was not."""

    action: Literal["start", "stop", "pause", "resume"]
    runs: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@router.post("/control/start")
@role("operator")
async def start_all(app: OpenApp, caller: Asking, wish: Start | None = None) -> Controlled:
    """Lets workers of a crew run. Refused, with the reason: one too many, disabled in the settings, blacklisted."""
    wish = wish or Start()
    crew = wish.crew or crew_name(app.settings)
    meant = await orders.chosen(app.pool, crew, wish.workers, everyone=not wish.workers)
    told = await orders.order(app.pool, crew, "start", [place.name for place in meant], by=caller.name)
    started = tuple(one.place for one in told if one.changed)
    refused = tuple(f"{one.place}: {one.refused}" for one in told if one.refused)
    return Controlled(action="start", workers=started, refused=refused)


@router.post("/control/pause")
@role("operator")
async def pause_all(app: OpenApp, caller: Asking, target: Target | None = None) -> Controlled:
    """Nothing more of it begins; what is under way finishes."""
    return await _control(app, "pause", target or Target(), caller.name)


@router.post("/control/resume")
@role("operator")
async def resume_all(app: OpenApp, caller: Asking, target: Target | None = None) -> Controlled:
    """Goes on after a pause."""
    return await _control(app, "resume", target or Target(), caller.name)


@router.post("/control/stop")
@role("operator")
async def stop_all(app: OpenApp, caller: Asking, target: Target | None = None) -> Controlled:
    """Workers finish what is under way and end; runs that are named are cancelled for good."""
    target = target or Target()
    cancelled: list[str] = []
    for number, name in await _runs(app, target.runs):
        async with transaction(app.pool) as connection:
            if await workflow.cancel(connection, number):
                cancelled.append(name)
    if cancelled:
        await queue.hint(app.pool, "cancel")
    if target.pools:
        raise Refused(422, "a pool cannot be stopped", code="A422", hint="pause it", safe="no pool was changed")
    workers = [] if target.runs and not target.workers else await _order(app, "drain", target.workers, caller.name)
    return Controlled(action="stop", runs=tuple(cancelled), workers=tuple(workers))


async def _control(app: App, action: Literal["pause", "resume"], target: Target, by: str) -> Controlled:
    if target.runs or target.workers or target.pools:
        found = await _runs(app, target.runs)  # before anything is changed: a wrong name changes nothing
    else:
        states = ["running", "waiting"] if action == "pause" else ["paused"]
        found = [(row["id"], row["name"]) for row in await app.pool.fetch(SQL["runs_in"], app.settings.project, states)]
    unknown = sorted(set(target.pools) - await fleet.known_pools(app.pool)) if target.pools else []
    if unknown:
        raise NotFound(f'there is no pool "{unknown[0]}"', hint="those there are: GET /api/pools")
    workers = await _order(app, action, target.workers, by) if target.workers else []
    runs = [name for number, name in found if await app.pool.fetchval(workflow.SQL[action], number) is not None]
    switch = fleet.pause_pool if action == "pause" else fleet.resume_pool
    pools = [name for name in target.pools if await switch(app.pool, name, by=by)]
    await queue.hint(app.pool)
    return Controlled(action=action, runs=tuple(runs), workers=tuple(workers), pools=tuple(pools))


async def _runs(app: App, names: Sequence[str]) -> list[tuple[int, str]]:
    """Numbers and names of the runs that are named, whatever version made them. Raises `NotFound`."""
    found = []
    for name in names:
        number = await app.pool.fetchval(workflow.SQL["run_named"], app.settings.project, name)
        if number is None:
            raise NotFound(f'there is no run "{name}"', code="U311", hint="those there are: GET /api/runs")
        found.append((number, name))
    return found


async def _order(app: App, verb: fleet.Verb, names: Sequence[str], by: str) -> list[str]:
    members = await fleet.workers(app.pool)
    meant = fleet.chosen(members, names) if names else [member for member in members if member.live]
    told = set(await fleet.order(app.pool, verb, [member.id for member in meant], by=by))
    return [member.name for member in meant if member.id in told]
