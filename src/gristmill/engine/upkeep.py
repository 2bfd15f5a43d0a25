"""What any process may do to keep the house: rescue, fold counters, number events, open barriers, end runs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.engine import history, hooks, items, locks, queue, schedule, workflow
from gristmill.engine.events import FOLD_CLASS
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.errors import GristmillError

SQL = statements("upkeep")
log = logging.getLogger("gristmill.upkeep")


async def fold(connection: asyncpg.Connection[Any]) -> bool:
    """Sums counter deltas, numbers new events and makes the tasks of their hooks, if nobody else is at it; returns
    whether this call did."""
    async with connection.transaction():
        if not await connection.fetchval(SQL["try_fold"], FOLD_CLASS):
            return False
        if moved := await connection.fetch(SQL["fold_counters"]):
            await connection.execute(SQL["note_flow"], *map(list, zip(*moved, strict=True)))
        await hooks.number_events(connection)
        return True


async def advance_runs(connection: asyncpg.Connection[Any]) -> None:
    """Opens barriers that are due and ends runs in which nothing is open."""
    for row in await connection.fetch(workflow.SQL["sealed_runs"]):
        await workflow.advance(connection, row["id"])


@dataclass(frozen=True, slots=True)
class Duty:
    """Something that whoever keeps house does about every `every` seconds over the whole fleet."""

    name: str
    every: float
    do: Callable[[asyncpg.Connection[Any]], Awaitable[Any]]


class Housekeeping:
    """The duties of one process, over one connection. Times in seconds.

    Every live worker keeps house, so that no single one is needed; each does a duty the less often, the more there are.
    Only the look for the dead is everybody's at every round. `grace` is how long a connection has to live before its
    owner judges anybody by a lease or a lock: after an outage all leases look over, and who came back first must not
    bury the rest.
    """

    def __init__(
        self, my_id: int, *, probe: float, confirm: float, grace: float, metrics: DatabaseMetrics,
        on_rescue: Callable[[], None], keep_finished: float, keep_history: float,
    ) -> None:  # fmt: skip
        self.my_id = my_id
        self.probe = probe
        self.confirm = confirm
        self.grace = grace
        self.metrics = metrics
        self.on_rescue = on_rescue
        self.duties: tuple[Duty, ...] = (
            Duty("advance", probe, advance_runs),
            Duty("fold", probe, fold),
            Duty("items", probe, items.finish_items),
            Duty("abandon", probe, queue.abandon),
            Duty("waiting runs", 1.0, workflow.start_waiting),
            Duty("deadlines", 1.0, queue.expire),
            Duty("pauses", 1.0, queue.park),
            Duty("orphans", 30.0, queue.take_in),
            Duty("schedules", 0.5, schedule.due),
            Duty("locks", 5.0, self._sweep_locks),
            Duty("history", 0.5, lambda connection: history.archive(connection, keep_finished, keep_history)),
            Duty("flow", 3600.0, lambda connection: connection.execute(SQL["forget_flow"], keep_history)),
            Duty("workers", 60.0, lambda connection: connection.execute(SQL["forget_workers"], keep_history)),
        )

    async def run(self, connection: asyncpg.Connection[Any]) -> None:
        """Until the connection breaks or the task is cancelled; one failing duty does not stop the others."""
        began = time.monotonic()
        due = {duty.name: began + random.uniform(0, duty.every) for duty in self.duties}
        fleet, counted = 1, 0.0
        while True:
            judging = time.monotonic() - began > self.grace
            await self._do("rescue", self._rescue, connection, judging)
            await self._do("metrics", self.metrics.upkeep, connection)
            if time.monotonic() - counted > 5:
                fleet, counted = await connection.fetchval(SQL["count_workers"]), time.monotonic()
            for duty in self.duties:
                if time.monotonic() >= due[duty.name]:
                    await self._do(duty.name, duty.do, connection)
                    # Two at it on the average: one of them may be frozen.
                    due[duty.name] = time.monotonic() + duty.every * max(1.0, fleet / 2) * random.uniform(0.8, 1.2)
            await asyncio.sleep(self.probe * random.uniform(0.8, 1.2))

    async def _do(self, name: str, duty: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        try:
            await duty(*arguments)
        except REPEAT as error:
            log.debug("%s: %s", name, error)
        except RECONNECT:
            raise
        except (asyncpg.PostgresError, GristmillError):
            log.exception("%s failed; it is tried again", name)

    async def _rescue(self, connection: asyncpg.Connection[Any], judging: bool) -> None:
        buried = await queue.rescue(connection, self.my_id, self.confirm, certain_only=not judging)
        if buried:
            self.metrics.incr("worker_reaped", len(buried))
            self.metrics.incr("step_reset_by_reaper", sum(buried.values()))
            self.on_rescue()

    async def _sweep_locks(self, connection: asyncpg.Connection[Any]) -> None:
        swept = await locks.sweep_expired(connection)
        if swept:
            self.metrics.incr("resource_lock_swept", swept)
