"""A worker without a process: claims, performs and settles in the test's own loop, one task after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from gristmill.app import App
from gristmill.db.database import transaction
from gristmill.engine import queue, workflow
from gristmill.engine.performer import Outcome
from gristmill.engine.queue import Claimer, Failure, Task
from gristmill.engine.retry import Policy
from gristmill.errors import Busy, TransientError
from gristmill.performer import RecordPerformer
from gristmill.run import Progress, Run
from tests.engine.conftest import register


class Hand:
    """`await hand.drain(run)` works until the run has ended. `order` may rearrange what was claimed."""

    def __init__(self, app: App, claimer: Claimer) -> None:
        self.app = app
        self.claimer = claimer
        self.performer = RecordPerformer(
            app.pool, app.blobs, app.models, app.settings.language, prompts=app.settings.prompts,
            services={"docling": app.settings.docling_url} if app.settings.docling_url else {},
        )  # fmt: skip
        self.order: Callable[[list[Task]], list[Task]] = list

    async def claim(self) -> list[Task]:
        slots = {"*": 100, "parse": 100, "model": 100}
        return self.order(await queue.claim(self.app.pool, self.claimer, slots, self.performer.kinds))

    async def settle(self, *finished: tuple[Task, Outcome]) -> set[int]:
        async with transaction(self.app.pool) as connection:
            named = [(task, outcome.name) for task, outcome in finished]
            done = await queue.settle(connection, self.claimer, named)
            following = await self.performer.save(connection, finished)
            await queue.enqueue(connection, following)
            left = {task.item_id for task, _ in finished} - {task.item_id for task in following}
            await workflow.check_items(connection, [item for item in left if item is not None])
        return done

    async def work(self) -> list[tuple[Task, Outcome | Exception]]:
        """Everything that can be claimed, until nothing can; returns what came of each task."""
        seen: list[tuple[Task, Outcome | Exception]] = []
        while tasks := await self.claim():
            for task in tasks:
                try:
                    async with asyncio.timeout((await self.performer.policy(task)).timeout) as clock:
                        outcome = await self.performer.perform(task)
                    await self.settle((task, outcome))
                    seen.append((task, outcome))
                except Busy as busy:
                    await queue.release(self.app.pool, [(task, 3600.0, busy.reason)])
                    seen.append((task, busy))
                except Exception as problem:
                    late = isinstance(problem, TimeoutError) and clock.expired()
                    error = TransientError("it took longer than its limit", code="T310") if late else problem
                    failure = Policy(backoff=0.0).judge(error)
                    assert isinstance(failure, Failure)
                    await queue.fail(self.app.pool, self.claimer, task, failure)
                    seen.append((task, error))
        return seen

    async def drain(self, run: Run) -> tuple[Progress, list[Any]]:
        """Until the run has ended: its progress, and what came of each task."""
        seen = []
        while not (await run.progress()).ended:
            done = await self.work()
            async with self.app.pool.acquire() as connection:
                moved = await workflow.advance(connection, run.id)
            assert done or moved, f"{run.name} stands still: {await run.held_by()}"
            seen += done
        return await run.wait(), seen


@asynccontextmanager
async def hand_of(app: App) -> AsyncIterator[Hand]:
    hand = Hand(app, await register(app.pool, lease=3600.0))
    yield hand
    await hand.performer.close()
