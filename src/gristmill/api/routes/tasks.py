"""Tasks: lists of a run's, and of one all that happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query

from gristmill.api import stories
from gristmill.api.attempt_differences import attempt_difference
from gristmill.api.listing import condition
from gristmill.api.problems import Refused
from gristmill.api.routes.progress import RunName
from gristmill.api.routes.runs import Filter
from gristmill.api.routing import router as new_router
from gristmill.api.run_shapes import TaskRow
from gristmill.api.run_views import SQL, run_row
from gristmill.api.shapes import After, Answer, Id, Limit, OpenApp, Page, place
from gristmill.api.story_shapes import AttemptDifference, Story, TaskDetail
from gristmill.api.task_lists import COLUMNS, STATES, TaskList
from gristmill.db.database import repeating
from gristmill.engine import queue, workflow
from gristmill.errors import UsageError

router = new_router("tasks")
State = Literal["running", "failed", "available", "waiting", "completed"]


class TaskChanged(Answer):
    """Whether anything was changed, and the task as it is now."""

    changed: bool
    task: TaskDetail


@router.get("/runs/{run}/tasks")
async def run_tasks(
    run: RunName, app: OpenApp, state: Annotated[State | None, Query()] = None,
    stage: Annotated[str | None, Query(max_length=200)] = None, after: After = None, limit: Limit = 50,
    filter: Filter = None,
) -> Page[TaskRow]:  # fmt: skip
    """The tasks of a run: what runs, then what failed (or is quarantined), what can be claimed, what waits for others,
    and what was completed and made something (the newest first). What was cancelled is not listed; its inputs are."""
    row = await run_row(app, run)
    steps = await app.pool.fetch(SQL["steps"], row["id"])
    chosen = [step["step"] for step in steps if stage is None or step["stage"] == stage]
    if not chosen:
        known = ", ".join(step["stage"] for step in steps)
        raise UsageError(f'{row["name"]} has no stage "{stage}"', code="U302", hint=f"stages: {known}")
    tasks = TaskList(app.pool, row["id"], {step["step"]: step["stage"] for step in steps}, chosen)
    keep = condition(filter, COLUMNS) if filter else None
    states: Sequence[str] = (state,) if state else STATES
    rows, following = await tasks.page(states, place(after, str, list), limit, keep)
    return Page(items=rows, next=following)


@router.get("/tasks/{id}")
async def task(id: Id, app: OpenApp) -> TaskDetail:
    """One task, and the one reason for which it waits."""
    return await stories.task_detail(app, await stories.task_row(app, id))


@router.get("/tasks/{id}/story")
async def task_story(id: Id, app: OpenApp) -> Story:
    """What happened to a task: its attempts with workers, calls and ends, what it worked on, what it made."""
    return await stories.story(app, id)


@router.get("/tasks/{id}/difference")
async def task_difference(
    id: Id, app: OpenApp, of: Annotated[int, Query(ge=1, le=2**31)], to: Annotated[int, Query(ge=1, le=2**31)]
) -> AttemptDifference:
    """What attempt `to` got back otherwise than attempt `of`: answers, raw output of programs, how they ended."""
    return await attempt_difference(app, id, of, to)


@router.post("/tasks/{id}/retry")
async def retry_task(id: Id, app: OpenApp) -> TaskChanged:
    """A task that failed begins anew, in a new epoch of its run."""
    row = await stories.task_row(app, id)
    _check(row, ("failed", "quarantined"), "has not failed")
    again = await repeating(app.pool, lambda connection: workflow.retry(connection, row["run_id"], None, [id]))
    await queue.hint(app.pool)
    await app.start_crew()
    return TaskChanged(changed=bool(again), task=await task(id, app))


@router.post("/tasks/{id}/cancel")
async def cancel_task(id: Id, app: OpenApp) -> TaskChanged:
    """Ends a task now; what its worker still brings is refused."""
    row = await stories.task_row(app, id)
    _check(row, ("waiting", "available", "running"), "is over")
    gone = await repeating(app.pool, lambda connection: queue.cancel(connection, task_ids=[id]))
    await queue.hint(app.pool, "cancel")
    return TaskChanged(changed=bool(gone), task=await task(id, app))


def _check(row: Any, states: Sequence[str], otherwise: str) -> None:
    if row["run_state"] in (None, "cancelled"):
        raise Refused(409, "its run was cancelled: it is over for good", code="U315", safe="nothing was changed")
    if row["state"] not in states:
        raise Refused(
            409, f"task {row['id']} {otherwise}: it is {row['state']}", code="A409", safe="nothing was changed",
            hint="look again: GET /api/tasks/{id}",
        )  # fmt: skip
