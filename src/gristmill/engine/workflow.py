"""Runs, their steps and their inputs: how a run begins, opens a barrier, ends once per epoch, and begins again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.queue import NewTask

SQL = statements("workflow")
ENDED = frozenset({"completed", "partial", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run. `kind` is the stored name of its operator; a barrier waits for all steps before it."""

    name: str
    kind: str
    pool: str = "*"
    barrier: bool = False
    max_attempts: int = 5
    max_crashes: int = 3


@dataclass(frozen=True, slots=True)
class NewRun:
    """`key` (32 bytes) finds the same run again: workflow fingerprint and inputs. `definition` is kept as JSON."""

    name: str
    workflow: str
    steps: tuple[Step, ...]
    definition: dict[str, Any]
    key: bytes | None = None
    project: str = "default"
    priority: int = 0
    inputs: tuple[str, ...] = ()  # the paths as given, so that a retry can look at them again


@dataclass(frozen=True, slots=True)
class NewItem:
    """One input of a run. `key` (32 bytes) stands for its name and content; an unreadable one has code and reason."""

    key: bytes
    name: str
    uri: str
    code: str | None = None
    reason: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "active" if self.code is None else "unreadable"


async def find_or_create(connection: asyncpg.Connection[Any], new: NewRun, *, fresh: bool = False) -> tuple[int, bool]:
    """The run with this key, made if there is none: (id, whether it was made). Call it inside a transaction.

    A run that was cancelled is over for good, and `fresh` asks for another one in any case: the new run takes over the
    key, so that the same call finds it from now on.
    """
    if new.key is not None:
        found = await connection.fetchrow(SQL["find_run"], new.project, new.key)
        if found is not None and not fresh and found["state"] != "cancelled":
            return found["id"], False
        if found is not None:
            await connection.execute(SQL["give_up_key"], found["id"])
    run_id = await connection.fetchval(
        SQL["create_run"], new.project, new.name, new.workflow, new.key, json.dumps(new.definition),
        json.dumps(list(new.inputs)), new.priority,
    )  # fmt: skip
    if run_id is None:  # another process made it between our two statements
        found = await connection.fetchrow(SQL["find_run"], new.project, new.key)
        return found["id"], False
    await connection.execute(SQL["name_run"], run_id, f"{new.name}-{run_id}")
    await connection.execute(
        SQL["create_steps"], run_id, list(range(len(new.steps))), [s.name for s in new.steps],
        [s.kind for s in new.steps], [s.pool for s in new.steps], [s.barrier for s in new.steps],
        [s.max_attempts for s in new.steps], [s.max_crashes for s in new.steps],
    )  # fmt: skip
    await tell(connection, "run.start", run_id)
    return run_id, True


async def tell(
    connection: asyncpg.Connection[Any], name: str, run_id: int | None, body: dict[str, Any] | None = None
) -> None:
    """Appends an event to the outbox, in the caller's transaction."""
    await connection.execute(SQL["tell"], name, run_id, None, None, None, json.dumps(body or {}))


async def add_items(connection: asyncpg.Connection[Any], run_id: int, items: Sequence[NewItem]) -> dict[bytes, int]:
    """Adds inputs inside a transaction and enqueues the first step for the new ones; returns key -> item id.

    An input that the run already has is left alone: nothing that was done is done again.
    """
    rows = await connection.fetch(
        SQL["add_items"], run_id, [i.key for i in items], [i.name for i in items], [i.uri for i in items],
        [i.state for i in items], [i.code for i in items], [i.reason for i in items],
    )  # fmt: skip
    first = await connection.fetchrow(SQL["steps"], run_id)
    by_key = {item.key: item for item in items}
    fresh = [row for row in rows if row["fresh"] and row["state"] == "active"]
    if any(row["fresh"] for row in rows):  # one that cannot be read also changes what the run has come to
        await connection.fetchval(SQL["lock_run"], run_id)
        await connection.fetchval(SQL["open_run"], run_id)
    await queue.enqueue(
        connection,
        [
            NewTask(run_id, first["kind"], first["pool"], json.dumps(by_key[row["key"]].payload), row["id"], 0,
                    max_attempts=first["max_attempts"], max_crashes=first["max_crashes"])
            for row in fresh
        ],
    )  # fmt: skip
    return {row["key"]: row["id"] for row in rows}


