"""Annotations to and from a Label Studio server, each as a durable task that any worker may do."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from gristmill.api import single_tasks
from gristmill.api.access import Caller
from gristmill.api.problems import NotFound
from gristmill.api.shapes import Answer, Body
from gristmill.api.single_tasks import SingleTask
from gristmill.app import App
from gristmill.exchanging import PULL, PUSH, label_studio
from gristmill.review.label_studio.flow import flow_of
from gristmill.review.label_studio.projects import find_project
from gristmill.run import Run

FAMILY = "(label-studio)"


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
    payload = {"run": run.id, "project": wanted.project, "kind": wanted.kind, "by": caller.name}
    said = {"what": what, "run": run.id, "run_name": run.name, "by": caller.name}
    number = await single_tasks.begin(app, FAMILY, what, PUSH if what == "push" else PULL, said, payload)
    return await exchange(app, number)


async def exchange(app: App, number: int) -> Exchange:
    """How it stands. Raises `NotFound` A404."""
    found = await single_tasks.find(app, FAMILY, number)
    if found is None:
        raise NotFound(f"there is no exchange {number}", hint="those there are: GET /api/label-studio")
    return _shown(found)


async def listed(app: App, before: int | None, limit: int) -> list[Exchange]:
    """Pushes and pulls, the newest first."""
    return [_shown(one) for one in await single_tasks.listed(app, FAMILY, before, limit)]


def _shown(found: SingleTask) -> Exchange:
    said, value = found.said, found.value
    return Exchange(
        id=found.id, what=said.get("what", "push"), run=said.get("run", 0), run_name=said.get("run_name", ""),
        state=found.state, created_at=found.created_at, ended_at=found.ended_at, by=said.get("by"), done=value,
        url=f"{value['url']}/projects/{value['server_project']}" if value else None,
        held_by=found.held_by, error=found.error,
    )  # fmt: skip
