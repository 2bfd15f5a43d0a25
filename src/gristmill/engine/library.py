"""The bare engine as a library: your own functions as durable tasks, without records, models or workflows.

engine = Engine("postgresql://...")             # or Engine(): GRISTMILL_DATABASE_URL, or embedded in ./.gristmill

@engine.task("send", pool="mail", attempts=3, timeout=30)
async def send(to: str, *, subject: str = "") -> dict: ...

async with engine:
    task = await engine.enqueue(send, to="a@b", key="welcome-7")
    print(await task.result(wait=10))           # needs a worker somewhere: await engine.work()
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import asyncpg

from gristmill.db import embedded
from gristmill.db.database import close_pool, open_pool, transaction
from gristmill.db.migrate import migrate
from gristmill.db.moving import refuse_moved
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.batch import Batch
from gristmill.engine.child_limits import Limits
from gristmill.engine.foreign import adapted
from gristmill.engine.functions import Registry, TaskFunction, context_parameter, policy_of
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.orders import TaskHandle, check_options, order, task_id
from gristmill.engine.performing import FunctionPerformer, TaskContext
from gristmill.engine.retry import Policy
from gristmill.engine.standing import standing_run
from gristmill.engine.worker import Worker, WorkerSettings
from gristmill.errors import NoResult, UsageError

log = logging.getLogger("gristmill.worker")
SQL = statements("library")
WHY = statements("why")
STANDING = "tasks"  # the run of all tasks that belong to no batch
SLOTS = 3  # of a worker in each pool, unless it is told otherwise
F = TypeVar("F", bound=Callable[..., Any])


class Engine:
    """Registers functions, enqueues tasks for them, and runs workers. Open it with `async with`, once per process.

    `url` is a PostgreSQL (14 or newer); None takes GRISTMILL_DATABASE_URL, or else the embedded server in `home`.
    `project` is the scope that tasks and batches are listed under.
    """

    def __init__(self, url: str | None = None, *, home: Path | str = ".gristmill", project: str = "default") -> None:
        self.url = url
        self.home = Path(home)
        self.project = project
        self.tasks = Registry()
        self._server: embedded.Server | None = None
        self._pool: asyncpg.Pool[Any] | None = None
        self._run_id = 0

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        """The connections of this process. Raises `UsageError` U540 outside of `async with`."""
        if self._pool is None:
            raise UsageError("this engine is not open", code="U540", hint="use it inside: async with engine:")
        return self._pool

    async def __aenter__(self) -> Engine:
        if self._pool is not None:
            raise UsageError("this engine is open already", code="U540", hint="open it once and share it")
        url = self.url or os.environ.get("GRISTMILL_DATABASE_URL")
        if url is None:
            self._server = await embedded.open_server(self.home)
            url = self._server.url
        self.database_url = url
        try:
            self._pool = await open_pool(url, size=6)
            async with self._pool.acquire() as connection:
                await migrate(connection)
                await refuse_moved(connection)
            async with transaction(self._pool) as connection:
                self._run_id = await standing_run(connection, STANDING, self.project)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            await close_pool(self._pool)
            self._pool = None
        if self._server is not None:
            await embedded.close_server(self._server)
            self._server = None

    def task(
        self, name: str, *, aliases: Sequence[str] = (), pool: str = "*", attempts: int = 5, crashes: int = 3,
        timeout: float | None = None, priority: int = 0, lock: str | None = None, lock_slots: int = 1,
        retry: Policy | Mapping[str, Any] | None = None, process: bool | Limits = False, here: bool = True,
    ) -> Callable[[F], F]:  # fmt: skip
        """Registers a function and returns it as it is. `name` is what is stored: the function may move and be renamed.

        `aliases` are names it had before. An attempt may take `timeout` seconds; after `attempts` failures the task has
        failed, after `crashes` of its process it is quarantined. `retry` says what becomes of errors:
        `{"ValueError": "fail", "ConnectionError": "snooze", "backoff": 2, "longest": 60}`, or a `Policy`.
        `process=True`, or `Limits(memory=..., cpu=...)`, runs it in a child process. `here=False`: it is only enqueued
        here, and its workers are elsewhere. Raises `UsageError` U510 to U514, U531.
        """

        def register(function: F) -> F:
            limits = process if isinstance(process, Limits) else Limits() if process else None
            made = TaskFunction(
                function, name, tuple(aliases), pool, attempts, crashes, timeout, priority, lock, lock_slots,
                policy_of(name, timeout, retry), limits, here, context_parameter(function, TaskContext),
            )  # fmt: skip
            check_options(name, {"pool": pool, "attempts": attempts, "timeout": timeout, "priority": priority,
                                 "lock": lock, "lock_slots": lock_slots})  # fmt: skip
            self.tasks.add(made)
            return function

        return register

    async def enqueue(
        self, function: str | Callable[..., Any], *arguments: Any, connection: Any = None, **more: Any
    ) -> TaskHandle:
        """Makes a task for a function (or its name) and returns its handle; durable from then on.

        Keywords are the function's arguments and these options: `run_at`, `delay`, `expires`, `key`, `after`, `lock`,
        `lock_slots`, `priority`, `attempts`, `timeout`, `pool` (`gristmill.engine.Options` says what they mean).

        `connection`, of asyncpg or psycopg, makes the task inside the transaction that is open there: it exists when
        you commit. Call `hint()` then, or a worker sees it at its next poll. Raises `UsageError` U501, U520 to U542.
        """
        found = order(self.tasks.find(function), arguments, more)
        async with self._writing(connection) as own:
            (number,) = await queue.enqueue(own, [found.task(self._standing())])
        if connection is None:
            await self.hint()
        return TaskHandle(self, number)

    async def enqueue_many(
        self, function: str | Callable[..., Any], arguments: Sequence[Mapping[str, Any]], *, connection: Any = None,
        **options: Any,
    ) -> list[TaskHandle]:  # fmt: skip
        """One task for each dict of arguments, all in one transaction and with the same options."""
        made = self.tasks.find(function)
        orders = [order(made, (), {**each, **options}) for each in arguments]
        async with self._writing(connection) as own:
            ids = await queue.enqueue(own, [each.task(self._standing()) for each in orders])
        if connection is None and ids:
            await self.hint()
        return [TaskHandle(self, number) for number in ids]

    def batch(self, name: str, *, after: Sequence[Batch | int] = (), priority: int = 0) -> Batch:
        """Many tasks with one progress and one end: `async with engine.batch("import") as batch: batch.enqueue(...)`.

        With `after` its tasks start when these batches have completed. Lower `priority` goes first.
        """
        if not name or len(name) > 200 or not name.isprintable():
            raise UsageError(f"{name!r:.60} is no name for a batch", code="U531", hint='engine.batch("import")')
        return Batch(self, name, after, priority)

    async def result(self, task: TaskHandle | int, wait: float = 0.0) -> Any:
        """What the task's function returned; waits up to `wait` seconds for it.

        Raises `NoResult`: R101 it failed, R102 it was cancelled, R103 it is quarantined, R104 it has not ended yet (the
        hint says what it waits for), R105 there is no such task.
        """
        number, delay, clock = task_id(task), 0.02, asyncio.get_running_loop().time
        until = clock() + wait
        while True:
            row = await self._look_up(number)
            if row is None:
                raise NoResult(
                    f"there is no task {number}", code="R105", state="", hint="it may be of another database"
                )
            if row["state"] == "completed":
                return None if row["value"] is None else json.loads(row["value"])
            if row["state"] in _ENDED:
                why = f": {row['error']}: {row['message']}" if row["error"] else ""
                raise NoResult(f'task {number} ("{row["kind"]}") {_ENDED[row["state"]][1]}{why}',
                               code=_ENDED[row["state"]][0], state=row["state"])  # fmt: skip
            if clock() >= until:
                raise NoResult(f'task {number} ("{row["kind"]}") has not ended yet', code="R104", state=row["state"],
                               hint=await self.why(number), safe="it goes on")  # fmt: skip
            await asyncio.sleep(min(delay, max(0.0, until - clock())))
            delay = min(0.5, delay * 1.5)

    async def cancel(self, task: TaskHandle | int) -> bool:
        """Cancels a task, also while it runs: its worker ends it, and nothing that it still brings is recorded.

        False when it had ended already.
        """
        async with transaction(self.pool) as connection:
            cancelled = await queue.cancel(connection, task_ids=[task_id(task)])
        await queue.hint(self.pool, "cancel")
        return bool(cancelled)

    async def why(self, task: TaskHandle | int) -> str:
        """Why a task is not running, in one sentence: the first reason that applies. Raises `NoResult` R105."""
        number = task_id(task)
        for _ in range(3):  # it may begin or end between our looks
            row = await self._look_up(number)
            if row is None:
                raise NoResult(f"there is no task {number}", code="R105", state="")
            if row["state"] not in ("waiting", "available"):
                where = f" on worker {row['worker']}" if row["state"] == "running" else ""
                return f"it is {row['state']}{where}"
            held = await self.pool.fetchrow(WHY["held_by"], row["run_id"], number)
            if held is not None:
                return str(held["reason"])
        return "about to be claimed"

    async def hint(self, what: str = "") -> None:
        """Tells idle workers to look for tasks now; for callers that have enqueued in their own transaction."""
        await queue.hint(self.pool, what)

    async def work(self, pools: Mapping[str, int] | None = None, *, signals: bool = True, **settings: Any) -> None:
        """Performs tasks until stopped: SIGTERM or SIGINT finishes what is under way, the second one gives it back.

        `pools` is pool -> tasks at once (default: 3 for every pool of a function of this process). `settings` are
        fields of `gristmill.engine.WorkerSettings`, times in seconds. Cancelling gives back what is under way.
        """
        async with self.working(pools, **settings) as worker:
            running = worker.finished
            loop = asyncio.get_running_loop()

            def stop() -> None:
                worker.stop(at_once=worker.stopping)

            for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
                loop.add_signal_handler(number, stop)
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                worker.stop(at_once=True)
                raise
            finally:
                for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
                    loop.remove_signal_handler(number)

    @asynccontextmanager
    async def working(self, pools: Mapping[str, int] | None = None, **settings: Any) -> AsyncIterator[LibraryWorker]:
        """A worker beside your own code, for example in the lifespan of a web application; the end drains it."""
        performer = FunctionPerformer(self)
        if not performer.kinds:
            raise UsageError("this process has no task to perform", code="U545",
                             hint="import the modules with @engine.task before work()")  # fmt: skip
        mine = pools or dict.fromkeys({"*", *(made.pool for made in self.tasks.all() if made.here)}, SLOTS)
        revive = self._revive if self._server is not None else None
        worker = LibraryWorker(self.database_url, performer, WorkerSettings(pools=mine, **settings), revive=revive,
            metrics=DatabaseMetrics(),
        )  # fmt: skip
        worker.finished = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            try:
                await worker.finished
            finally:
                await performer.close()

    async def _look_up(self, number: int) -> asyncpg.Record | None:
        """A task where it is, or where it was moved to after its end."""
        for name in ("outcome", "outcome_of_history"):
            row = await self.pool.fetchrow(SQL[name], number)
            if row is not None:
                return row
        return None

    async def _revive(self) -> None:
        if self._server is not None:
            former, self._server = self._server, await embedded.open_server(self.home)
            await embedded.close_server(former)

    def _standing(self) -> int:
        if not self._run_id:
            raise UsageError("this engine is not open", code="U540", hint="use it inside: async with engine:")
        return self._run_id

    @asynccontextmanager
    async def _writing(self, connection: Any) -> AsyncIterator[Any]:
        """The caller's connection as it is, or one of ours inside a transaction."""
        if connection is not None:
            yield adapted(connection)
            return
        async with transaction(self.pool) as own:
            yield own


class LibraryWorker(Worker):
    """A worker that runs beside the caller's code; `finished` ends when it has left."""

    finished: asyncio.Task[None]

    def promoted(self) -> None:
        """Goes on, since nobody would start another one."""
        log.error("a standby has taken over; if it lacks what was committed last, start this process again")


_ENDED = {
    "failed": ("R101", "has failed"),
    "cancelled": ("R102", "was cancelled"),
    "quarantined": ("R103", "is quarantined: it has killed its process too often"),
}
