"""Runs everything that is available, in this process, to its end: what a worker would do, without waiting for one."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine.attempts import Attempts
from gristmill.engine.claiming import Claims
from gristmill.engine.library import Engine
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.performing import FunctionPerformer
from gristmill.engine.settling import Settler
from gristmill.engine.upkeep import Housekeeping
from gristmill.engine.worker import Performer, Worker, WorkerSettings

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.engine.batch import Batch
    from gristmill.run import Run

SQL = statements("testing")
WHY = statements("why")["held_by"]
HOUSE = frozenset({"advance", "fold", "items", "abandon", "waiting runs", "deadlines", "pauses", "schedules"})
SLOTS = 8  # tasks of a pool at once
MOST_SHOWN = 20
log = logging.getLogger("gristmill.testing")


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to, as task ids: what ended how, what is scheduled for later, and why the rest waits."""

    completed: tuple[int, ...] = ()
    failed: dict[int, str] | None = None
    cancelled: tuple[int, ...] = ()
    later: tuple[int, ...] = ()
    waiting: dict[int, str] | None = None


class DrainFailed(AssertionError):
    """Something failed, or waits for something that no time will bring. `drained` has all of it."""

    def __init__(self, message: str, drained: Drained) -> None:
        super().__init__(message)
        self.drained = drained


async def drain(
    target: Engine | App, run: Run | Batch | int | None = None, *, check: bool = True, limit: float = 60.0
) -> Drained:
    """Performs what is available now, and what follows from it, until nothing is left to do; needs no worker.

    Back-offs are not waited for: what fails is tried again at once, until its attempts are spent. What is scheduled
    for later stays where it is (see `travel`). Other workers may run meanwhile. `run` judges only tasks of this run or
    batch.

    Raises `DrainFailed` when a task failed, or waits for something else than time (a pause, a lock, a function that
    this process does not know), or when it all took longer than `limit` seconds; `check=False` returns in any case.
    """
    performer: Performer
    if isinstance(target, Engine):
        functions = FunctionPerformer(target)
        performer, url, close = functions, target.database_url, functions.close
    else:
        performer, url, close = target.worker().performer, target.url, _nothing
    number = run if isinstance(run, int) or run is None else run.id
    worker = _Drainer(url, performer, number, limit)
    began = await target.pool.fetchval(SQL["clock"])
    try:
        await worker.run(target.pool)
    finally:
        await close()
    drained = await _findings(target.pool, number, began, worker.reasons)
    if check:
        _judge(drained, worker.timed_out, limit)
    return drained


async def _nothing() -> None: ...


