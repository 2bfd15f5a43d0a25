"""Items: the inputs of a run. How they come in, gather at barriers of their own, and end once in each round."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.queue import NewTask

SQL = statements("items")
RUNS = statements("workflow")
Connection: TypeAlias = "asyncpg.Connection[Any]"


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


async def add_items(connection: Connection, run_id: int, items: Sequence[NewItem]) -> dict[bytes, int]:
    """Adds inputs inside a transaction and enqueues the first steps for the new ones; returns key -> item id.

    An input that the run already has is left alone: nothing that was done is done again. One that cannot be read has
    failed at once (event `item.failed`).
    """
    await connection.execute(SQL["adding"], run_id)
    rows = await connection.fetch(
        SQL["add_items"], run_id, [i.key for i in items], [i.name for i in items], [i.uri for i in items],
        [i.state for i in items], [i.code for i in items], [i.reason for i in items],
    )  # fmt: skip
    fresh = [row for row in rows if row["fresh"]]
    if fresh:  # one that cannot be read also changes what the run has come to
        await connection.execute(SQL["close_barriers"], [row["id"] for row in fresh])
        await connection.fetchval(RUNS["lock_run"], run_id)
        await connection.fetchval(RUNS["open_run"], run_id)
        await connection.execute(SQL["refuse_items"], [row["id"] for row in fresh if row["state"] == "unreadable"])
    by_key = {item.key: item for item in items}
    first = [s for s in await connection.fetch(RUNS["steps"], run_id) if not s["upstream"] or -1 in s["after"]]
    await queue.enqueue(
        connection,
        [
            NewTask(run_id, step["kind"], step["pool"], json.dumps(by_key[row["key"]].payload), row["id"],
                    step["ordinal"], max_attempts=step["max_attempts"], max_crashes=step["max_crashes"],
                    lock=step["lock"], lock_slots=step["lock_slots"])
            for row in fresh if row["state"] == "active" for step in first
        ],
    )  # fmt: skip
    return {row["key"]: row["id"] for row in rows}


async def take_out(connection: Connection, run_id: int, uris: Sequence[str], kept: Sequence[int]) -> list[str]:
    """Inputs that are not in `kept` no longer count, and nothing of them goes on; returns their paths."""
    gone = await connection.fetch(SQL["going"], run_id, uris, kept)
    ids = [row["id"] for row in gone]
    if ids:  # tasks before items: one order of locks everywhere
        await queue.cancel(connection, item_ids=ids, broken=True)
        await connection.execute(SQL["supersede_items"], ids, [row["becomes"] for row in gone])
        await check_items(connection, ids)
    return [row["uri"] for row in gone]


async def check_items(connection: Connection, item_ids: Iterable[int]) -> None:
    """Notes items in which something has ended without a successor: whoever keeps house looks what they have come to.

    Call it in the transaction that ends the task; `finish_items` does the rest.
    """
    ids = sorted(set(item_ids))
    if ids:
        await connection.execute(SQL["check_items"], ids)


async def finish_items(connection: Connection, run_id: int | None = None) -> int:
    """A duty: opens the barriers of noted items that are due and ends items of which nothing is open; returns how many
    items it looked at (2,000 notes at most). `run_id` limits it to one run.

    Tasks first, then the items by id, then a look with a new snapshot: an item ends once in each round, however many
    do this at once, and a process that is killed in between leaves its notes behind.
    """
    async with connection.transaction():
        if run_id is None:
            taken = await connection.fetch(SQL["take_checks"])
        else:
            taken = await connection.fetch(SQL["take_checks_of_run"], run_id)
        ids = sorted({row["item_id"] for row in taken})
        if not ids:
            return 0
        await _clear(connection, ids)
        await connection.fetch(SQL["lock_items"], ids)
        await _open_barriers(connection, ids)
        await connection.execute(SQL["end_items"], ids)
        return len(ids)


async def _clear(connection: Connection, ids: list[int]) -> None:
    """Cancels what slipped through of items that are over, and what earlier rounds of due barriers have left."""
    stale = await connection.fetch(SQL["left_behind"], ids)
    due = await connection.fetch(SQL["due_barriers"], ids)
    if due:
        stale += await connection.fetch(SQL["stale"], *_items_and_steps(due))
    if stale:
        await queue.cancel(connection, task_ids=sorted({row["id"] for row in stale}), broken=True)


async def _open_barriers(connection: Connection, ids: list[int]) -> None:
    due = await connection.fetch(SQL["due_barriers"], ids)
    if not due:
        return
    stale = {row["item_id"] for row in await connection.fetch(SQL["stale"], *_items_and_steps(due))}
    await check_items(connection, stale)  # something of the former round has just come in: again at the next beat
    opened = [
        row
        for row in due
        if row["item_id"] not in stale
        and await connection.fetchval(SQL["open_item_step"], row["item_id"], row["ordinal"], row["epoch"]) is not None
    ]
    await queue.enqueue(
        connection,
        [
            NewTask(
                row["run_id"], row["kind"], row["pool"], json.dumps({"barrier": True, "epoch": row["epoch"]}),
                row["item_id"], row["ordinal"], max_attempts=row["max_attempts"], max_crashes=row["max_crashes"],
                priority=-row["ordinal"], lock=row["lock"], lock_slots=row["lock_slots"],
            )
            for row in opened
        ],
    )  # fmt: skip


def _items_and_steps(due: Sequence[asyncpg.Record]) -> tuple[list[int], list[int]]:
    return [row["item_id"] for row in due], [row["ordinal"] for row in due]


async def begin_again(connection: Connection, task_ids: Sequence[int]) -> None:
    """Tasks were reopened: their items have no outcome any more, and barriers of theirs behind those tasks are due
    again. Call it after the tasks were changed, in the same transaction."""
    await connection.execute(SQL["begin_again"], list(task_ids))


async def pause_items(connection: Connection, item_ids: Sequence[int]) -> list[int]:
    """Nothing more of these items begins, inside a transaction; what is under way finishes. Returns whom it changed."""
    paused = await connection.fetch(SQL["pause_items"], list(item_ids), True)
    await queue.park(connection, list(item_ids))
    return [row["id"] for row in paused]


async def resume_items(connection: Connection, item_ids: Sequence[int]) -> list[int]:
    """Items go on after `pause_items`, inside a transaction; returns whom it changed."""
    resumed = [row["id"] for row in await connection.fetch(SQL["pause_items"], list(item_ids), False)]
    await queue.unpark(connection, list(item_ids))
    return resumed


async def cancel_items(connection: Connection, item_ids: Sequence[int]) -> list[int]:
    """Ends items now, inside a transaction: open tasks are cancelled, what was recorded stays; returns whom it ended.

    What slips through in this moment is found by `finish_items`.
    """
    await queue.cancel(connection, item_ids=item_ids)
    ended = [row["id"] for row in await connection.fetch(SQL["cancel_items"], list(item_ids))]
    await check_items(connection, ended)
    return ended


async def release_items(connection: Connection, item_ids: Sequence[int]) -> list[int]:
    """Takes failed and cancelled items out, inside a transaction, so that adding the inputs again begins them anew
    (what was finished is used again); returns which."""
    await queue.cancel(connection, item_ids=item_ids, broken=True)
    return [row["id"] for row in await connection.fetch(SQL["release_items"], list(item_ids))]
