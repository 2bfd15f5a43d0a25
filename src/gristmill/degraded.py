"""What is degraded is asked again: a piece that came to something that stands in for an answer begins anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask

SQL = statements("degraded")
RUNS = statements("workflow")
ITEMS = statements("items")
ASKED_AGAIN = "it was degraded, and is asked again"
Connection: TypeAlias = "asyncpg.Connection[Any]"


async def ask_again(connection: Connection, run_id: int, cause: bytes | None = None) -> int:
    """Makes everything degraded of a run anew, and what has failed (of one `cause`) too, inside a transaction; returns
    how many pieces.

    A degraded piece gets a new task, the old one counts as cancelled. Its record and all that was made from it leave
    the run (they stay in the database), and steps that wait for everything run once more. What other runs have of the
    same work stays as it is. Left alone: records that somebody has decided about, inputs that were cancelled, and
    pieces whose tasks have left the history.
    """
    await connection.execute(ITEMS["adding"], run_id)  # one at a time
    failed = await queue.reopen(connection, run_id, cause)
    found = await connection.fetch(SQL["degraded"], run_id)
    again = await _take_out(connection, run_id, found) if found else []
    anew = [*failed, *await _begin(connection, run_id, again)]
    if found or failed:
        await workflow.begin_again(connection, run_id, anew, len(failed) + len(again))
    return len(failed) + len(again)


async def _take_out(connection: Connection, run_id: int, found: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """What is degraded leaves the run, with all that came of it; the pieces that have to be made anew for that."""
    pieces = {row["id"]: row for row in found}
    await connection.execute(SQL["give_up"], list({row["key"] for row in found}))
    steps = [step["ordinal"] for step in await connection.fetch(RUNS["steps"], run_id)]
    made = {row["record_id"] for row in found if row["record_id"] is not None}
    below = await _below(connection, run_id, steps, made, {row["item_id"] for row in found} - {None})
    left = await connection.fetch(SQL["leave"], run_id, below, steps)
    outcomes = dict.fromkeys(pieces, "degraded") | {row["task_id"]: row["outcome"] for row in left}
    await connection.execute(queue.SQL["lock_tasks"], list(outcomes))  # one may be on its way to the history
    await connection.execute(SQL["retire"], list(outcomes), list(outcomes.values()), ASKED_AGAIN)
    gone = set(below)  # what worked on a degraded record comes again by itself, with the new one
    return [row for row in pieces.values() if gone.isdisjoint(json.loads(row["payload"]).get("inputs", ()))]


async def _below(
    connection: Connection, run_id: int, steps: Sequence[int], records: Iterable[int], item_ids: Iterable[int]
) -> list[int]:
    """The records and all that was made from them, once nothing is open any more that could make another one."""
    known, of_items = list(records), list(item_ids)
    while True:
        following = [row["id"] for row in await connection.fetch(SQL["followers"], of_items, known)]
        stopped = await queue.cancel(connection, task_ids=following, broken=True)
        found = [row["id"] for row in await connection.fetch(SQL["below"], run_id, known, steps)]
        if not stopped and len(found) == len(known):
            return found
        known = found


async def _begin(connection: Connection, run_id: int, pieces: Sequence[asyncpg.Record]) -> list[int]:
    """New tasks for what belongs to an input; returns what begins anew. What belongs to the whole run comes again with
    the step that waits for everything, in the next epoch."""
    fresh = await queue.enqueue(
        connection,
        [
            NewTask(
                run_id, row["kind"], row["pool"], row["payload"], row["item_id"], row["step"],
                max_attempts=row["max_attempts"], max_crashes=row["max_crashes"], priority=-row["step"],
                lock=row["lock"], lock_slots=row["lock_slots"], trace=row["trace"],
            )
            for row in pieces if row["item_id"] is not None and not row["barrier"]
        ],
    )  # fmt: skip
    return fresh + [row["id"] for row in pieces if row["item_id"] is not None and row["barrier"] and not row["history"]]