async def seal(
    connection: asyncpg.Connection[Any], run_id: int, inputs: Sequence[str], uris: Sequence[str], kept: Sequence[int]
) -> list[str]:
    """No more inputs will come: the run may end. Items that are not in `kept` no longer count; returns their names.

    Must run inside a transaction. A run that has ended and has nothing new to do stays ended.
    """
    gone = await connection.fetch(SQL["supersede_items"], run_id, uris, kept)
    await queue.withdraw(connection, [row["id"] for row in gone])
    await connection.fetchval(SQL["lock_run"], run_id)  # after the tasks: one order of locks everywhere
    if gone:
        await connection.fetchval(SQL["open_run"], run_id)
    await connection.execute(SQL["seal"], run_id, json.dumps(list(inputs)))
    return [row["uri"] for row in gone]


async def retry(connection: asyncpg.Connection[Any], run_id: int, cause: bytes | None = None) -> int:
    """Opens a new epoch in which everything that failed (or failed of one cause) is tried again; returns how many."""
    reopened = await queue.reopen(connection, run_id, cause)
    if reopened:
        await connection.fetchval(SQL["lock_run"], run_id)
        await connection.fetchval(SQL["open_run"], run_id)
        await connection.execute(SQL["reseal"], run_id)
        await tell(connection, "run.retry", run_id, {"tasks": len(reopened)})
    return len(reopened)


async def cancel(connection: asyncpg.Connection[Any], run_id: int) -> int:
    """Cancels all open tasks of a run and ends it; returns how many tasks were cancelled."""
    cancelled = await queue.cancel_tasks(connection, run_id)
    if await connection.fetchval(SQL["end_run"], run_id, "cancelled") is not None:
        await tell(connection, "run.end", run_id, {"state": "cancelled"})
    return len(cancelled)


async def advance(connection: asyncpg.Connection[Any], run_id: int) -> str | None:
    """Opens the barrier that is due, or ends the run when nothing is open. Returns "barrier", the end state, or None.

    Lock first, look in a second statement: only a new snapshot sees what was committed while we waited for the lock
    (reliability 3.5). One guarded update writes the end, so it is written once per epoch.
    """
    async with connection.transaction():
        run = await connection.fetchrow(SQL["lock_run"], run_id)
        if run is None or run["state"] != "running" or not run["sealed"]:
            return None
        barrier = await connection.fetchrow(SQL["ready_barrier"], run_id, run["epoch"])
        if barrier is not None:
            await queue.replace(connection, run_id, barrier["ordinal"])
            await connection.execute(SQL["open_barrier"], run_id, barrier["ordinal"], run["epoch"])
            task = NewTask(
                run_id, barrier["kind"], barrier["pool"], json.dumps({"barrier": True, "epoch": run["epoch"]}),
                None, barrier["ordinal"], max_attempts=barrier["max_attempts"], max_crashes=barrier["max_crashes"],
            )  # fmt: skip
            await queue.enqueue(connection, [task])
            return "barrier"
        if await connection.fetchval(SQL["anything_open"], run_id):
            return None
        verdict = await connection.fetchrow(SQL["verdict"], run_id)
        state = "completed" if not verdict["broken"] else "partial" if verdict["fruitful"] else "failed"
        if await connection.fetchval(SQL["end_run"], run_id, state) is None:
            return None
        await tell(connection, "run.end", run_id, {"state": state, "epoch": run["epoch"]})
        return state
