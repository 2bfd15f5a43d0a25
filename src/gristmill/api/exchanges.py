"""Annotations to and from a Label Studio server, each as a durable task that any worker may do."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.api.access import Caller
from gristmill.api.bulk_runs import SQL
from gristmill.api.problems import NotFound
from gristmill.api.shapes import Answer, Body
from gristmill.app import App
from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask
from gristmill.engine.workflow import NewRun, Step
from gristmill.exchanging import PULL, PUSH, label_studio
from gristmill.review.label_studio.flow import flow_of
from gristmill.review.label_studio.projects import find_project
from gristmill.run import WHY, Run

WORKFLOW = "(label-studio)"  # no workflow is called so: lists of runs leave them out
KEY = b"exchange".ljust(32, b"\0")  # of the one task of such a run: it is found by it
RUNS = statements("workflow")


class WantedExchange(Body):
    """The annotations of a run. `kind`: what to take, where a run makes several kinds; `project`: under which name the
    server has them (default: the run's). Server and token are settings, and never said by a caller."""

    run: Annotated[str, Field(min_length=1, max_length=200)]
    project: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    kind: Annotated[str | None, Field(min_length=1, max_length=100)] = None


class Exchange(Answer):
    """A push or a pull. `state`: waiting, running, completed or failed; `done` says what was sent or taken, by the
    words of `gristmill label-studio push --json` and `pull --json`; `url`: the project on the server."""

    id: int
    what: Literal["push", "pull"]
    run: int
    run_name: str
    state: str
    created_at: datetime
    ended_at: datetime | None = None
    by: str | None = None
    url: str | None = None
    done: dict[str, Any] | None = None
    held_by: str | None = None
    error: str | None = None


async def begin(app: App, run: Run, what: Literal["push", "pull"], wanted: WantedExchange, caller: Caller) -> Exchange:
    """Asks for it. Raises `UsageError`: L130 no server is set, L120 the run annotates nothing, L123 a pull of what was
    never made."""
    label_studio()
    flow_of(run.workflow, wanted.kind)
    if what == "pull":
        await find_project(app.pool, app.settings.project, wanted.project or run.name)
    kind = PUSH if what == "push" else PULL
    payload = {"run": run.id, "project": wanted.project, "kind": wanted.kind, "by": caller.name}
    said = {"what": what, "run": run.id, "run_name": run.name, "by": caller.name}
    new = NewRun(
        what, WORKFLOW, (Step(what, kind),), {"name": what, "steps": [], "said": said}, None, app.settings.project
    )
    async with transaction(app.pool) as connection:
        number, _ = await workflow.find_or_create(connection, new)
        await queue.enqueue(connection, [NewTask(number, kind, payload=json.dumps(payload), key=KEY)])
        await connection.execute(RUNS["reseal"], number)
    await queue.hint(app.pool)
    await app.start_crew()
    return await exchange(app, number)


async def exchange(app: App, number: int) -> Exchange:
    """How it stands. Raises `NotFound` A404."""
    row = await app.pool.fetchrow(SQL["export"], app.settings.project, number, WORKFLOW)
    if row is None:
        raise NotFound(f"there is no exchange {number}", hint="those there are: GET /api/label-studio")
    said = json.loads(row["definition"]).get("said", {})
    value: dict[str, Any] | None = json.loads(row["value"]) if row["value"] else None
    state = {"available": "waiting", "quarantined": "failed"}.get(row["state"], row["state"]) or row["run_state"]
    held = await app.pool.fetch(WHY["held_by"], number, row["task_id"]) if state == "waiting" else []
    return Exchange(
        id=number, what=said.get("what", "push"), run=said.get("run", 0), run_name=said.get("run_name", ""),
        state=state, created_at=row["created_at"], ended_at=row["ended_at"], by=said.get("by"), done=value,
        url=f"{value['url']}/projects/{value['server_project']}" if value else None,
        held_by=held[0]["reason"] if held else None,
        error=f"{row['code']}: {row['message']}" if row["message"] and not value else None,
    )  # fmt: skip


async def listed(app: App, before: int | None, limit: int) -> list[Exchange]:
    """Pushes and pulls, the newest first."""
    rows = await app.pool.fetch(SQL["runs"], app.settings.project, WORKFLOW, before, limit, None)
    return [await exchange(app, row["id"]) for row in rows]
