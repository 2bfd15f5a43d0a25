"""What pictures of progress are drawn from: noted by whoever folds the counters, and bounded however long a run is."""

from __future__ import annotations

from typing import Any

import asyncpg

from gristmill.engine import queue, upkeep
from gristmill.engine.queue import Failure
from tests.engine.conftest import Enqueue, register

GIVEN_UP = Failure("T200", "InputError", "never", retry=False, backoff=0.0)


async def fold(pool: asyncpg.Pool[Any]) -> None:
    async with pool.acquire() as connection:
        assert await upkeep.fold(connection)


async def noted(pool: asyncpg.Pool[Any]) -> Any:
    return await pool.fetch("select waiting, running, completed, failed from flow where step = 0 order by at")


async def test_a_fold_notes_where_each_step_stands_and_what_it_finished_in_this_minute(
    pool: asyncpg.Pool[Any], bare_run: int, enqueue: Enqueue
) -> None:
    await enqueue({}, {}, {})
    claimer = await register(pool)
    first, second, _ = await queue.claim(pool, claimer, {"*": 3}, ["bare"])
    await fold(pool)
    assert tuple((await noted(pool))[-1]) == (0, 3, 0, 0)
    async with pool.acquire() as connection, connection.transaction():
        await queue.settle(connection, claimer, [(first, "ok")])
        await queue.fail(connection, claimer, second, GIVEN_UP)
    await fold(pool)
    assert tuple((await noted(pool))[-1]) == (0, 1, 1, 1)
    assert await pool.fetchrow("select sum(completed), sum(failed) from pace") == (1, 1)
    before = await pool.fetchval("select count(*) from flow")
    await fold(pool)  # nothing has moved: nothing is written
    assert await pool.fetchval("select count(*) from flow") == before


async def test_spans_grow_with_the_age_of_a_run_so_a_long_one_has_few_rows(
    pool: asyncpg.Pool[Any], bare_run: int, enqueue: Enqueue
) -> None:
    for age, seconds in (("0", 1), ("399 seconds", 1), ("500 seconds", 2), ("1 day", 256), ("30 days", 8192)):
        await pool.execute("update run set created_at = clock_timestamp() - $1::text::interval", age)
        await enqueue({})
        await fold(pool)
        at, now = await pool.fetchrow("select max(at), clock_timestamp() from flow")
        assert at.timestamp() % seconds == 0, age
        assert at.timestamp() < now.timestamp() + seconds, age
    spans = await pool.fetch("select at, waiting from flow order by at")
    assert [row["waiting"] for row in spans] == sorted(row["waiting"] for row in spans)


async def test_what_was_noted_of_runs_that_ended_long_ago_is_forgotten(
    pool: asyncpg.Pool[Any], bare_run: int, enqueue: Enqueue
) -> None:
    await enqueue({})
    await fold(pool)
    await pool.execute("insert into pace values (clock_timestamp() - interval '4 days', $1, 0, 1, 0)", bare_run)
    await pool.execute(upkeep.SQL["forget_flow"], 60.0)
    assert await pool.fetchval("select count(*) from flow") == 1
    assert await pool.fetchval("select count(*) from pace") == 0
    await pool.execute("update run set ended_at = clock_timestamp() - interval '1 hour', state = 'completed'")
    await pool.execute(upkeep.SQL["forget_flow"], 0.0)
    assert await pool.fetchval("select count(*) from flow") == 1
    await pool.execute(upkeep.SQL["forget_flow"], 60.0)
    assert await pool.fetchval("select count(*) from flow") == 0
