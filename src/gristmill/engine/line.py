"""The connection on which a worker asks for tasks, and hears that there are new ones.

It is one of the pool's, kept for as long as the worker works: between somebody's commit and our claim there is no other
process, and no wait for a connection. Its session never plans a claim anew: that costs more than the claim
(docs/decisions/0008-engine-speed.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, pooled
from gristmill.engine.queue import WAKE_CHANNEL

LEAST = 3  # connections of the pool, or others would have to wait for ours: one more settles, one looks after claims
# One plan for every claim, and one that no statistics, old or missing, can turn into a walk through the whole table.
PLANS = """
set plan_cache_mode = force_generic_plan; set enable_seqscan = off;
set enable_hashjoin = off; set enable_mergejoin = off;
"""


class Line:
    """`told` hears what hints say: "" tells of new work, "cancel" of claims that were taken away."""

    def __init__(self, pool: asyncpg.Pool[Any], url: str, told: Callable[[str], None]) -> None:
        self._pool = pool
        self._own = pool.get_max_size() >= LEAST and not pooled(url)
        self._told = told
        self._connection: asyncpg.pool.PoolConnectionProxy[Any] | None = None

    async def open(self) -> asyncpg.Connection[Any] | None:
        """What to claim on; None where sessions are shared or connections few: there polls find work. Raises what
        opening a connection raises."""
        if self._connection is None and self._own:
            connection = await self._pool.acquire()
            try:
                await connection.execute(PLANS)
                await connection.add_listener(WAKE_CHANNEL, self._hear)
                connection.add_termination_listener(self._ended)
            except BaseException:
                await self._end(connection)
                raise
            self._connection = connection
        return self._connection

    async def cut(self) -> None:
        """Gives it up after an error, or at the end: nobody uses it any more in the state that it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._end(connection)

    async def _end(self, connection: asyncpg.pool.PoolConnectionProxy[Any]) -> None:
        with contextlib.suppress(*RECONNECT):  # it has ended already
            connection.terminate()
        await self._pool.release(connection)

    def _ended(self, _connection: object) -> None:
        self._connection = None
        self._told("")  # so that the next one is opened now

    def _hear(self, _connection: object, _pid: int, _channel: str, what: object) -> None:
        self._told(str(what))
