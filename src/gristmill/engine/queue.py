"""The queue: the only module that writes task state. Every finishing write names the token of its claim."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import asyncpg

from gristmill.db.database import REPEAT
from gristmill.db.statements import statements
from gristmill.engine import history, processes, tracing
from gristmill.engine.state import AVAILABLE, FAILED, QUARANTINED, RUNNING, WAITING
from gristmill.engine.task import Claimer as Claimer
from gristmill.engine.task import Failure as Failure
from gristmill.engine.task import NewTask as NewTask
from gristmill.engine.task import Task as Task
from gristmill.engine.task import check_each, clean_text, grouped
from gristmill.errors import UsageError

SQL = statements("queue")
log = logging.getLogger("gristmill.queue")
WAKE_CHANNEL = "gristmill_wake"
LONGEST_DELAY = 86_400.0  # seconds; what asks for more, or for nonsense, is tried again the next day
LOCK_CLASS = 0x6772_6973  # first key of the advisory lock that a worker's liveness session holds; second key: worker id
LOST = "what it waited for was lost"  # why a task was cancelled that needed another one
MOST_ROUNDS = 100_000  # of a cancel, 10,000 tasks each

Connection: TypeAlias = "asyncpg.Connection[Any]"


async def enqueue(connection: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Makes tasks inside the caller's transaction and returns their ids, in the same order.

    A task whose key its run already has is not made again: the id is that of the first. Raises `UsageError` U400 for a
    task that no queue should take, U401 when it is to wait for a task that does not exist.
    """
    groups = grouped(tasks)
    for places in groups.values():
        tasks[places[0]].check()
    check_each(tasks)
    ids = [0] * len(tasks)
    trace = tracing.current()
    for alike, places in groups.items():
        group = tasks if len(groups) == 1 else [tasks[place] for place in places]
        given = (
            [task.payload for task in group], _or_none([task.item_id for task in group]),
            _or_none([task.lock for task in group]), _or_none([task.trace or trace for task in group]), *alike,
        )  # fmt: skip
        keys = _or_none([task.key for task in group])
        rows = await connection.fetch(
            *((SQL["enqueue"], *given) if keys is None else (SQL["enqueue_keyed"], *given, keys))
        )
        made = [row["id"] for row in rows]
        found = made if keys is None else await _with_keys(connection, alike[0], keys, rows)
        for place, number in zip(places, found, strict=True):
            ids[place] = number
        if group[0].after:
            new = set(made)
            await _depend(connection, {ids[at]: tasks[at].after for at in places if ids[at] in new})
    return ids


async def _with_keys(
    connection: Connection, run_id: int, keys: list[bytes | None], rows: list[asyncpg.Record]
) -> list[int]:
    """The ids of tasks that were just made, and of those that their run already had."""
    made = iter([row["id"] for row in rows if row["key"] is None])
    by_key = {row["key"]: row["id"] for row in rows}
    if len(rows) < len(keys):
        known = await connection.fetch(SQL["with_keys"], run_id, [key for key in keys if key is not None])
        by_key |= {row["key"]: row["id"] for row in known}
    return [next(made) if key is None else by_key[key] for key in keys]


def _or_none(values: list[Any]) -> list[Any] | None:
    """Nothing at all instead of a list of nothings: it is not sent, and reads as nulls."""
    return values if any(value is not None for value in values) else None


async def _depend(connection: Connection, after: dict[int, tuple[int, ...]]) -> None:
    needs = {number for numbers in after.values() for number in numbers}
    states = {row["id"]: row["state"] for row in await connection.fetch(SQL["need"], list(needs))}
    if needs - set(states):
        states |= await history.states(connection, list(needs - set(states)))  # it ended long ago
    if unknown := needs - set(states):
        raise UsageError(f"there is no task {min(unknown)} to wait for", code="U401", safe="nothing was enqueued")
    lost = {number for number, state in states.items() if state in ("failed", "quarantined", "cancelled")}
    edges = [(task, need) for task, numbers in after.items() for need in numbers if states[need] != "completed"]
    await connection.execute(
        SQL["depend"], [task for task, _ in edges], [need for _, need in edges], [int(n in lost) for _, n in edges]
    )
    waiting = {task for task, _ in edges}
    free = [task for task in after if task not in waiting]
    if free:
        await connection.fetch(SQL["unblock"], free)


