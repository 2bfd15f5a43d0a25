"""How everything is doing, in few numbers: for dashboards, for probes, for Prometheus."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Literal

from fastapi import Header, Request, Response

from gristmill.api.routes.limits import Limits, standing
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, OpenApp
from gristmill.app import App
from gristmill.db.statements import statements
from gristmill.engine import fleet, scrape
from gristmill.version import __version__

router = new_router("monitoring")
outside = new_router("monitoring")  # Prometheus looks at /metrics
SQL = statements("api_live")
KEPT = 1.0  # seconds for which numbers are not read again


class Totals(Answer):
    """Tasks of runs that have not ended."""

    waiting: int
    running: int
    done: int
    failed: int


class WorkerCounts(Answer):
    alive: int
    paused: int
    draining: int
    late: int


class Overview(Answer):
    """`status`: idle (nothing to do), working, waiting (there is work, and nobody at it), attention (a worker is late,
    or pieces have failed). `tasks` is summed from counters, never counted."""

    status: Literal["idle", "working", "waiting", "attention"]
    version: str
    runs: dict[str, int]
    tasks: Totals
    workers: WorkerCounts
    slots: int
    event_lag_seconds: float


class SickWorker(Answer):
    """`stale_minutes`: since its latest sign of life. `annotator_id` and `domain` as its kind in the settings says."""

    worker: int
    name: str
    host: str
    pid: int
    annotator_id: str | None
    domain: str | None
    last_update: str
    stale_minutes: float
    cause: str | None


class FleetHealth(Answer):
    """`crashed`: buried within ten minutes; `stuck`: alive, with an old beat."""

    healthy: int
    crashed: list[SickWorker]
    stuck: list[SickWorker]


@router.get("/monitoring/overview")
async def overview(app: OpenApp) -> Overview:
    """Everything at a glance."""
    row = await app.pool.fetchrow(SQL["overview"], app.settings.project)
    assert row is not None  # noqa: S101
    members = await fleet.workers(app.pool)
    states = {
        state: sum(member.state == state for member in members) for state in ("alive", "paused", "draining", "late")
    }
    runs = {one["state"]: one["n"] for one in await app.pool.fetch(SQL["run_states"], app.settings.project)}
    totals = Totals(waiting=row["waiting"], running=row["running"], done=row["done"], failed=row["failed"])
    slots = sum(sum(member.pools.values()) for member in members if member.state == "alive")
    status: Literal["idle", "working", "waiting", "attention"] = "idle"
    if states["late"] or totals.failed:
        status = "attention"
    elif totals.running:
        status = "working"
    elif totals.waiting:
        status = "waiting"
    return Overview(
        status=status, version=__version__, runs=runs, tasks=totals, workers=WorkerCounts(**states), slots=slots,
        event_lag_seconds=row["lag"],
    )  # fmt: skip


@router.get("/monitoring/health")
async def fleet_health(app: OpenApp) -> FleetHealth:
    """Which workers are well, which have died, and which say nothing."""
    rows = await app.pool.fetch(SQL["fleet_health"])
    kinds = await _kinds(app)

    def sick(state: str) -> list[SickWorker]:
        return [
            SickWorker(
                worker=row["id"], name=row["name"], host=row["host"], pid=row["pid"],
                annotator_id=kinds.get(row["id"], (None, None))[0], domain=kinds.get(row["id"], (None, None))[1],
                last_update=row["last_update"].isoformat(), stale_minutes=round(row["stale"] / 60, 2),
                cause=row["cause"],
            )
            for row in rows if row["health"] == state
        ]  # fmt: skip

    return FleetHealth(
        healthy=sum(row["health"] == "healthy" for row in rows), crashed=sick("crashed"), stuck=sick("stuck")
    )


@router.get("/monitoring/quota")
async def quota(app: OpenApp) -> Limits:
    """The same as /api/limits, under the name that other systems have for it."""
    return await standing(app)


@outside.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, accept: Annotated[str, Header(max_length=1000)] = "") -> Response:
    """The numbers of all workers, running or gone, in Prometheus form. Read once a second at most."""
    app: App = request.app.state.gristmill
    accept = "application/openmetrics-text" if "application/openmetrics-text" in accept else ""
    kept = request.app.state.metrics = getattr(request.app.state, "metrics", None) or _Kept()
    async with kept.reading:
        at, body, kind = kept.found.get(accept, (0.0, b"", ""))
        if not body or time.monotonic() - at > KEPT:
            async with app.pool.acquire(timeout=5) as connection:
                body, kind = await scrape.text(connection, accept)
            kept.found[accept] = (time.monotonic(), body, kind)
    return Response(body, headers={"Content-Type": kind})


class _Kept:
    def __init__(self) -> None:
        self.reading = asyncio.Lock()
        self.found: dict[str, tuple[float, bytes, str]] = {}


async def _kinds(app: App) -> dict[int, tuple[str | None, str | None]]:
    """Annotator and domain of the workers that a crew looks after."""
    from gristmill.crew.places import places

    return {
        place.worker_id: (place.settings.get("annotator"), place.settings.get("domain"))
        for place in await places(app.pool)
        if place.worker_id is not None
    }
