"""Locks: who holds what, taking it away, and tidying search indexes up, which takes a lock."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path, Response
from pydantic import Field

from gristmill.api.problems import Refused
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, Asking, Body, OpenApp
from gristmill.engine.locks import Holder, force_release, held_by, holders
from gristmill.stores import vacuum as stores

router = new_router("locks")
LockKey = Annotated[str, Path(min_length=1, max_length=1000)]


class Lock(Answer):
    """A holder of a slot; `waits`: it holds nothing and stands at the door. `live` False: anybody may take it."""

    key: str
    slot: int
    waits: bool
    holder_kind: Literal["task", "worker", "cli", "api", "hook"]
    holder: str
    since: datetime
    expires_at: datetime | None
    live: bool
    fence: int
    task: int | None
    operator: str | None
    run: int | None
    worker: int | None


class Locks(Answer):
    items: list[Lock]


class Release(Body):
    """`force` takes it away from whoever holds it; `reason` is kept with it."""

    force: bool = False
    reason: Annotated[str, Field(max_length=2000)] = ""


class Released(Answer):
    key: str
    forced: list[Lock]


class Vacuum(Body):
    """`store`: database, or lancedb:FOLDER as runs of the project have written to it. Nobody is waited for."""

    store: Annotated[str, Field(min_length=1, max_length=4000)] = "database"
    force: bool = False
    reason: Annotated[str, Field(max_length=2000)] = ""


class Vacuumed(Answer):
    """Sizes in bytes; `dropped`: entries of chunks that no run has any more."""

    store: str
    status: Literal["done", "not_found", "locked", "failed"]
    before: int
    after: int
    dropped: int
    message: str


@router.get("/locks")
async def locks(app: OpenApp) -> Locks:
    """Who holds slots of locks, and who waits."""
    return Locks(items=[_lock(one) for one in await holders(app.pool)])


# A key may hold slashes: of a folder.
@router.post("/locks/{key:path}/release")
@role("operator")
async def release_lock(key: LockKey, wish: Release, app: OpenApp, caller: Asking) -> Released:
    """Takes a lock away from its holder, which is told as an event. Without `force` it only says who holds it: 409."""
    if not wish.force:
        found = [one for one in await holders(app.pool, key) if one.slot > 0 and one.live]
        if found:
            raise held_by(key, found)
        return Released(key=key, forced=[])
    forced = await force_release(app.pool, key, by=caller.name, reason=wish.reason)
    return Released(key=key, forced=[_lock(one) for one in forced])


@router.post(
    "/locks/vacuum", responses={code: {"model": Vacuumed} for code in (404, 409, 500)}, response_model=Vacuumed
)
@role("operator")
async def vacuum(wish: Vacuum, app: OpenApp, caller: Asking, response: Response) -> stores.Vacuumed:
    """Tidies a search index up: 200 done, 404 there is none, 409 somebody writes to it, 500 it went wrong."""
    known = await stores.stores_of(app.pool, app.settings.project)
    if wish.store != "database" and wish.store not in known:
        response.status_code = 404
        return stores.Vacuumed(wish.store, "not_found", message="no run of this project has written to that store")
    if wish.force and not caller.may("admin"):
        raise Refused(403, "only an admin takes the lock away for this", code="A403", safe="nothing was changed")
    done = await stores.vacuum(
        app.pool, wish.store, app.settings.home, by=caller.name, kind="api", wait=0, force=wish.force,
        reason=wish.reason,
    )  # fmt: skip
    response.status_code = done.http_status
    return done


def _lock(one: Holder) -> Lock:
    return Lock(
        key=one.key, slot=one.slot, waits=one.slot == 0, holder_kind=one.kind, holder=one.who, since=one.since,
        expires_at=one.expires_at, live=one.live, fence=one.fence, task=one.task_id, operator=one.operator,
        run=one.run_id, worker=one.worker_id,
    )  # fmt: skip