class _Drainer(Worker):
    """A worker without a beat that ends when it finds nothing more to do. Its lease outlives the drain."""

    def __init__(self, url: str, performer: Performer, run_id: int | None, limit: float) -> None:
        super().__init__(url, performer, WorkerSettings(lease=limit + 300, beat=3, shutdown=5, name="drain"))
        self.run_id = run_id
        self.limit = limit
        self.timed_out = False
        self.reasons: dict[int, str] = {}

    async def _run(self, pool: asyncpg.Pool[Any]) -> None:
        self.claimer = await self._register(pool)
        self.settler = Settler(pool, self.claimer, self.performer, 100, self.metrics, self._wake.set)
        self.attempts = Attempts(self.claimer, self.performer, self.settler, self.metrics, self._ended)
        house = Housekeeping(
            self.claimer.id, probe=1, confirm=1, grace=1, metrics=DatabaseMetrics(), on_rescue=lambda: None,
            keep_finished=0, keep_history=0,
        )  # fmt: skip
        self.duties = [duty for duty in house.duties if duty.name in HOUSE]
        settling = asyncio.create_task(self.settler.run())
        try:
            async with asyncio.timeout(self.limit):
                await self._until_idle(pool)
        except TimeoutError:
            self.timed_out = True
        finally:
            self._at_once.set()
            await self.attempts.finish(0, self._at_once)
            await self.settler.finish(settling, 5)
            await self._ask_why(pool)
            await self._leave(pool)

    async def _until_idle(self, pool: asyncpg.Pool[Any]) -> None:
        """Until two rounds in a row have found nothing: the house may open barriers, end runs, start others."""
        idle = 0
        while idle < 2:
            async with pool.acquire() as connection:  # first: what is past its deadline must not be begun
                for duty in self.duties:
                    await duty.do(connection)
            pools = {row["pool"]: SLOTS for row in await pool.fetch(SQL["pools_of_open"])} or {"*": SLOTS}
            await pool.execute(SQL["set_pools"], self.claimer.id, json.dumps(pools))
            self.claims = Claims(self.claimer, pools, self.performer.kinds, SLOTS, self.metrics)
            worked = await self._perform_available(pool)
            worked |= bool(await pool.fetch(SQL["bring_forward"], self.run_id))
            idle = 0 if worked else idle + 1

    async def _perform_available(self, pool: asyncpg.Pool[Any]) -> bool:
        worked = False
        while True:
            self._wake.clear()
            self.claims.rescan()
            claimed = await self.claims.ask(pool)
            for task, alone in claimed:
                self.claims.taken(task, alone=alone)
                self.attempts.start(task, alone=alone)
            worked |= bool(claimed)
            if claimed:
                await asyncio.sleep(0)
                continue
            if not self.attempts.running and not await pool.fetchval(SQL["holds_any"], self.claimer.id):
                return worked
            try:
                await asyncio.wait_for(self._wake.wait(), 0.5)
            except TimeoutError:
                await self.attempts.look(pool)

    async def _ask_why(self, pool: asyncpg.Pool[Any]) -> None:
        """While our row still says what this process could have done."""
        for row in (await pool.fetch(SQL["still_open"], self.run_id))[:MOST_SHOWN]:
            held = await pool.fetchrow(WHY, row["run_id"], row["id"])
            self.reasons[row["id"]] = held["reason"] if held else f"it is {row['state']}"


async def _findings(pool: asyncpg.Pool[Any], run_id: int | None, began: datetime, reasons: dict[int, str]) -> Drained:
    ended = await pool.fetch(SQL["ended_since"], run_id, began)
    opened = await pool.fetch(SQL["still_open"], run_id)

    def story(row: Any) -> str:
        return f"{row['kind']} {row['payload']:.200} {row['state']}: {row['error']}: {row['message']}"

    return Drained(
        completed=tuple(row["id"] for row in ended if row["state"] == "completed"),
        failed={row["id"]: story(row) for row in ended if row["state"] in ("failed", "quarantined")},
        cancelled=tuple(row["id"] for row in ended if row["state"] == "cancelled"),
        later=tuple(row["id"] for row in opened if row["later"] and row["state"] == "available"),
        waiting={
            row["id"]: f'{row["kind"]} {row["payload"]:.200}: {reasons.get(row["id"], "?")}'
            for row in opened if not (row["later"] and row["state"] == "available")
        },
    )  # fmt: skip


def _judge(drained: Drained, timed_out: bool, limit: float) -> None:
    lines: list[str] = []
    if timed_out:
        lines.append(f"not done after {limit:.0f} s")
    if drained.failed:
        lines += [f"{len(drained.failed)} tasks failed:", *_some(drained.failed)]
    # What waits for a task that is scheduled for later waits for time, too.
    if drained.waiting and not drained.later:
        lines += [f"{len(drained.waiting)} tasks still wait:", *_some(drained.waiting)]
    if lines:
        raise DrainFailed("\n".join(lines), drained)


def _some(stories: dict[int, str]) -> Sequence[str]:
    shown = [f"  task {number}: {story}" for number, story in list(stories.items())[:MOST_SHOWN]]
    return [*shown, f"  and {len(stories) - MOST_SHOWN} more"] if len(stories) > MOST_SHOWN else shown
