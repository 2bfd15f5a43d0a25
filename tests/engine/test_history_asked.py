"""What is history can still be waited for and asked about."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.queue import NewTask
from gristmill.errors import UsageError
from tests.engine.test_history import DAY, ended, walk


async def test_a_task_may_wait_for_others_that_ended_long_ago(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    (done,) = await ended(pool, bare_run, 1, 2 * DAY)
    (dropped,) = await ended(pool, bare_run, 1, 2 * DAY, "cancelled")
    async with pool.acquire() as connection:
        assert (await walk(connection)).tasks == 2
    async with transaction(pool) as connection:
        free, never = await queue.enqueue(
            connection, [NewTask(bare_run, "bare", after=(need,)) for need in (done, dropped)]
        )
        with pytest.raises(UsageError, match="no task 4711") as caught:
            async with connection.transaction():
                await queue.enqueue(connection, [NewTask(bare_run, "bare", after=(done, 4711))])
    assert caught.value.code == "U401"
    async with pool.acquire() as connection:
        assert await queue.abandon(connection) == [never]
    rows = await pool.fetch("select id, state from task order by id")
    assert [tuple(row) for row in rows] == [(free, "available"), (never, "cancelled")]


async def test_the_story_of_a_task_that_is_history_is_told_with_its_last_words(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    (old,) = await ended(pool, bare_run, 1, 2 * DAY)
    (young,) = await ended(pool, bare_run, 1, 0.5 * DAY)
    async with pool.acquire() as connection:
        await walk(connection)
    stories = [await pool.fetchrow(statements("why")["task_story"], task) for task in (old, young)]
    assert [(row["id"], row["state"], row["message"], row["history"]) for row in stories] == [
        (old, "completed", "message", True), (young, "completed", "message", False)
    ]  # fmt: skip
