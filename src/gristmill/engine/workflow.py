"""Runs and their steps: how a run begins, opens a barrier, ends once per epoch, and begins again."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import items, queue
from gristmill.engine.items import NewItem as NewItem
from gristmill.engine.items import add_items as add_items
from gristmill.engine.items import check_items as check_items
from gristmill.engine.items import finish_items as finish_items
from gristmill.engine.queue import NewTask
from gristmill.errors import UsageError, WorkflowError

SQL = statements("workflow")
ENDED = frozenset({"completed", "partial", "failed", "cancelled"})
INPUTS = -1  # stands for the inputs of the run among the steps that come right before a step


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
_OURS = re.compile(r".*-\d+")


class _CameIn(Exception):
    """Undoes the end of a run in which something was opened meanwhile."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run. `kind` is the stored name of its operator.

    `after` are the places of the steps right before it, smaller than its own; `INPUTS` stands for the run's inputs;
    None: the step before it in the list. A barrier waits for all steps before it; with `per_item` for each item.
    A task of it runs only while it holds one of the `lock_slots` slots of `lock`.
    """

    name: str
    kind: str
    pool: str = "*"
    barrier: bool = False
    max_attempts: int = 5
    max_crashes: int = 3
    after: tuple[int, ...] | None = None
    per_item: bool = False
    lock: str | None = None
    lock_slots: int = 1


@dataclass(frozen=True, slots=True)
class NewRun:
    """`key` (32 bytes) finds the same run again: workflow fingerprint and inputs. `definition` is kept as JSON.

    It begins when all runs of `after` have completed. `detail` says what is told as events: 0 the run, 1 its items too,
    2 every task.
    """

    name: str
    workflow: str
    steps: tuple[Step, ...]
    definition: dict[str, Any]
    key: bytes | None = None
    project: str = "default"
    priority: int = 0
    inputs: tuple[str, ...] = ()  # the paths as given, so that a retry can look at them again
    after: tuple[int, ...] = ()
    detail: int = 1


async def find_or_create(connection: asyncpg.Connection[Any], new: NewRun, *, fresh: bool = False) -> tuple[int, bool]:
    """The run with this key, made if there is none: (id, whether it was made). Call it inside a transaction.

    A run that was cancelled is over for good, and `fresh` asks for another one in any case: the new run takes over the
    key, so that the same call finds it from now on. Raises `UsageError` U320 for a run in `after` that does not exist,
    `WorkflowError` for steps that do not follow each other.
    """
    if new.key is not None:
        found = await connection.fetchrow(SQL["find_run"], new.project, new.key)
        if found is not None and not fresh and found["state"] != "cancelled":
            return found["id"], False
        if found is not None:
            await connection.execute(SQL["give_up_key"], found["id"])
    after, upstream = lines_of(new.steps)
    if unknown := await connection.fetchval(SQL["unknown_runs"], new.project, list(new.after)):
        raise UsageError(
            f"there is no run {unknown} to wait for", code="U320", hint="list them: gristmill watch --list",
            safe="nothing was started",
        )  # fmt: skip
    run_id = await connection.fetchval(
        SQL["create_run"], new.project, new.name, new.workflow, new.key, json.dumps(new.definition),
        json.dumps(list(new.inputs)), new.priority, list(dict.fromkeys(new.after)), new.detail,
    )  # fmt: skip
    if run_id is None:  # another process made it between our two statements
        found = await connection.fetchrow(SQL["find_run"], new.project, new.key)
        return found["id"], False
    await connection.execute(SQL["name_run"], run_id, f"{new.name}-{run_id}")
    await connection.execute(
        SQL["create_steps"], run_id, list(range(len(new.steps))), [s.name for s in new.steps],
        [s.kind for s in new.steps], [s.pool for s in new.steps], [s.barrier or s.per_item for s in new.steps],
        [s.per_item for s in new.steps], list(map(_array, after)), list(map(_array, upstream)),
        [s.max_attempts for s in new.steps], [s.max_crashes for s in new.steps], [s.lock for s in new.steps],
        [s.lock_slots for s in new.steps],
    )  # fmt: skip
    if not new.after:
        await tell(connection, "run.start", run_id)
    return run_id, True


async def call(connection: asyncpg.Connection[Any], run_id: int, name: str) -> None:
    """Gives a run that was just made a name of its own instead of "qa-7". Call it in the transaction that made it.

    Raises `UsageError` U319 for a name that is none, that looks like one of ours, or that another run has.
    """
    if not _NAME.fullmatch(name) or _OURS.fullmatch(name):
        raise UsageError(
            f'a run cannot be called "{name[:100]}"', code="U319", safe="nothing was started",
            hint="letters, digits, . _ and -, at most 100, no number alone and no end like -7",
        )  # fmt: skip
    await connection.execute(SQL["hold_name"], name)
    if not await connection.fetchval(SQL["call_run"], run_id, name):
        raise UsageError(
            f'there is a run "{name}" already', code="U319", hint="choose another name", safe="nothing was started"
        )


def lines_of(steps: Sequence[Step]) -> tuple[list[list[int]], list[list[int]]]:
    """For each step the places right before it, and of all that come before it. Raises `WorkflowError`."""
    after: list[list[int]] = []
    upstream: list[list[int]] = []
    for place, step in enumerate(steps):
        direct = [place - 1] if step.after is None else sorted(set(step.after))
        if not direct or direct[0] < INPUTS or direct[-1] >= place:
            raise WorkflowError(f'step "{step.name}" can only follow steps that come before it in the list')
        before = {number for number in direct if number != INPUTS}
        after.append(direct)
        upstream.append(sorted(before.union(*(upstream[number] for number in before))))
    return after, upstream


def _array(numbers: Sequence[int]) -> str:
    return f"{{{','.join(map(str, numbers))}}}"


async def tell(
    connection: asyncpg.Connection[Any], name: str, run_id: int | None, body: dict[str, Any] | None = None
) -> None:
    """Appends an event to the outbox, in the caller's transaction."""
    await connection.execute(SQL["tell"], name, run_id, None, None, None, json.dumps(body or {}))


