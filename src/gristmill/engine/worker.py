"""A worker: claims tasks, has them performed, settles them in batches, and leaves nothing behind when it stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import platform
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, open_pool, reconnecting, transaction
from gristmill.db.migrate import check_schema
from gristmill.engine import processes, queue
from gristmill.engine.heart import Heart
from gristmill.engine.queue import Claimer, Failure, NewTask, Task
from gristmill.engine.settling import Settler
from gristmill.errors import Busy, DatabaseProblem, GristmillError, InvalidOutput, TaskError, TransientError
from gristmill.version import __version__

log = logging.getLogger("gristmill.worker")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to. `name` is "ok", "empty" or "reused"; `value` is the performer's own."""

    name: str = "ok"
    value: Any = None


class Performer(Protocol):
    """The one thing the engine asks of the rooms above it."""

    @property
    def kinds(self) -> Sequence[str]:
        """Names of the operators that this process can run; it claims no others."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether `alone` is heard: then a suspect is charged for the death of its child, not of its worker."""
        ...

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        """Runs the task's operator. `alone` asks for a process of its own: the task has killed its process before."""
        ...

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        """Saves results inside the settling transaction and returns the tasks that follow."""
        ...


class ChildCrashed(TransientError):
    """The process that ran this task alone has died; the message says how. Charged as a crash, not as a failure."""

    code = "T500"


@dataclass(frozen=True)
class WorkerSettings:
    """All times in seconds. Why these values: docs/reference/settings.md."""

    pools: Mapping[str, int] = field(default_factory=lambda: {"*": 3})
    lease: float = 15.0
    beat: float = 3.0
    probe: float = 0.25
    confirm: float = 0.5
    stall_after: float = 10.0
    poll: float = 1.0
    shutdown: float = 30.0
    backoff: float = 1.0
    settle_batch: int = 100
    suspect_slots: int = 2
    connections: int = 4
    name: str = ""


