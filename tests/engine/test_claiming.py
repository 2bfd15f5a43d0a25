"""How a worker asks for tasks when the database fails between two of its claims."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import RECONNECT
from gristmill.engine.claiming import Claims
from gristmill.engine.metrics import LoggingMetrics
from tests.engine.conftest import Enqueue, register


class CutPool:
    """The real pool, whose connection the server ends right before the n-th claim is sent."""

    def __init__(self, pool: asyncpg.Pool[Any], cut_before: int) -> None:
        self.pool = pool
        self.cut_before = cut_before
        self.claims = 0

    def acquire(self) -> Any:
        return self.pool.acquire()

    async def fetch(self, query: str, *arguments: Any) -> Any:
        async with self.pool.acquire() as connection:
            if "skip locked" in query:
                self.claims += 1
                if self.claims == self.cut_before:
                    await self.pool.execute("select pg_terminate_backend($1, 5000)", connection.get_server_pid())
            return await connection.fetch(query, *arguments)


async def asking(claims: Claims, pool: CutPool) -> list[int]:
    async with asyncio.timeout(10):
        return [task.id for task, _ in await claims.ask(pool)]  # type: ignore[arg-type]


async def test_what_a_claim_has_got_begins_also_when_the_next_claim_fails(
    pool: asyncpg.Pool[Any], enqueue: Enqueue
) -> None:
    ids = await enqueue({}, {})
    claims = Claims(await register(pool), {"*": 4}, ["bare"], 2, LoggingMetrics())
    assert sorted(await asking(claims, CutPool(pool, cut_before=3))) == ids
    assert len(claims.unanswered) == 1  # and what the failed one may have taken is given back by the next


async def test_a_first_claim_that_fails_is_raised_and_given_back_by_the_next(
    pool: asyncpg.Pool[Any], enqueue: Enqueue
) -> None:
    ids = await enqueue({}, {})
    claims = Claims(await register(pool), {"*": 4}, ["bare"], 2, LoggingMetrics())
    with pytest.raises(RECONNECT):
        await asking(claims, CutPool(pool, cut_before=1))
    assert len(claims.unanswered) == 1
    assert sorted(await asking(claims, CutPool(pool, cut_before=0))) == ids
    assert not claims.unanswered


async def test_a_task_with_a_lock_does_not_starve_behind_a_backlog_of_tasks_without(
    pool: asyncpg.Pool[Any], enqueue: Enqueue
) -> None:
    await enqueue(*[{}] * 20)
    (locked,) = await enqueue({}, lock="store:one")
    claims = Claims(await register(pool), {"*": 1}, ["bare"], 2, LoggingMetrics())
    got = []
    for _ in range(4):
        claims.rescan()  # once a second in a worker
        got += [task.id for task, _ in await claims.ask(pool)]
    assert locked in got
    assert len(got) == 4
