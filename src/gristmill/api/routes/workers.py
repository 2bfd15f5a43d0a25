"""The fleet: workers, pools, and orders to them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path
from pydantic import Field

from gristmill.api.problems import NotFound
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, Body, Id, OpenApp
from gristmill.app import App
from gristmill.engine import fleet

router = new_router("workers")
PoolName = Annotated[str, Path(min_length=1, max_length=200)]


class Worker(Answer):
    """A worker that lives, or that ended within ten minutes. `beat_age`: seconds since its latest beat."""

    id: int
    name: str
    host: str
    pid: int
    state: Literal["alive", "paused", "draining", "late", "stopped", "dead"]
    pools: dict[str, int]
    version: str
    started_at: datetime
    ended_at: datetime | None
    cause: str | None
    beat_age: float
    tasks: int


class Workers(Answer):
    items: list[Worker]


class Ordered(Answer):
    """What became of an order: `changed` False says that it was so already."""

    worker: Worker
    changed: bool


class Pool(Answer):
    """`limit`: tasks that may run at once over all workers, null: no limit. `waiting` is counted up to 10,000."""

    name: str
    limit: int | None
    paused: bool
    changed_at: datetime | None
    workers: int
    slots: int
    running: int
    waiting: int


class Pools(Answer):
    items: list[Pool]


class PoolChange(Body):
    """What is not named stays as it is; `limit` null takes the limit away."""

    limit: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    paused: bool | None = None


@router.get("/workers")
async def workers(app: OpenApp) -> Workers:
    """Who works: those that live, and those that ended within ten minutes."""
    return Workers(items=[Worker.model_validate(one) for one in await fleet.workers(app.pool)])


@router.post("/workers/{id}/{order}")
@role("operator")
async def order_worker(
    id: Id, order: Literal["pause", "resume", "drain", "stop"], app: OpenApp, caller: Asking
) -> Ordered:  # fmt: skip
    """Lets a worker claim nothing more, go on, or finish what is under way and end (`drain`, `stop`)."""
    verb: fleet.Verb = "drain" if order == "stop" else order
    await _worker(app, id)
    changed = await fleet.order(app.pool, verb, [id], by=caller.name)
    return Ordered(worker=await _worker(app, id), changed=bool(changed))


@router.get("/pools")
async def pools(app: OpenApp) -> Pools:
    """All pools that have workers, tasks, a limit or a pause."""
    return Pools(items=[Pool.model_validate(one) for one in await fleet.pools(app.pool)])


@router.put("/pools/{name}")
@role("operator")
async def change_pool(name: PoolName, change: PoolChange, app: OpenApp, caller: Asking) -> Pools:
    """Changes what a pool may do, over all workers. Answers with the pool as it is then."""
    known = await fleet.known_pools(app.pool)
    if name not in known:
        raise NotFound(f'there is no pool "{name}"', hint=fleet.nearest(name, known), safe="nothing was changed")
    if "limit" in change.model_fields_set:
        await fleet.limit_pool(app.pool, name, change.limit, by=caller.name)
    if change.paused is not None:
        await (fleet.pause_pool if change.paused else fleet.resume_pool)(app.pool, name, by=caller.name)
    found = [one for one in await fleet.pools(app.pool) if one.name == name]
    return Pools(items=[Pool.model_validate(one) for one in found])


async def _worker(app: App, number: int) -> Worker:
    found = [one for one in await fleet.workers(app.pool) if one.id == number]
    if not found:
        raise NotFound(f"there is no worker {number}", hint="those there are: GET /api/workers")
    return Worker.model_validate(found[0])