async def hint(connection: Connection | asyncpg.Pool[Any], what: str = "") -> None:
    """Tells idle workers to look now. Call it after the commit, never inside a transaction, and not for every task:
    commits that carry a NOTIFY wait for each other (reliability, E2). A lost hint costs at most a poll."""
    await connection.execute(SQL["hint"], what)


async def limited_pools(connection: Connection | asyncpg.Pool[Any]) -> list[str]:
    """Pools with a limit over the whole fleet: only a claim with `limited` inside of a transaction takes from them."""
    return [row["name"] for row in await connection.fetch(SQL["pools"])]


async def claim(
    connection: Connection | asyncpg.Pool[Any], claimer: Claimer, wanted: dict[str, int], kinds: Sequence[str],
    *, low: dict[str, int] | None = None, suspects: bool = False, token: uuid.UUID | None = None, limited: bool = False,
    locked: bool = False, most: int = 1000, turn: int | None = None,
) -> list[Task]:  # fmt: skip
    """Up to `wanted[pool]` tasks of each pool and `most` in all, in one round trip; nothing when the worker was buried.

    `low` skips what lies below that place in the order (a watermark, see `docs/decisions/0001-engine-tables.md`);
    `suspects` asks for tasks that have died with their process twice, and only for those; `locked` for tasks that need
    a lock, and only for those. `limited` takes from pools with a limit over the fleet too, and needs a transaction.
    `turn` takes this task and no other, if it can be claimed. Who wants to give back what a claim took although its
    reply was lost names the `token` himself.
    """
    pools = list(wanted)
    if limited:
        await connection.execute(SQL["lock_pools"], pools)
    apart = suspects or locked or turn is not None
    rows = await connection.fetch(
        SQL["claim_apart" if apart else "claim"], claimer.id, claimer.nonce, pools, [wanted[pool] for pool in pools],
        [(low or {}).get(pool, -1) for pool in pools], kinds, token or uuid.uuid4(), limited, most,
        *((suspects, turn) if apart else ()),
    )  # fmt: skip
    return [Task._make(row) for row in rows]


async def still_held(connection: Connection | asyncpg.Pool[Any], tasks: Sequence[Task]) -> set[int]:
    """Which of these claims still exist; the others were cancelled, taken back, or given to somebody else."""
    rows = await connection.fetch(SQL["still_held"], [task.id for task in tasks], [task.token for task in tasks])
    return {row["id"] for row in rows}


async def settle(connection: Connection, claimer: Claimer, finished: Sequence[tuple[Task, str]]) -> set[int]:
    """Finishes tasks with their outcome names; returns the ids that this call finished. The rest were lost or done."""
    finished = sorted(finished, key=lambda entry: entry[0].id)  # locks are taken in this order
    told = [task.id for task, _ in finished if task.detail >= 2]
    rows = await connection.fetch(
        SQL["settle"], [task.id for task, _ in finished], [task.token for task, _ in finished],
        [outcome for _, outcome in finished], claimer.id, told or None,
    )  # fmt: skip
    needed = [row["id"] for row in rows if row["needed"]]
    if needed:
        waited = [row["id"] for row in await connection.fetch(SQL["meet"], needed)]
        await connection.fetch(SQL["unblock"], waited)
    return {row["id"] for row in rows}


async def settled_by(connection: Connection | asyncpg.Pool[Any], tasks: Sequence[Task]) -> set[int]:
    """Which of these very claims are on record as completed: our own commit whose reply was lost."""
    rows = await connection.fetch(SQL["settled_by"], [task.id for task in tasks], [task.token for task in tasks])
    return {row["task_id"] for row in rows}


async def fail(connection: Connection, claimer: Claimer, task: Task, failure: Failure) -> str | None:
    """Charges a failure, inside a transaction; returns the state that follows, or None when the lease was lost."""
    row = await connection.fetchrow(
        SQL["fail"], task.id, task.token, claimer.id, failure.retry, failure.backoff, failure.longest,
        failure.code, failure.error, clean_text(failure.message), failure.cause,
    )  # fmt: skip
    return await _ended(connection, row)


