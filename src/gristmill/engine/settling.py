"""Settling: finished attempts are committed in batches, with everything that hangs off them, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, reconnecting
from gristmill.engine import queue
from gristmill.engine.queue import Claimer, Failure, Task

if TYPE_CHECKING:
    from gristmill.engine.worker import Outcome, Performer

log = logging.getLogger("gristmill.worker")
HINTS_EVERY = 0.05  # seconds
Finished = list[tuple[Task, "Outcome"]]


class Settler:
    """Takes finished attempts and commits them. What gathers during one commit goes into the next."""

    def __init__(
        self,
        pool: asyncpg.Pool[Any],
        claimer: Claimer,
        performer: Performer,
        batch: int,
        on_settled: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.claimer = claimer
        self.performer = performer
        self.batch = batch
        self.on_settled = on_settled
        self.lease_lost = 0
        self._hinting: asyncio.Task[None] | None = None
        self._queue: asyncio.Queue[tuple[Task, Outcome] | None] = asyncio.Queue()

    @property
    def backlog(self) -> int:
        """Attempts that have finished and are not committed yet."""
        return self._queue.qsize()

    def put(self, task: Task, outcome: Outcome) -> None:
        self._queue.put_nowait((task, outcome))

    async def finish(self, settling: asyncio.Task[None]) -> None:
        """Commits what is left and ends `run`."""
        self._queue.put_nowait(None)
        await settling

    async def run(self) -> None:
        """Until `finish`: takes what there is, at most a batch, and commits it."""
        while (first := await self._queue.get()) is not None:
            batch = [first]
            last = False
            while len(batch) < self.batch and not self._queue.empty():
                entry = self._queue.get_nowait()
                if entry is None:
                    last = True
                    break
                batch.append(entry)
            await self._commit(batch)
            self.on_settled()
            if last:
                return

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
            await queue.enqueue(connection, following)
        if following:
            self._hint()
        lost = len(batch) - len(done)
        if lost:
            self.lease_lost += lost
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
                await queue.fail(self.pool, self.claimer, task, failure)
                return
            except (*RECONNECT, *REPEAT):
                continue
