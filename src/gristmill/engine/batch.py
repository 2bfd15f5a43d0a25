"""Batches: many tasks with one progress, one end and one event for it. To the rest of the system a batch is a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gristmill.db.database import repeating, transaction
from gristmill.db.statements import statements
from gristmill.engine import queue, workflow
from gristmill.engine.orders import Order, TaskHandle, order
from gristmill.engine.state import STATES
from gristmill.engine.workflow import ENDED, NewRun, Step
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.engine.library import Engine

SQL = statements("library")
CHUNK = 1000  # tasks a statement


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How a batch stands. `counts` is state -> tasks. `state` is waiting, running, paused, or how it ended: completed,
    partial (some tasks failed), failed (all did), cancelled."""

    state: str
    counts: Mapping[str, int]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def open(self) -> int:
        """Tasks that have not ended."""
        return sum(self.counts.get(state, 0) for state in ("waiting", "available", "running"))


class Batch:
    """`async with engine.batch("import") as batch:` collects tasks and makes all of them in one transaction at its end.

    So either the whole batch exists or nothing of it does: an exception in the block, or a kill, leaves nothing behind.
    Tasks may add others to their own batch (`TaskContext.enqueue`); it ends once, when nothing of it is open.
    """

    def __init__(self, engine: Engine, name: str, after: Sequence[Batch | int], priority: int, run_id: int = 0) -> None:
        self.name = name
        self.id = run_id  # 0 until the block has ended
        self._engine = engine
        self._after = after
        self._priority = priority
        self._orders: list[tuple[Order, TaskHandle]] = []

    async def __aenter__(self) -> Batch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self._make()

    def enqueue(self, function: str | Callable[..., Any], *arguments: Any, **more: Any) -> TaskHandle:
        """One task more; takes what `Engine.enqueue` takes except `connection`. Its id is known after the block."""
        self._check_open()
        handle = TaskHandle(self._engine)
        self._orders.append((order(self._engine.tasks.find(function), arguments, more), handle))
        return handle

    def enqueue_many(
        self, function: str | Callable[..., Any], arguments: Iterable[Mapping[str, Any]], **options: Any
    ) -> list[TaskHandle]:
        """One task for each dict of arguments, all with the same options."""
        return [self.enqueue(function, **each, **options) for each in arguments]

    async def progress(self) -> BatchProgress:
        """How it stands now. Raises `UsageError` U543 before the block has ended."""
        row = await self._engine.pool.fetchrow(SQL["counts"], self._made())
        counts = {name: n for name, n in json.loads(row["counts"]).items() if name in STATES}
        return BatchProgress(row["state"], counts)

    async def wait(self, limit: float | None = None) -> BatchProgress:
        """Until it has ended, at most `limit` seconds. Raises `TimeoutError`."""
        delay = 0.02
        async with asyncio.timeout(limit):
            while not (found := await self.progress()).ended:
                await asyncio.sleep(delay)
                delay = min(0.5, delay * 1.5)
            return found

    async def cancel(self) -> int:
        """Cancels what is open of it, running tasks too; returns how many."""
        cancelled = await repeating(self._engine.pool, lambda to: workflow.cancel(to, self._made()))
        await self._engine.hint("cancel")
        return cancelled

    async def retry(self) -> int:
        """Tries again what has failed of it; returns how many tasks. It then ends once more."""
        again = await repeating(self._engine.pool, lambda to: workflow.retry(to, self._made()))
        await self._engine.hint()
        return again

    def _made(self) -> int:
        if not self.id:
            raise UsageError(f'batch "{self.name}" does not exist yet', code="U543",
                             hint="ask after the end of its async with block")  # fmt: skip
        return self.id

    def _check_open(self) -> None:
        if self.id:
            raise UsageError(f'batch "{self.name}" is closed', code="U544", safe="nothing was enqueued",
                             hint="start another one, perhaps after=[this one]")  # fmt: skip

    async def _make(self) -> None:
        self._check_open()
        after = tuple(entry if isinstance(entry, int) else entry._made() for entry in self._after)
        steps = (Step("tasks", "(function)"),)
        new = NewRun(
            self.name, "(batch)", steps, {"steps": []}, project=self._engine.project, priority=self._priority,
            after=after,
        )  # fmt: skip
        try:
            run_id = await self._commit(new)
        except BaseException:
            for _, handle in self._orders:
                handle.id = None
            raise
        self.id = run_id
        self._orders.clear()
        await self._engine.hint()

    async def _commit(self, new: NewRun) -> int:
        async with transaction(self._engine.pool) as connection:
            # One transaction, however many tasks: what a reader may not see half of, he may have to wait for.
            await connection.execute(
                "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0"
            )
            run_id, _ = await workflow.find_or_create(connection, new)
            for start in range(0, len(self._orders), CHUNK):
                await self._make_some(connection, run_id, self._orders[start : start + CHUNK])
            await connection.execute(workflow.SQL["seal"], run_id, "[]")
            return run_id

    async def _make_some(self, connection: Any, run_id: int, orders: list[tuple[Order, TaskHandle]]) -> None:
        """Those that wait for one before them in the same batch have to know its id, so they go after it."""
        pending: list[tuple[Order, TaskHandle]] = []
        for each, handle in orders:
            if any(isinstance(needed, TaskHandle) and needed.id is None for needed in each.options.get("after", ())):
                await self._flush(connection, run_id, pending)
            pending.append((each, handle))
        await self._flush(connection, run_id, pending)

    async def _flush(self, connection: Any, run_id: int, pending: list[tuple[Order, TaskHandle]]) -> None:
        made = await queue.enqueue(connection, [each.task(run_id) for each, _ in pending])
        for (_, handle), number in zip(pending, made, strict=True):
            handle.id = number
        pending.clear()