async def start_waiting(connection: asyncpg.Connection[Any]) -> int:
    """A duty: begins runs that waited for others, all of which have completed, and those that a day's budget held until
    now; returns how many."""
    resumed = await connection.fetch(SQL["resume_held"])
    return len(resumed) + len(await connection.fetch(SQL["start_due_runs"]))


async def seal(
    connection: asyncpg.Connection[Any], run_id: int, inputs: Sequence[str], uris: Sequence[str], kept: Sequence[int]
) -> list[str]:
    """No more inputs will come: the run may end. Items that are not in `kept` no longer count; returns their names.

    Must run inside a transaction. A run that has ended and has nothing new to do stays ended.
    """
    gone = await items.take_out(connection, run_id, uris, kept)
    await connection.fetchval(SQL["lock_run"], run_id)  # after the tasks: one order of locks everywhere
    if gone:
        await connection.fetchval(SQL["open_run"], run_id)
    await connection.execute(SQL["seal"], run_id, json.dumps(list(inputs)))
    return gone


async def retry(
    connection: asyncpg.Connection[Any], run_id: int, cause: bytes | None = None, task_ids: Sequence[int] | None = None
) -> int:
    """Opens a new epoch in which everything that failed (of one cause, of these tasks) is tried again; returns how
    many."""
    reopened = await queue.reopen(connection, run_id, cause, task_ids)
    if reopened:
        await begin_again(connection, run_id, reopened, len(reopened))
    return len(reopened)


async def begin_again(connection: asyncpg.Connection[Any], run_id: int, task_ids: Sequence[int], pieces: int) -> None:
    """Opens a new epoch for tasks that begin anew, of which people hear as so many `pieces`. Call it after the tasks
    were changed, in the same transaction: items and the run are locked last."""
    await items.begin_again(connection, task_ids)
    await connection.fetchval(SQL["lock_run"], run_id)
    await connection.fetchval(SQL["open_run"], run_id)
    await connection.execute(SQL["reseal"], run_id)
    await tell(connection, "run.retry", run_id, {"tasks": pieces})


