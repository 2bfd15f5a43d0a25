"""How a worker asks for tasks: free slots, watermarks, suspects, pools with a limit, tasks with locks."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, transaction
from gristmill.engine import queue
from gristmill.engine.metrics import Metrics
from gristmill.engine.queue import Claimer, Task

RESCAN = 1.0  # seconds; rows that were committed late, or put back at an earlier place, lie below the watermark
MARGIN = 500  # places below the first claimed one: commits that were under way at the same time


class Claims:
    """The claims of one worker. `busy` counts its slots in use; suspects have slots of their own."""

    def __init__(
        self, claimer: Claimer, pools: Mapping[str, int], kinds: Sequence[str], suspect_slots: int, metrics: Metrics
    ) -> None:
        self.claimer = claimer
        self.pools = pools
        self.kinds = kinds
        self.suspect_slots = suspect_slots
        self.metrics = metrics
        self.busy: dict[str, int] = dict.fromkeys(pools, 0)
        self.suspects = 0
        self.unanswered: list[uuid.UUID] = []  # tokens of claims whose reply was lost: they may have been committed
        self._limited: list[str] = []
        self._low: dict[str, int] = {}
        self._rescanned = 0.0

    def free(self) -> dict[str, int]:
        """Slots that nothing runs in, by pool."""
        return {pool: self.pools[pool] - busy for pool, busy in self.busy.items() if busy < self.pools[pool]}

    def rescan(self) -> None:
        """The next claim looks below the watermark too."""
        self._rescanned = 0.0

    async def ask(self, pool: asyncpg.Pool[Any]) -> list[tuple[Task, bool]]:
        """What can be begun now, and whether it has to run alone (a suspect)."""
        if self.unanswered:
            async with transaction(pool) as connection:
                await queue.give_back(connection, self.claimer, "the reply to its claim was lost", self.unanswered)
            self.unanswered.clear()
        free = self.free()
        if not free:
            return []
        rescan = time.monotonic() - self._rescanned > RESCAN
        if rescan:
            self._low.clear()
            self._limited = await queue.limited_pools(pool)
            self._rescanned = time.monotonic()
        tasks = await self._plain(pool, free)
        left = {name: slots - sum(task.pool == name for task in tasks) for name, slots in free.items()}
        left = {name: slots for name, slots in left.items() if slots}
        if left and (rescan or not tasks):
            tasks += await self._claim(pool, left, locked=True)
        found = [(task, False) for task in tasks]
        if rescan and self.suspects < self.suspect_slots:
            spare = self.suspect_slots - self.suspects
            lanes = dict.fromkeys(self.pools, spare)
            found += [(task, True) for task in await self._claim(pool, lanes, suspects=True, most=spare)]
        return found

    async def _plain(self, pool: asyncpg.Pool[Any], free: dict[str, int]) -> list[Task]:
        began = time.perf_counter()
        tasks = await self._claim(pool, free, low=self._low)
        spent = time.perf_counter() - began
        got = Counter(task.pool for task in tasks)
        for name in free:
            self.metrics.incr("claim_attempts", pool=name)
            self.metrics.observe("claim_duration", spent, pool=name)
            if got[name]:
                self.metrics.incr("claim_success", got[name], pool=name)
                self._low[name] = min(task.seq for task in tasks if task.pool == name) - MARGIN
            else:
                self.metrics.incr("claim_idle", pool=name)
                self._low.pop(name, None)
        return tasks

    async def _claim(self, pool: asyncpg.Pool[Any], wanted: dict[str, int], **more: Any) -> list[Task]:
        token = uuid.uuid4()
        limited = [name for name in wanted if name in self._limited]
        try:
            if not limited:
                return await queue.claim(pool, self.claimer, wanted, self.kinds, token=token, **more)
            async with transaction(pool) as connection:
                return await queue.claim(
                    connection, self.claimer, wanted, self.kinds, token=token, limited=True, **more
                )
        except RECONNECT:
            self.unanswered.append(token)
            self.metrics.incr("claim_error")
            raise

    def taken(self, task: Task, *, alone: bool) -> None:
        if alone:
            self.suspects += 1
        else:
            self.busy[task.pool] += 1

    def given(self, task: Task, *, alone: bool) -> None:
        if alone:
            self.suspects -= 1
        else:
            self.busy[task.pool] -= 1
