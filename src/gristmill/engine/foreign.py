"""Other people's connections: tasks are made inside the transaction that they have open, with the very same SQL.

asyncpg connections are used as they are. psycopg's (3.2 or newer, `pip install "gristmill[psycopg]"`) take our numbered
parameters through its raw cursors. Nothing of the session is changed, so every statement names our schema.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

from gristmill.errors import UsageError

if TYPE_CHECKING:
    import psycopg

    Foreign = asyncpg.Connection[Any] | psycopg.AsyncConnection[Any] | psycopg.Connection[Any]


class PsycopgConnection:
    """What the queue asks of a connection (`fetch`, `fetchval`, `execute`), on top of a connection of psycopg."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._blocking = not hasattr(connection, "__aenter__")

    async def fetch(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        from psycopg import AsyncRawCursor, RawCursor
        from psycopg.rows import dict_row

        values = [_uniform(value) for value in arguments]
        if self._blocking:

            def run() -> list[dict[str, Any]]:
                with RawCursor(self._connection, row_factory=dict_row) as cursor:
                    cursor.execute(sql, values, prepare=False)
                    return cursor.fetchall() if cursor.description else []

            return await asyncio.to_thread(run)
        async with AsyncRawCursor(self._connection, row_factory=dict_row) as cursor:
            await cursor.execute(sql, values, prepare=False)
            return await cursor.fetchall() if cursor.description else []

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        rows = await self.fetch(sql, *arguments)
        return next(iter(rows[0].values())) if rows else None

    async def execute(self, sql: str, *arguments: Any) -> None:
        await self.fetch(sql, *arguments)


def _uniform(value: Any) -> Any:
    """psycopg sends a list with one type for all: whole numbers among fractions become fractions."""
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and any(type(part) is float for part in value)
    ):
        return [float(part) if type(part) is int else part for part in value]
    return value


def adapted(connection: Any) -> Any:
    """A connection as the queue needs it. Raises `UsageError` U541 for what is none, U542 for an old psycopg."""
    inner = getattr(connection, "driver_connection", None)  # SQLAlchemy's raw connection and asyncpg's pool proxy
    if inner is not None:
        connection = inner
    if isinstance(connection, asyncpg.Connection) or hasattr(connection, "fetchval"):
        return connection
    psycopg = sys.modules.get("psycopg")  # who has such a connection has imported it
    if psycopg is not None and isinstance(connection, psycopg.AsyncConnection | psycopg.Connection):
        if not hasattr(psycopg, "AsyncRawCursor"):
            raise UsageError(f"psycopg {psycopg.__version__} is too old to enqueue through it", code="U542",
                             hint='pip install "gristmill[psycopg]" (3.2 or newer)')  # fmt: skip
        return PsycopgConnection(connection)
    raise UsageError(
        f"cannot enqueue through a {type(connection).__module__}.{type(connection).__name__}", code="U541",
        hint="pass a connection of asyncpg or psycopg; with SQLAlchemy: "
             "(await (await session.connection()).get_raw_connection()).driver_connection",
        safe="nothing was enqueued",
    )  # fmt: skip