async def cancel(connection: asyncpg.Connection[Any], run_id: int) -> int:
    """Cancels all open tasks of a run and ends it; returns how many tasks were cancelled.

    Who retries the run or adds to it may come in before the end is written: then it is undone, so that the run is not
    locked while we lock tasks, and what came in is cancelled too.
    """
    cancelled = 0
    while True:
        cancelled += len(await queue.cancel(connection, run_id=run_id))
        with contextlib.suppress(_CameIn):
            async with connection.transaction():
                epoch = await connection.fetchval(SQL["end_run"], run_id, "cancelled")
                if await connection.fetchval(SQL["any_task_open"], run_id):
                    raise _CameIn
                if epoch is not None:
                    await tell(connection, "run.end", run_id, {"state": "cancelled", "epoch": epoch})
                return cancelled


async def advance(connection: asyncpg.Connection[Any], run_id: int) -> str | None:
    """Opens the barrier that is due, or ends the run when nothing is open. Returns "barrier", the end state, or None.

    Lock first, look in a second statement: only a new snapshot sees what was committed while we waited for the lock
    (reliability 3.5). One guarded update writes the end, so it is written once per epoch.
    """
    await items.finish_items(connection, run_id)
    async with connection.transaction():
        await _clear(connection, run_id)
        run = await connection.fetchrow(SQL["lock_run"], run_id)
        if run is None or run["state"] != "running" or not run["sealed"]:
            return None
        # In this order: what ends between the two looks was open, and its barrier is due at the next call.
        busy = await connection.fetchval(SQL["anything_open"], run_id)
        barrier = await connection.fetchrow(SQL["ready_barrier"], run_id, run["epoch"])
        if barrier is not None:
            return await _open_barrier(connection, run_id, run["epoch"], barrier)
        if busy:
            return None
        verdict = await connection.fetchrow(SQL["verdict"], run_id)
        state = "completed" if not verdict["broken"] else "partial" if verdict["fruitful"] else "failed"
        if await connection.fetchval(SQL["end_run"], run_id, state) is None:
            return None
        await tell(connection, "run.end", run_id, {"state": state, "epoch": run["epoch"]})
        return state


async def _clear(connection: asyncpg.Connection[Any], run_id: int) -> None:
    """Cancels what an earlier round of the barrier that is due has left: its failures, and followers that still run.
    Before the run is locked, because tasks are locked before runs everywhere."""
    run = await connection.fetchrow(SQL["run_row"], run_id)
    if run is None or run["state"] != "running" or not run["sealed"]:
        return
    barrier = await connection.fetchrow(SQL["ready_barrier"], run_id, run["epoch"])
    if barrier is not None:
        stale = [row["id"] for row in await connection.fetch(SQL["stale"], run_id, barrier["ordinal"])]
        if stale:
            await queue.cancel(connection, task_ids=sorted(stale), broken=True)


async def _open_barrier(
    connection: asyncpg.Connection[Any], run_id: int, epoch: int, barrier: asyncpg.Record
) -> str | None:
    if await connection.fetch(SQL["stale"], run_id, barrier["ordinal"]):
        return None  # a follower has come in since we looked: again at the next beat
    await connection.execute(SQL["open_barrier"], run_id, barrier["ordinal"], epoch)
    task = NewTask(
        run_id, barrier["kind"], barrier["pool"], json.dumps({"barrier": True, "epoch": epoch}), None,
        barrier["ordinal"], max_attempts=barrier["max_attempts"], max_crashes=barrier["max_crashes"],
        lock=barrier["lock"], lock_slots=barrier["lock_slots"],
    )  # fmt: skip
    await queue.enqueue(connection, [task])
    return "barrier"
