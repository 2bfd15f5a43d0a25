"""What any process may do to keep the house: rescue, fold counters, number events, open barriers, end runs."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.engine import queue, workflow

SQL = statements("upkeep")
FOLD_CLASS = 0x6772_6966
log = logging.getLogger("gristmill.upkeep")


async def fold(connection: asyncpg.Connection[Any]) -> bool:
    """Sums counter deltas and numbers new events, if nobody else is at it; returns whether this call did."""
    async with connection.transaction():
        if not await connection.fetchval(SQL["try_fold"], FOLD_CLASS):
            return False
        await connection.execute(SQL["fold_counters"])
        await connection.execute(SQL["number_events"])
        return True


async def advance_runs(connection: asyncpg.Connection[Any]) -> None:
    """Opens barriers that are due and ends runs in which nothing is open."""
    for row in await connection.fetch(workflow.SQL["sealed_runs"]):
        await workflow.advance(connection, row["id"])


async def keep_up(
    connection: asyncpg.Connection[Any], my_id: int, *, probe: float, confirm: float, on_rescue: Callable[[], None]
) -> None:
    """Runs until the connection breaks or the task is cancelled; one failing duty does not stop the others."""

    async def rescue() -> None:
        if await queue.rescue(connection, my_id, confirm):
            on_rescue()

    duties: tuple[tuple[str, Callable[[], Awaitable[Any]]], ...] = (
        ("rescue", rescue),
        ("advance", lambda: advance_runs(connection)),
        ("fold", lambda: fold(connection)),
    )
    while True:
        for name, duty in duties:
            try:
                await duty()
            except REPEAT as error:
                log.debug("%s: %s", name, error)
            except RECONNECT:
                raise
            except asyncpg.PostgresError:
                log.exception("%s failed; it is tried again", name)
        await asyncio.sleep(probe * random.uniform(0.8, 1.2))