class Worker:
    """One process incarnation. `run` returns after `stop` has drained it; it exits the process when it was buried."""

    def __init__(
        self, url: str, performer: Performer, settings: WorkerSettings | None = None, nonce: uuid.UUID | None = None,
        revive: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self.nonce = nonce or uuid.uuid4()
        self.revive = revive  # called when the database is away: an embedded server has to be started again
        self.performer = performer
        self.settings = settings or WorkerSettings()
        self.lease_lapsed = False
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._wake = asyncio.Event()
        self._busy: dict[str, int] = dict.fromkeys(self.settings.pools, 0)
        self._suspects = 0
        self._running: dict[asyncio.Task[None], Task] = {}
        self._unanswered: list[uuid.UUID] = []  # tokens of claims whose reply was lost: they may have been committed
        self._low: dict[str, int] = {}
        self._rescanned = 0.0
        self._poll = 0.02

    async def run(self, pool: asyncpg.Pool[Any] | None = None) -> None:
        """Registers, works until `stop` is called, drains and leaves. Raises `DatabaseProblem`."""
        own = (
            await open_pool(self.url, size=self.settings.connections, name="gristmill:worker") if pool is None else None
        )
        self.pool = pool or own
        assert self.pool is not None  # noqa: S101
        try:
            await check_schema(self.pool)
            self.claimer = await self._register(self.pool)
            self.settler = Settler(self.pool, self.claimer, self.performer, self.settings.settle_batch, self._wake.set)
            heart = Heart(self.url, self.claimer, self.settings, self)
            settling = asyncio.create_task(self.settler.run())
            settling.add_done_callback(lambda _: self._wake.set())
            try:
                await heart.start()
                while not self._stopping.is_set() and not settling.done():
                    await self._look_for_work(self.pool)
                await self._drain(self.pool)
                await self.settler.finish(settling)
            finally:
                settling.cancel()
                heart.leaving = True
                await self._leave(self.pool)
                await heart.stop()
        finally:
            if own is not None:
                await own.close()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self, *, at_once: bool = False) -> None:
        """Claims nothing more; `run` returns when what is under way has finished or was given back.

        With `at_once` everything is given back now; also when the worker is draining already.
        """
        self._stopping.set()
        self._wake.set()
        if at_once:
            self._at_once.set()

    def wake(self, *, rescan: bool = False) -> None:
        """Looks for work now instead of at the next poll; with `rescan` also below the watermark."""
        if rescan:
            self._rescanned = 0.0
        self._wake.set()

    async def _register(self, pool: asyncpg.Pool[Any]) -> Claimer:
        host = platform.node() or "localhost"
        name = self.settings.name or f"{host}-{os.getpid()}"
        worker_id = await pool.fetchval(
            queue.SQL["register_worker"], self.nonce, name, host,
            processes.machine(), os.getpid(), processes.started(os.getpid()), json.dumps(dict(self.settings.pools)),
            __version__, self.settings.lease,
        )  # fmt: skip
        if self.performer.isolates:
            await pool.execute(queue.SQL["isolates"], worker_id)
        return Claimer(worker_id, self.nonce)

    async def _look_for_work(self, pool: asyncpg.Pool[Any]) -> None:
        self._wake.clear()
        try:
            if self._unanswered:
                async with transaction(pool) as connection:
                    await queue.give_back(connection, self.claimer, "the reply to its claim was lost", self._unanswered)
                self._unanswered.clear()
            claimed = await self._claim(pool)
        except (*RECONNECT, *REPEAT) as error:
            await asyncio.sleep(random.uniform(0.02, 0.2))
            if not isinstance(error, REPEAT):
                await self._wait_for_database(pool, error)
            return
        self._poll = 0.02 if claimed else min(self.settings.poll, self._poll * 1.5)
        await self._pause(bool(claimed))

    async def _pause(self, claimed: bool) -> None:
        """Until a slot is free, something was settled or the poll is due; a short breath gathers slots into a claim."""
        if self._free() and claimed:
            await asyncio.sleep(0)
            return
        timeout = None if not self._free() else self._poll * random.uniform(0.8, 1.2)
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
            await asyncio.sleep(0.002)
        except TimeoutError:
            pass

    def _free(self) -> dict[str, int]:
        if self.lease_lapsed or self.settler.backlog > 2 * self.settings.settle_batch:
            return {}
        sizes = self.settings.pools
        return {pool: sizes[pool] - busy for pool, busy in self._busy.items() if busy < sizes[pool]}

    async def _claim(self, pool: asyncpg.Pool[Any]) -> list[Task]:
        free = self._free()
        if not free:
            return []
        rescan = time.monotonic() - self._rescanned > 1.0
        if rescan:  # rows that were committed late, or put back with an earlier place, lie below the watermark
            self._low.clear()
            self._rescanned = time.monotonic()
        tasks = await self._ask(pool, free, low=self._low)
        for name in free:
            places = [task.seq for task in tasks if task.pool == name]
            if places:
                self._low[name] = min(places) - 500
            else:
                self._low.pop(name, None)
        for task in tasks:
            self._start(task, alone=False)
        if rescan and self._suspects < self.settings.suspect_slots:
            lanes = dict.fromkeys(self.settings.pools, 1)
            for task in await self._ask(pool, lanes, suspects=True):
                self._start(task, alone=True)
        return tasks

    async def _ask(self, pool: asyncpg.Pool[Any], wanted: dict[str, int], **more: Any) -> list[Task]:
        token = uuid.uuid4()
        try:
            return await queue.claim(pool, self.claimer, wanted, self.performer.kinds, token=token, **more)
        except RECONNECT:
            self._unanswered.append(token)
            raise

    def _start(self, task: Task, *, alone: bool) -> None:
        if alone:
            self._suspects += 1
        else:
            self._busy[task.pool] += 1
        running = asyncio.create_task(self._perform(task, alone))
        self._running[running] = task
        running.add_done_callback(lambda done: self._ended(done, alone))

    def _ended(self, done: asyncio.Task[None], alone: bool) -> None:
        task = self._running.pop(done)
        if alone:
            self._suspects -= 1
        else:
            self._busy[task.pool] -= 1
        self._wake.set()
        if not done.cancelled() and done.exception() is not None:
            log.error("task %d: its end could not be recorded", task.id, exc_info=done.exception())

    async def _perform(self, task: Task, alone: bool) -> None:
        try:
            outcome = await self.performer.perform(task, alone=alone)
        except Busy as busy:
            await self._record(task, queue.release, [(task, busy.delay, busy.reason)])
        except ChildCrashed as crashed:
            log.warning("task %d (%s): %s", task.id, task.kind, crashed)
            await self._record(task, queue.crash, self.claimer, task, str(crashed))
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            me = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
                await self._record(task, queue.release, [(task, 0.0, "its worker was stopped")])
                raise
            # Otherwise the operator has cancelled itself or asked the process to end: that is its own failure.
            failure = describe(error, self.settings.backoff)
            log.log(logging.INFO if isinstance(error, TaskError) else logging.ERROR, "task %d (%s) failed: %s: %s",
                    task.id, task.kind, failure.error, failure.message,
                    exc_info=None if isinstance(error, GristmillError) else error)  # fmt: skip
            await self._record(task, queue.fail, self.claimer, task, failure)
        else:
            self.settler.put(task, outcome)

    async def _record(self, task: Task, write: Any, *arguments: Any) -> None:
        """One write that names the token, so it may be sent again until the database answers.

        If the database refuses what we have to say, it hears that: a task without an end would keep its run open.
        """
        async for _ in reconnecting():
            try:
                await write(self.pool, *arguments)
                return
            except (*RECONNECT, *REPEAT):
                if self.lease_lapsed and self._stopping.is_set():
                    return  # nobody can be told; the lease runs out by itself
            except Exception as error:
                log.exception("task %d: its end cannot be recorded", task.id)
                failure = Failure("T700", type(error).__name__, "its end cannot be recorded", retry=False)
                if arguments[-1] == failure:
                    raise
                write, arguments = queue.fail, (self.claimer, task, failure)

    async def _wait_for_database(self, pool: asyncpg.Pool[Any], error: Exception) -> None:
        log.warning("the database is away (%s); waiting", error or type(error).__name__)
        async for _ in reconnecting():
            if self._stopping.is_set():
                return
            try:
                if self.revive is not None:
                    await self.revive()
                await pool.fetchval("select 1")
                return
            except (*RECONNECT, DatabaseProblem) as problem:
                log.info("still away: %s", problem)

    async def _drain(self, pool: asyncpg.Pool[Any]) -> None:
        with contextlib.suppress(*RECONNECT):
            await pool.execute(queue.SQL["drain_worker"], self.claimer.id, self.claimer.nonce)
        if self._running:
            finished = asyncio.gather(*self._running, return_exceptions=True)
            at_once = asyncio.create_task(self._at_once.wait())
            await asyncio.wait((asyncio.shield(finished), at_once), timeout=self.settings.shutdown,
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            at_once.cancel()
        for running in list(self._running):
            running.cancel()
        if self._running:
            await asyncio.wait(list(self._running), timeout=5)

    async def _leave(self, pool: asyncpg.Pool[Any]) -> None:
        try:
            async with transaction(pool) as connection:
                await connection.execute(queue.SQL["leave"], self.claimer.id, self.claimer.nonce, "stopped")
                # Whatever did not end in time: nobody rescues the tasks of a worker that has left in order.
                await queue.give_back(connection, self.claimer, "its worker was stopped")
        except (*RECONNECT, *REPEAT):
            log.warning("could not say goodbye; the lease runs out by itself")


def describe(error: BaseException, backoff: float) -> Failure:
    """How an exception is charged: our own errors say it themselves, all others are retried."""
    retry = isinstance(error, TransientError | InvalidOutput) or not isinstance(error, GristmillError)
    if isinstance(error, GristmillError):
        message, code = error.message, error.code
    else:
        message, code = str(error) or type(error).__name__, "T300"
    return Failure(code=code, error=type(error).__name__, message=message, retry=retry, backoff=backoff)
