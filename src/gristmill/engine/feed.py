"""Following events as they come: any number of readers, each with a cursor of his own; nobody waits for any of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.engine import events as recorded
from gristmill.engine import upkeep
from gristmill.engine.events import Event

SHORTEST, LONGEST = 0.1, 1.0  # seconds between two looks: the longer nothing happens, the longer


async def events(
    pool: asyncpg.Pool[Any], after: int | None = None, *, run_id: int | None = None, names: Sequence[str] = ("*",)
) -> AsyncIterator[Event]:
    """Every event behind `after` (a `seq`; None: from now on), in order, until the caller breaks off or is cancelled.

    `names` are names or patterns ("run.end", "item.*"); `run_id` limits it to one run and to what belongs to no run.
    Waits while the database is away. An exception or a slow body of the loop costs nobody but this reader: who keeps
    the last `seq` that he has dealt with goes on behind it. Raises `UsageError` U350 for a pattern that fits nothing.
    """
    patterns = recorded.check_patterns(names)
    seq, pause = after, SHORTEST
    while True:
        found: list[Event] = []
        try:
            if await recorded.unnumbered(pool):
                await _number(pool)
            if seq is None:
                seq = await pool.fetchval(recorded.SQL["last_event"])
            found, seq = await recorded.after(pool, seq or 0, run_id=run_id, names=patterns)
        except (*RECONNECT, *REPEAT):
            pass  # the cursor stays where it was
        for event in found:
            yield event
        pause = SHORTEST if found else min(LONGEST, pause * 1.5)
        if not found:
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))


async def _number(pool: asyncpg.Pool[Any]) -> None:
    """Where no worker runs, nobody else would do it."""
    async with pool.acquire() as connection:
        await upkeep.fold(connection)
