"""Settling: finished attempts are committed in batches, with everything that hangs off them, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, reconnecting, transaction
from gristmill.engine import items, queue
from gristmill.engine.metrics import Metrics
from gristmill.engine.performer import Outcome, Performer
from gristmill.engine.queue import Claimer, Failure, Task

log = logging.getLogger("gristmill.worker")
HINTS_EVERY = 0.05  # seconds
Finished = list[tuple[Task, Outcome]]


class Settler:
    """Takes finished attempts and commits them. What gathers during one commit goes into the next."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], claimer: Claimer, performer: Performer, batch: int, metrics: Metrics,
        on_settled: Callable[[], None],
    ) -> None:  # fmt: skip
        self.pool = pool
        self.claimer = claimer
        self.performer = performer
        self.batch = batch
        self.metrics = metrics
        self.on_settled = on_settled
        self.lease_lost = 0
        self._hinting: asyncio.Task[None] | None = None
        self._waiting: Finished = []
        self._any = asyncio.Event()
        self._last = False

    @property
    def backlog(self) -> int:
        """Attempts that have finished and are not committed yet."""
        return len(self._waiting)

    def put(self, task: Task, outcome: Outcome) -> None:
        self._waiting.append((task, outcome))
        self._any.set()

    async def finish(self, settling: asyncio.Task[None], timeout: float) -> None:
        """Commits what is left and ends `run`; gives up after `timeout` seconds: what is not settled runs again."""
        self._last = True
        self._any.set()
        done, _ = await asyncio.wait((settling,), timeout=timeout)
        if not done:
            log.warning("%d results could not be committed in time; their tasks will run again", self.backlog)
        elif (error := settling.exception()) is not None:
            raise error

    async def run(self) -> None:
        """Until `finish`: takes what there is, at most a batch, and commits it."""
        while True:
            if not self._waiting:
                if self._last:
                    return
                self._any.clear()
                await self._any.wait()
                continue
            batch, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            await self._commit(batch)
            self.on_settled()

    async def _commit(self, batch: Finished) -> None:
        """Repeats until the database has answered; a body that it refuses is found by halving the batch."""
        first_try = True
        async for _ in reconnecting():
            try:
                if not first_try:  # the reply may have been lost: what is on record with our token is done
                    mine = await queue.settled_by(self.pool, [task for task, _ in batch])
                    batch = [entry for entry in batch if entry[0].id not in mine]
                if batch:
                    await self._commit_once(batch)
                return
            except (*RECONNECT, *REPEAT) as error:
                first_try = False
                log.warning("settling %d tasks again: %s", len(batch), error or type(error).__name__)
            except Exception as error:
                if len(batch) == 1:
                    await self._refuse(batch[0][0], error)
                    return
                middle = len(batch) // 2
                await self._commit(batch[:middle])
                await self._commit(batch[middle:])
                return

    async def _commit_once(self, batch: Finished) -> None:
        async with self.pool.acquire() as connection, connection.transaction():
            done = await queue.settle(connection, self.claimer, [(task, outcome.name) for task, outcome in batch])
            finished = [entry for entry in batch if entry[0].id in done]
            following = await self.performer.save(connection, finished) if finished else ()
            if following:
                await queue.enqueue(connection, following)
            last = {task.item_id for task, _ in finished if task.item_id is not None}
            last -= {new.item_id for new in following}
            if last:  # nothing follows here: perhaps that was the last of it
                await items.check_items(connection, [item for item in last if item is not None])
        if following:
            self._hint()
        for kind, count in Counter(task.kind for task, _ in finished).items():
            self.metrics.incr("step_completed", count, kind=kind)
        lost = len(batch) - len(done)
        if lost:
            self.lease_lost += lost
            self.metrics.incr("lease_lost", lost, phase="complete")
            log.warning("%d results were dropped: their leases had been lost", lost)

    def _hint(self) -> None:
        """At most one hint in `HINTS_EVERY` seconds, whatever is settled."""
        if self._hinting is None or self._hinting.done():
            self._hinting = asyncio.create_task(self._hint_soon())

    async def _hint_soon(self) -> None:
        await asyncio.sleep(HINTS_EVERY)
        with contextlib.suppress(*RECONNECT, asyncpg.PostgresError):
            await queue.hint(self.pool)

    async def _refuse(self, task: Task, error: Exception) -> None:
        log.error("task %d: its result cannot be saved", task.id, exc_info=error)
        failure = Failure("T600", type(error).__name__, f"its result cannot be saved: {error}", retry=False)
        async for _ in reconnecting():
            try:
                async with transaction(self.pool) as connection:
                    await queue.fail(connection, self.claimer, task, failure)
                self.metrics.incr("step_failed", kind=task.kind)
                return
            except (*RECONNECT, *REPEAT):
                continue
