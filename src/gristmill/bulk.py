"""The same done to many things at once: a durable run of small tasks, each with a part of what was chosen.

What is chosen is written down when a person says yes, so the count that he was shown is what is done, whatever else
happens meanwhile. A part that runs twice (its worker died right before its commit) does nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import asyncpg

from gristmill.db.database import repeating
from gristmill.db.statements import statements
from gristmill.engine import items, queue, workflow
from gristmill.engine.queue import NewTask
from gristmill.engine.workflow import NewRun, Step
from gristmill.errors import InputError, UsageError
from gristmill.review.decisions import decide

RUNS = statements("workflow")
WORKFLOW = "(bulk)"  # no workflow is called so: lists of runs leave them out
TASKS, ITEMS, REVIEW = "bulk.tasks", "bulk.items", "bulk.review"
PART = 200  # things that one task does

Handler = Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]


class Context(Protocol):
    """What the handlers need of the App."""

    @property
    def pool(self) -> asyncpg.Pool[Any]: ...


async def begin(
    connection: asyncpg.Connection[Any], project: str, action: str, kind: str, chosen: Sequence[int],
    said: Mapping[str, Any],
) -> int:  # fmt: skip
    """Makes the run that does `action` to all that was chosen; returns its id. Call it inside a transaction.

    `said` goes into the payload of every part, beside "ids".
    """
    parts = [{**said, "ids": list(chosen[at : at + PART])} for at in range(0, len(chosen), PART)]
    return await begin_run(connection, project, WORKFLOW, action, kind, said, parts)


async def begin_run(
    connection: asyncpg.Connection[Any], project: str, family: str, name: str, kind: str, said: Mapping[str, Any],
    payloads: Sequence[Mapping[str, Any]], key: bytes | None = None,
) -> int:  # fmt: skip
    """Makes a run of one step that somebody asked for, with a task of `kind` for each payload; returns its id. Call it
    inside a transaction.

    `family` stands where other runs have their workflow: no workflow is called so, and lists of runs leave it out.
    `said` is what the run tells of itself; `key` goes to a task that has to be found again, the only one of its run.
    """
    definition = {"name": name, "steps": [], "said": dict(said)}
    new = NewRun(name, family, (Step(name, kind),), definition, None, project)
    run_id, _ = await workflow.find_or_create(connection, new)
    tasks = [NewTask(run_id, kind, payload=json.dumps(payload), key=key) for payload in payloads]
    await queue.enqueue(connection, tasks)
    await connection.execute(RUNS["reseal"], run_id)
    return run_id


async def do_tasks(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Tries tasks of a run again, or cancels them; returns how many were changed."""
    run_id, ids = _number(payload, "run"), _ids(payload)

    async def change(connection: asyncpg.Connection[Any]) -> int:
        if payload.get("do") == "retry":
            return await workflow.retry(connection, run_id, None, ids)
        return len(await queue.cancel(connection, task_ids=ids))

    done = await repeating(context.pool, change)
    await queue.hint(context.pool, "" if payload.get("do") == "retry" else "cancel")
    return {"done": done, "of": len(ids)}


async def do_items(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Pauses inputs of a run, lets them go on, or cancels them; returns how many were changed."""
    verbs = {"pause": items.pause_items, "resume": items.resume_items, "cancel": items.cancel_items}
    ids, verb = _ids(payload), verbs.get(str(payload.get("do")))
    if verb is None:
        raise InputError(f"nothing is known that is called {payload.get('do')!r}", code="T323")
    done = await repeating(context.pool, lambda connection: verb(connection, ids))
    await queue.hint(context.pool, "cancel" if payload.get("do") == "cancel" else "")
    return {"done": len(done), "of": len(ids)}


async def do_review(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Decides about records in a person's name; what somebody else holds, or has decided since, is left alone."""
    done, refused = 0, Counter[str]()
    for number in _ids(payload):
        try:
            decided = await decide(
                context.pool, number, str(payload.get("do")), str(payload.get("by")), note=payload.get("note"),
                run_id=_number(payload, "run"),
            )  # fmt: skip
            done += decided.changed
        except UsageError as error:
            refused[f"{error.code} {error.message}"[:200]] += 1
    return {"done": done, "of": len(_ids(payload)), "refused": dict(refused.most_common(10))}


def _ids(payload: Mapping[str, Any]) -> list[int]:
    """The ids of a part. Raises `InputError` T323 for a payload that nobody of ours made."""
    ids = payload.get("ids")
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise InputError("this is no part of a bulk action", code="T323")
    return ids


def _number(payload: Mapping[str, Any], name: str) -> int:
    value = payload.get(name)
    if type(value) is not int:
        raise InputError(f"this is no part of a bulk action: it names no {name}", code="T323")
    return value


HANDLERS: Mapping[str, Handler] = MappingProxyType({TASKS: do_tasks, ITEMS: do_items, REVIEW: do_review})
