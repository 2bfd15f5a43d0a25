"""How a worker asks for tasks: free slots, watermarks, turns, suspects, pools with a limit, tasks with locks."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, transaction
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.metrics import Metrics
from gristmill.engine.pacing import Pacing
from gristmill.engine.queue import Claimer, Task

AGEING = statements("ageing")
log = logging.getLogger("gristmill.worker")
RESCAN = 1.0  # seconds; rows that were committed late, or put back at an earlier place, lie below the watermark
MARGIN = 500  # places below the first claimed one: commits that were under way at the same time


class Claims:
    """The claims of one worker. `busy` counts its slots in use; suspects have slots of their own."""

    def __init__(
        self, claimer: Claimer, pools: Mapping[str, int], kinds: Sequence[str], suspect_slots: int, metrics: Metrics,
        turn_every: int = 0,
    ) -> None:  # fmt: skip
        self.claimer = claimer
        self.pools = dict(pools)
        self.kinds = kinds
        self.suspect_slots = suspect_slots
        self.metrics = metrics
        self.turn_every = turn_every  # 0: never
        self._since: Counter[tuple[str, bool]] = Counter()  # claimed since its turn: by pool, with locks or not
        self.busy: dict[str, int] = dict.fromkeys(pools, 0)
        self.suspects = 0
        self.pacing = Pacing(sum(pools.values()))
        self.unanswered: list[uuid.UUID] = []  # tokens of claims whose reply was lost: they may have been committed
        self._limited: list[str] = []
        self._low: dict[str, int] = {}
        self._rescanned = 0.0
        self._locks_lead = False

    def free(self) -> dict[str, int]:
        """Slots that nothing runs in, by pool."""
        return {pool: slots - self.busy[pool] for pool, slots in self.pools.items() if self.busy[pool] < slots}

    def change_pools(self, pools: Mapping[str, int]) -> None:
        """Other slots from the next claim on; what runs in a slot that is gone finishes."""
        self.pools = dict(pools)
        self.busy = {**dict.fromkeys(pools, 0), **self.busy}
        self.pacing.slots = sum(pools.values())
        self.rescan()

    def rescan(self) -> None:
        """The next claim looks below the watermark too."""
        self._rescanned = 0.0

    async def ask(
        self, pool: asyncpg.Pool[Any], line: asyncpg.Connection[Any] | None = None, *, hinted: bool = False
    ) -> list[tuple[Task, bool]]:
        """What can be begun now, and whether it has to run alone (a suspect). What needs nothing special is asked for
        on `line`, if there is one. `hinted`: somebody has just enqueued something; while nothing is under way here, a
        rescan, which asks for other things first, then has another second's time."""
        if self.unanswered:
            async with transaction(pool) as connection:
                await queue.give_back(connection, self.claimer, "the reply to its claim was lost", self.unanswered)
            self.unanswered.clear()
        free = self.free()
        if not free:
            return []
        soon = hinted and not any(self.busy.values())
        rescan = time.monotonic() - self._rescanned > RESCAN * (1 + soon)
        if rescan:
            self._low.clear()
            self._limited = await queue.limited_pools(pool)
            self._rescanned = time.monotonic()
        found: list[tuple[Task, bool]] = []
        try:
            if rescan:
                await self._turns(pool, free, found, locked=False)
                await self._locked_first(pool, free, found)
            await self._held_up(pool, free, found)
            found += [(task, False) for task in await self._plain(pool, line, _left(free, found))]
            await self._apart(pool, free, found, rescan)
        except (*RECONNECT, *REPEAT) as error:
            if not found:
                raise
            log.warning("a second claim failed (%s); what the first has got begins", error or type(error).__name__)
        return found

    async def _held_up(self, pool: asyncpg.Pool[Any], free: dict[str, int], found: list[tuple[Task, bool]]) -> None:
        """Adds to `found` what a quota lets begin."""
        for kind, room in self.pacing.room().items():
            if left := _left(free, found):
                found += [(task, False) for task in await self._claim(pool, left, kinds=[kind], most=room)]

    async def _locked_first(
        self, pool: asyncpg.Pool[Any], free: dict[str, int], found: list[tuple[Task, bool]]
    ) -> None:
        """At every second rescan up to half of the free slots, or tasks with locks would starve behind the others."""
        self._locks_lead = not self._locks_lead
        if self._locks_lead and (left := _left(free, found)):
            await self._locked(pool, {name: (slots + 1) // 2 for name, slots in left.items()}, found)

    async def _locked(self, pool: asyncpg.Pool[Any], wanted: dict[str, int], found: list[tuple[Task, bool]]) -> None:
        before = len(found)
        await self._turns(pool, wanted, found, locked=True)
        if left := _left(wanted, found[before:]):
            tasks = await self._claim(pool, left, locked=True)
            self._since.update((task.pool, True) for task in tasks)
            found += [(task, False) for task in tasks]

    async def _apart(
        self, pool: asyncpg.Pool[Any], free: dict[str, int], found: list[tuple[Task, bool]], rescan: bool
    ) -> None:
        """Adds to `found`, at once after each claim, what needs one of its own: tasks with locks, and suspects."""
        if (left := _left(free, found)) and (rescan or not found):
            await self._locked(pool, left, found)
        if rescan and self.suspects < self.suspect_slots:
            spare = self.suspect_slots - self.suspects
            lanes = dict.fromkeys(self.pools, spare)
            found += [(task, True) for task in await self._claim(pool, lanes, suspects=True, most=spare)]

    async def _turns(
        self, pool: asyncpg.Pool[Any], free: dict[str, int], found: list[tuple[Task, bool]], *, locked: bool
    ) -> None:
        """Of so many tasks of a pool one is the one that waits longest, whatever its priority and that of its run."""
        for name in free:
            if not 0 < self.turn_every <= self._since[name, locked] + 1:
                continue
            oldest = await pool.fetchrow(
                AGEING["oldest_locked" if locked else "oldest"], name, list(self.pacing.open(self.kinds))
            )
            got = await self._claim(pool, {name: 1}, turn=oldest["id"]) if oldest and oldest["free"] else []
            if got or oldest is None:  # else it keeps its turn: its lock is taken, or somebody was quicker
                self._since[name, locked] = 0
            found += [(task, False) for task in got]

    async def _plain(
        self, pool: asyncpg.Pool[Any], line: asyncpg.Connection[Any] | None, free: dict[str, int]
    ) -> list[Task]:
        if not free:
            return []
        began = time.perf_counter()
        tasks = await self._claim(pool, free, line=line, low=self._low)
        spent = time.perf_counter() - began
        self._since.update((task.pool, False) for task in tasks)
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

    async def _claim(
        self, pool: asyncpg.Pool[Any], wanted: dict[str, int], kinds: Sequence[str] | None = None,
        line: asyncpg.Connection[Any] | None = None, **more: Any,
    ) -> list[Task]:  # fmt: skip
        kinds = self.pacing.open(self.kinds) if kinds is None else kinds
        token = uuid.uuid4()
        limited = [name for name in wanted if name in self._limited]
        try:
            if not limited:
                return await queue.claim(line or pool, self.claimer, wanted, kinds, token=token, **more)
            async with transaction(pool) as connection:
                return await queue.claim(connection, self.claimer, wanted, kinds, token=token, limited=True, **more)
        except RECONNECT:
            self.unanswered.append(token)
            self.metrics.incr("claim_error")
            raise

    def taken(self, task: Task, *, alone: bool) -> None:
        self.pacing.taken(task.kind)
        if alone:
            self.suspects += 1
        else:
            self.busy[task.pool] += 1

    def given(self, task: Task, *, alone: bool, sent_away: float | None = None) -> None:
        """Its slot is free. `sent_away`: by a quota, for so many seconds."""
        self.pacing.ended(task.kind, sent_away)
        if alone:
            self.suspects -= 1
        else:
            self.busy[task.pool] -= 1


def _left(free: dict[str, int], found: list[tuple[Task, bool]]) -> dict[str, int]:
    """The slots that are still free after what was found."""
    got = Counter(task.pool for task, _ in found)
    return {name: slots - got[name] for name, slots in free.items() if slots > got[name]}
