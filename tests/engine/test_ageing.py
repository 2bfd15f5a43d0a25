"""No priority waits for ever, and none loses more than its share to the turns of others."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.engine import queue, workflow
from gristmill.engine.claiming import Claims
from gristmill.engine.metrics import LoggingMetrics
from gristmill.engine.queue import Claimer, NewTask, Task

LOCK = "store:press"


class Rush:
    """A worker with one slot in front of a queue in which there is always something more urgent."""

    def __init__(self, pool: asyncpg.Pool[Any], claimer: Claimer, run_id: int, every: int, **urgent: Any) -> None:
        self.pool = pool
        self.claimer = claimer
        self.claims = Claims(claimer, {"*": 1}, ["bare"], 2, LoggingMetrics(), every)
        self.urgent = NewTask(run_id, "bare", **{"priority": -5} | urgent)

    async def add(self, *tasks: NewTask) -> list[int]:
        async with transaction(self.pool) as connection:
            return await queue.enqueue(connection, tasks)

    async def claim(self) -> Task:
        """One more urgent task comes in, one task is claimed and done, a second goes by."""
        await self.add(self.urgent)
        self.claims.rescan()
        ((task, alone),) = await self.claims.ask(self.pool)
        self.claims.taken(task, alone=alone)
        async with transaction(self.pool) as connection:
            await queue.settle(connection, self.claimer, [(task, "ok")])
        self.claims.given(task, alone=alone)
        return task

    async def claim_until(self, ids: Sequence[int], most: int) -> int:
        """How many claims it takes until all of these are done; fails after `most`."""
        left = set(ids)
        for n in range(1, most + 1):
            left.discard((await self.claim()).id)
            if not left:
                return n
        raise AssertionError(f"still waiting after {most} claims: {left}")


async def test_a_task_of_low_priority_is_done_although_there_is_always_something_more_urgent(
    pool: asyncpg.Pool[Any], claimer: Claimer, bare_run: int
) -> None:
    strict = Rush(pool, claimer, bare_run, 0)
    low = await strict.add(*[NewTask(bare_run, "bare", priority=level) for level in (7, 3, 900, 7)])
    await strict.add(*[strict.urgent] * 5)
    with pytest.raises(AssertionError, match="still waiting"):
        await strict.claim_until(low, 40)
    fair = Rush(pool, claimer, bare_run, 10)
    assert await fair.claim_until(low[:1], 10) == 10, "the one that waits longest goes first, not the one next in rank"
    assert await fair.claim_until(low[1:], 40) == 30, "one in ten, and no more"


async def test_a_run_of_low_priority_goes_on_beside_runs_that_go_before_it(
    pool: asyncpg.Pool[Any], claimer: Claimer, bare_run: int
) -> None:
    async with transaction(pool) as connection:
        new = workflow.NewRun("late", "late", (workflow.Step("first", "bare"),), {}, priority=100)
        late, _ = await workflow.find_or_create(connection, new)
    rush = Rush(pool, claimer, bare_run, 5)
    low = await rush.add(*[NewTask(late, "bare")] * 2)
    assert await rush.claim_until(low, 10) == 10


async def test_behind_a_lock_too_and_a_lock_that_is_held_costs_nobody_his_turn(
    pool: asyncpg.Pool[Any], claimer: Claimer, bare_run: int
) -> None:
    rush = Rush(pool, claimer, bare_run, 4, lock=LOCK)
    low = await rush.add(NewTask(bare_run, "bare", priority=9, lock=LOCK))
    for _ in range(3):
        assert (await rush.claim()).id not in low
    await pool.execute(
        "insert into lock (key, slot, holder_kind, holder, token, fence, expires_at) values"
        " ($1, 1, 'cli', 'me', $2, 1, clock_timestamp() + interval '1 hour')", LOCK, uuid.uuid4(),
    )  # fmt: skip
    await rush.add(rush.urgent)
    for _ in range(3):
        rush.claims.rescan()
        assert await rush.claims.ask(pool) == [], "its turn has come, and the lock is held"
    await pool.execute("delete from lock")
    assert (await rush.claim()).id in low


async def test_what_cannot_be_claimed_yet_has_no_turn(pool: asyncpg.Pool[Any], claimer: Claimer, bare_run: int) -> None:
    rush = Rush(pool, claimer, bare_run, 3)
    await rush.add(
        NewTask(bare_run, "bare", priority=1, delay=600), NewTask(bare_run, "other", priority=2),
        NewTask(bare_run, "bare", "elsewhere", priority=3),
    )  # fmt: skip
    (low,) = await rush.add(NewTask(bare_run, "bare", priority=4))
    assert await rush.claim_until([low], 3) == 3
    await pool.execute("insert into pool (name, paused) values ('*', true)")
    for _ in range(5):
        rush.claims.rescan()
        assert await rush.claims.ask(pool) == []


@pytest.mark.parametrize(
    "change",
    [
        "update run set state = 'paused'", "insert into pool (name, paused) values ('*', true)",
        "insert into pool (name, slots) values ('*', 0)", "update task set state = 'waiting'",
        "update task set run_at = clock_timestamp() + interval '1 minute'", "update task set crashes = 2",
        "update task set deadline = clock_timestamp() - interval '1 s'", "update task set pool = 'other'",
        "update task set kind = 'other'", "update worker set state = 'paused'",
        "insert into breaker (kind, crashes, since, open_until)"
        " values ('bare', 6, clock_timestamp(), clock_timestamp() + interval '1 minute')",
        "update task set lock_key = 'store:press'; insert into lock (key, slot, holder_kind, holder, token, fence)"
        " values ('store:press', 1, 'cli', 'me', gen_random_uuid(), 1)",
    ],
)  # fmt: skip
async def test_a_turn_is_no_way_round_what_a_claim_asks_for(
    pool: asyncpg.Pool[Any], claimer: Claimer, bare_run: int, change: str
) -> None:
    async with transaction(pool) as connection:
        (task,) = await queue.enqueue(connection, [NewTask(bare_run, "bare")])
    await pool.execute(change)
    async with transaction(pool) as connection:
        assert await queue.claim(connection, claimer, {"*": 1}, ["bare"], turn=task, limited=True) == []