async def crash(
    connection: Connection, claimer: Claimer, task: Task, story: str, code: str = "T500", error: str = "Crash"
) -> str | None:
    """Charges a crash of the child process that ran this task alone, inside a transaction; returns the next state."""
    row = await connection.fetchrow(SQL["crash"], task.id, task.token, claimer.id, clean_text(story), code, error)
    return await _ended(connection, row)


async def _ended(connection: Connection, row: asyncpg.Record | None) -> str | None:
    if row is None:
        return None
    if row["state"] != AVAILABLE:
        await _lose(connection, [row])
    return str(row["state"])


async def _lose(connection: Connection, ended: Sequence[asyncpg.Record]) -> None:
    """Whoever needs one of these tasks, which have ended and not well, will be told."""
    if lost := [task["id"] for task in ended if task["needed"]]:
        await connection.execute(SQL["lose"], lost)


async def release(connection: Connection | asyncpg.Pool[Any], back: Sequence[tuple[Task, float, str]]) -> set[int]:
    """Gives tasks back without charging anything: (task, delay in seconds, reason). Returns the ids it gave back."""
    back = sorted(back, key=lambda entry: entry[0].id)
    rows = await connection.fetch(
        SQL["release"], [task.id for task, _, _ in back], [task.token for task, _, _ in back],
        [delay if 0 <= delay <= LONGEST_DELAY else LONGEST_DELAY for _, delay, _ in back],
        [clean_text(reason, 200) for _, _, reason in back],
    )  # fmt: skip
    return {row["id"] for row in rows}


async def take_back(connection: Connection | asyncpg.Pool[Any], task_id: int, token: uuid.UUID, reason: str) -> bool:
    """Takes a claim away from whoever holds it, uncharged; False when that claim is over already."""
    rows = await connection.fetch(SQL["release"], [task_id], [token], [0.0], [clean_text(reason, 200)])
    return bool(rows)


async def give_back(
    connection: Connection, claimer: Claimer, reason: str, tokens: Sequence[uuid.UUID] | None = None
) -> list[int]:
    """Puts back, uncharged, what a worker holds under these tokens, or all that it holds; returns the ids.

    Must run inside a transaction: the worker's row is locked first, so that no claim of its is still on the way.
    """
    await connection.fetchval(SQL["lock_worker"], claimer.id)
    return [row["id"] for row in await connection.fetch(SQL["give_back"], claimer.id, tokens, reason)]


async def rescue(
    connection: Connection, my_id: int, confirm: float = 0.5, *, certain_only: bool = False
) -> dict[int, int]:
    """Buries dead workers and puts their tasks in front of the queue; returns their ids, and how many tasks of each.

    Three ways to know: the process is on this machine and has ended (certain, at once); its liveness lock has vanished
    (believed when seen twice, `confirm` seconds apart); its lease is over. A worker whose lock is still held, but whose
    lease is over, is stalled: it loses its tasks and no crash is charged. With `certain_only` the first alone counts:
    who was cut off from the database himself a moment ago is no judge of others.
    """
    buried: dict[int, int] = {}
    for row in await connection.fetch(SQL["suspects"], LOCK_CLASS, my_id, confirm, processes.machine() or "?"):
        ended = row["near"] and processes.ended(row["pid"], row["pid_started"])
        if not ended and (certain_only or not (row["gone"] or row["expired"])):
            continue
        cause = "its process ended" if ended or row["gone"] else "its lease ran out"
        charged = ended or not (row["expired"] and row["locked"])
        try:
            number = await _bury(connection, row["id"], cause, certain=ended, charged=charged)
        except REPEAT as error:  # somebody holds one of its rows; the others do not have to wait for that
            log.warning("worker %d cannot be buried now: %s", row["id"], error)
            continue
        if number is not None:
            buried[row["id"]] = number
    return buried


async def _bury(connection: Connection, worker_id: int, cause: str, *, certain: bool, charged: bool) -> int | None:
    """Marks a worker dead and takes its tasks in, in one transaction; how many, or None when it lives or was buried."""
    async with connection.transaction():
        if await connection.fetchval(SQL["mark_dead"], worker_id, cause, LOCK_CLASS, certain) is None:
            return None
        rows = await connection.fetch(SQL["rescue"], worker_id, charged, cause)
        await _lose(connection, [task for task in rows if task["state"] == QUARANTINED])
        return len(rows)


