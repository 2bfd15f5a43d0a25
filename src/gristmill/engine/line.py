"""The connection on which a worker asks for tasks, and hears that there are new ones.

It is one of the pool's, kept for as long as the worker works: between somebody's commit and our claim there is no other
process, and no wait for a connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, pooled
from gristmill.engine.queue import WAKE_CHANNEL

LEAST = 3  # connections of the pool, or others would have to wait for ours: one more settles, one looks after claims


class Line:
    """`told` hears what hints say: "" tells of new work, "cancel" of claims that were taken away."""

    def __init__(self, pool: asyncpg.Pool[Any], url: str, told: Callable[[str], None]) -> None:
        self._pool = pool
        self._own = pool.get_max_size() >= LEAST and not pooled(url)  # else the poll finds work
        self._told = told
        self._connection: asyncpg.pool.PoolConnectionProxy[Any] | None = None

    async def open(self) -> asyncpg.Pool[Any] | asyncpg.Connection[Any]:
        """What to claim with. Raises what opening a connection raises."""
        if not self._own:
            return self._pool
        if self._connection is None:
            connection = await self._pool.acquire()
            try:
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
