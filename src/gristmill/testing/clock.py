"""Time travel: the database's clock cannot be moved, so what waits for a time is moved towards us instead."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.engine.library import Engine

SQL = statements("testing")


async def travel(
    target: Engine | App, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
) -> None:
    """Lets time pass for everything that waits: forward only, and at once.

    Moved are `run_at` and `deadline` of tasks that are open and not running, the ends of locks that are no task's, the
    rests of operators that crashed too often, and the next and last ticks of schedules. Not moved are leases of workers
    (a jump must not kill them), running tasks, events, and anything that has ended. Raises `UsageError` U550 for a jump
    back. What has become due is performed by the next worker, or by `drain`.
    """
    jump = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if jump <= timedelta():
        raise UsageError("time travels forward only", code="U550", hint="travel(engine, hours=3)")
    async with transaction(target.pool) as connection:
        for name in ("travel_tasks", "travel_locks", "travel_breakers", "travel_schedules"):
            await connection.execute(SQL[name], jump)
    await queue.hint(target.pool)