async def take_in(connection: Connection) -> list[int]:
    """A duty: puts back, uncharged, what runs for workers that left or are not there any more; returns the ids."""
    found: list[int] = []
    for row in await connection.fetch(SQL["orphaned"]):
        async with connection.transaction():
            await connection.fetchval(SQL["lock_worker"], row["worker_id"])
            rows = await connection.fetch(SQL["give_back"], row["worker_id"], None, "its worker is gone")
            found += [task["id"] for task in rows]
    return found


async def reopen(
    connection: Connection, run_id: int, cause: bytes | None = None, task_ids: Sequence[int] | None = None
) -> list[int]:
    """Failed and quarantined tasks of a run (of one `cause`, or those of `task_ids` only) begin anew, and what was
    cancelled because it needed them; returns the ids.

    Broken barriers are among the ids; they are made again when the run's next epoch comes to them.
    """
    ids = [row["id"] for row in await connection.fetch(SQL["reopen"], run_id, cause, task_ids)]
    again = ids
    while again:
        waiting = [row["task_id"] for row in await connection.fetch(SQL["find_again"], again)]
        again = [row["id"] for row in await connection.fetch(SQL["revive"], waiting, LOST)] if waiting else []
    return ids


async def cancel(
    connection: Connection, *, run_id: int | None = None, item_ids: Iterable[int] | None = None,
    task_ids: Iterable[int] | None = None, broken: bool = False, reason: str | None = None,
) -> list[int]:  # fmt: skip
    """Cancels what is open of a run, of items (`broken`: also what has failed of them) or of tasks; returns the ids.

    Running tasks too: their token is taken away, and their worker ends them within a beat (sooner after a hint
    "cancel"). Repeats until nothing is left: a task that settles while we wait for its lock leaves followers behind,
    which only the next statement's snapshot can see.
    """
    if run_id is not None:
        find: tuple[Any, ...] = (SQL["open_of_run"], run_id)
    elif item_ids is not None:
        find = (SQL["of_items"], list(item_ids), broken)
    else:
        find = (SQL["of_tasks"], list(task_ids or ()), broken)
    states = [WAITING, AVAILABLE, RUNNING] + ([FAILED, QUARANTINED] if broken else [])
    found: list[int] = []
    for _ in range(MOST_ROUNDS):
        ids = [row["id"] for row in await connection.fetch(*find)]
        if not ids:
            break
        found += await _cancel(connection, ids, states, reason)
    return found


async def _cancel(connection: Connection, ids: list[int], states: list[str], reason: str | None) -> list[int]:
    await connection.execute(SQL["lock_tasks"], ids)
    rows = await connection.fetch(SQL["cancel"], ids, states, reason)
    await _lose(connection, rows)
    return [row["id"] for row in rows]


async def replace(connection: Connection, run_id: int, step: int) -> list[int]:
    """Takes the failures of a barrier off the list because it begins anew; returns the ids."""
    ids = [row["id"] for row in await connection.fetch(SQL["broken_of_step"], run_id, step)]
    return await _cancel(connection, ids, [FAILED, QUARANTINED], None)


async def abandon(connection: Connection) -> list[int]:
    """A duty: cancels what waits for tasks that will never complete; returns the ids."""
    async with connection.transaction():
        ids = sorted({row["task_id"] for row in await connection.fetch(SQL["abandoned"])})
        return await _cancel(connection, ids, [WAITING], LOST) if ids else []


async def expire(connection: Connection) -> list[int]:
    """A duty: fails what has not begun by its deadline; returns the ids."""
    async with connection.transaction():
        rows = await connection.fetch(SQL["expire"])
        await _lose(connection, rows)
        return [row["id"] for row in rows]


async def park(connection: Connection | asyncpg.Pool[Any], item_ids: Sequence[int] | None = None) -> list[int]:
    """What could be claimed of these paused items waits; without ids a duty, for what slipped through. Returns ids."""
    return [row["id"] for row in await connection.fetch(SQL["park"], item_ids)]


async def unpark(connection: Connection, item_ids: Sequence[int]) -> list[int]:
    """Inside a transaction: tasks of items that are paused no longer may be claimed, unless they wait for others."""
    waiting = [row["id"] for row in await connection.fetch(SQL["parked"], list(item_ids))]
    return [row["id"] for row in await connection.fetch(SQL["unblock"], waiting)]
