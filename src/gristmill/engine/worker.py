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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, close_pool, open_pool, reconnecting, transaction
from gristmill.db.migrate import check_schema
from gristmill.db.moving import refuse_moved
from gristmill.engine import processes, queue
from gristmill.engine.attempts import MOST_LOST, Attempt, Attempts
from gristmill.engine.claiming import Claims
from gristmill.engine.heart import Heart
from gristmill.engine.line import Line
from gristmill.engine.metrics import LoggingMetrics, Metrics, flushing
from gristmill.engine.performer import ChildCrashed as ChildCrashed
from gristmill.engine.performer import Outcome as Outcome
from gristmill.engine.performer import Performer as Performer
from gristmill.engine.queue import Claimer
from gristmill.engine.settling import Settler
from gristmill.engine.threads import lost_threads
from gristmill.errors import DatabaseProblem, UsageError
from gristmill.logs import bind
from gristmill.version import __version__

log = logging.getLogger("gristmill.worker")


@dataclass(frozen=True)
class WorkerSettings:
    """All times in seconds. Why these values: docs/reference/settings.md."""

    pools: Mapping[str, int] = field(default_factory=lambda: {"*": 3})
    lease: float = 15.0
    beat: float = 3.0
    probe: float = 0.25
    confirm: float = 0.5
    stall_after: float = 10.0
    stuck_after: float = 300.0
    poll: float = 1.0
    shutdown: float = 30.0
    settle_batch: int = 100
    suspect_slots: int = 2
    turn_every: int = 10
    connections: int = 4
    keep_finished: float = 86_400.0
    keep_history: float = 90 * 86_400.0
    name: str = ""

    def __post_init__(self) -> None:
        if not self.pools or any(slots < 1 for slots in self.pools.values()):
            raise UsageError(
                f"pools {dict(self.pools)}: each pool needs at least one slot", hint='{"parse": 4, "*": 2}'
            )
        if not 0 < self.beat * 3 <= self.lease:
            raise UsageError(
                f"a lease of {self.lease} s is too short for a beat of {self.beat} s", hint="at least three beats"
            )


class Worker:
    """One process incarnation. `run` returns after `stop` has drained it; it exits the process when it was buried."""

    def __init__(
        self, url: str, performer: Performer, settings: WorkerSettings | None = None, nonce: uuid.UUID | None = None,
        revive: Callable[[], Awaitable[None]] | None = None, metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self.url = url
        self.nonce = nonce or uuid.uuid4()
        self.revive = revive  # called when the database is away: an embedded server has to be started again
        self.performer = performer
        self.settings = settings or WorkerSettings()
        self.metrics = metrics or LoggingMetrics()
        self.lease_lapsed = False
        self.worn = False  # it ended by itself, and wants a successor
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._hinted = False
        self._poll = 0.02
        self._looked: float | None = None  # when it last looked for work; None while it has no room for any

    async def run(self, pool: asyncpg.Pool[Any] | None = None) -> None:
        """Registers, works until `stop` is called, drains and leaves. Raises `DatabaseProblem`."""
        own = (
            await open_pool(self.url, size=self.settings.connections, name="gristmill:worker") if pool is None else None
        )
        self.pool = pool or own
        assert self.pool is not None  # noqa: S101
        try:
            async with flushing(self.metrics, self.pool):
                await self._run(self.pool)
        finally:
            if own is not None:
                own.terminate() if self.lease_lapsed else await close_pool(own)

    async def _run(self, pool: asyncpg.Pool[Any]) -> None:
        settings = self.settings
        await check_schema(pool)
        await refuse_moved(pool)
        self.claimer = await self._register(pool)
        self.claims = Claims(self.claimer, settings.pools, self.performer.kinds, settings.suspect_slots, self.metrics,
            settings.turn_every,
        )  # fmt: skip
        self.settler = Settler(pool, self.claimer, self.performer, settings.settle_batch, self.metrics, self._wake.set)
        self.attempts = Attempts(self.claimer, self.performer, self.settler, self.metrics, self._ended)
        line = Line(pool, self.url, self._told)
        heart = Heart(self.url, self.claimer, settings, self)
        settling = asyncio.create_task(self.settler.run())
        settling.add_done_callback(lambda _: self._wake.set())
        looking = asyncio.create_task(self._look_after(pool))
        try:
            await heart.start()
            log.info("worker %d begins: %s", self.claimer.id, dict(settings.pools))
            while not self._stopping.is_set() and not settling.done():
                await self._look_for_work(pool, line)
            await line.cut()
            await self._drain(pool)
            await self.settler.finish(settling, settings.shutdown)
        finally:
            settling.cancel()
            looking.cancel()
            await line.cut()
            heart.leaving = True
            await self._leave(pool)
            await heart.stop()

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

    def make_room(self, why: str) -> None:
        """Finishes what is under way and ends, so that a supervisor starts another one, which remembers nothing."""
        log.error("%s; this worker makes room for a fresh one", why)
        self.worn = True
        self.stop()

    def promoted(self) -> None:
        """A standby has taken over: what we remember and it does not would never be worked on again."""
        self.make_room("a standby has taken over, and may lack what was committed last")

    def wake(self, *, rescan: bool = False) -> None:
        """Looks for work now instead of at the next poll; with `rescan` also below the watermark."""
        if rescan and hasattr(self, "claims"):
            self.claims.rescan()
        self._wake.set()

    def look(self) -> None:
        """Asks now, instead of at the next beat, whether the claims under way still exist."""
        self._look.set()

    def _told(self, what: str) -> None:
        if what == "cancel":
            self.look()
        else:
            self._hinted = True
            self._wake.set()

    async def change_pools(self, pools: Mapping[str, int]) -> None:
        """Other slots from the next claim on; what runs already finishes. Raises `UsageError` for a pool without."""
        self.settings = replace(self.settings, pools=pools)
        if hasattr(self, "claims"):
            self.claims.change_pools(pools)
            self.wake()
            told = json.dumps(dict(pools))
            await self.pool.execute(queue.SQL["change_pools"], self.claimer.id, self.claimer.nonce, told)  # type: ignore[union-attr]

    async def change_kinds(self) -> None:
        """Claims what its performer knows now, from the next claim on: a pack was installed, or removed."""
        if hasattr(self, "claims"):
            self.claims.kinds = kinds = list(self.performer.kinds)
            await self.pool.execute(queue.SQL["change_kinds"], self.claimer.id, self.claimer.nonce, kinds)  # type: ignore[union-attr]
            self.wake(rescan=True)

    @property
    def standing_still(self) -> float:
        """Seconds since it last looked for work, though it has room for some. A slow task is no standstill."""
        return 0.0 if self._looked is None else time.monotonic() - self._looked

    async def _register(self, pool: asyncpg.Pool[Any]) -> Claimer:
        host = platform.node() or "localhost"
        name = self.settings.name or f"{host}-{os.getpid()}"
        worker_id = await pool.fetchval(
            queue.SQL["register_worker"], self.nonce, name, host,
            processes.machine(), os.getpid(), processes.started(os.getpid()), json.dumps(dict(self.settings.pools)),
            __version__, self.settings.lease, list(self.performer.kinds), self.performer.isolates,
        )  # fmt: skip
        bind(worker=name)
        self.metrics.incr("worker_started")
        return Claimer(worker_id, self.nonce)

    async def _look_for_work(self, pool: asyncpg.Pool[Any], line: Line) -> None:
        self._wake.clear()
        hinted, self._hinted = self._hinted, False
        self._looked = time.monotonic()
        claimed = []
        try:
            if not self.lease_lapsed and self.settler.backlog <= 2 * self.settings.settle_batch:
                claimed = await self.claims.ask(pool, await line.open(), hinted=hinted)
        except (*RECONNECT, *REPEAT) as error:
            await asyncio.sleep(random.uniform(0.02, 0.2))
            if not isinstance(error, REPEAT):
                await line.cut()
                await self._wait_for_database(pool, error)
            return
        for task, alone in claimed:
            self.claims.taken(task, alone=alone)
            self.attempts.start(task, alone=alone)
        self._poll = 0.02 if claimed else min(self.settings.poll, self._poll * 1.5)
        await self._pause(bool(claimed))

    async def _pause(self, claimed: bool) -> None:
        """Until a slot is free, something was settled or the poll is due. A short breath gathers slots into a claim,
        while there are some to come; a hint is followed at once."""
        free = self.claims.free()
        if free and claimed:
            await asyncio.sleep(0)
            return
        timeout = None if not free else self._poll * random.uniform(0.8, 1.2)
        if not free:
            self._looked = None
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return
        if not self._hinted and self.attempts.running:
            await asyncio.sleep(0.002)

    def _ended(self, attempt: Attempt) -> None:
        self.claims.given(attempt.task, alone=attempt.alone, sent_away=attempt.sent_away)
        self._wake.set()
        lost = self.attempts.lost + lost_threads()
        if lost >= MOST_LOST and not self.stopping:
            self.make_room(f"{lost} operators would not end")

    async def _look_after(self, pool: asyncpg.Pool[Any]) -> None:
        """Once a beat, or when told so: ends what was cancelled or taken away."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self.settings.beat)
            self._look.clear()
            try:
                await self.attempts.look(pool)
            except (*RECONNECT, *REPEAT) as error:
                log.debug("cannot look after the claims: %s", error)

    async def _wait_for_database(self, pool: asyncpg.Pool[Any], error: Exception) -> None:
        log.warning("the database is away (%s); waiting", error or type(error).__name__)
        async for _ in reconnecting():
            self._looked = time.monotonic()
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
        self._looked = None
        with contextlib.suppress(*RECONNECT):
            await pool.execute(queue.SQL["drain_worker"], self.claimer.id, self.claimer.nonce)
        await self.attempts.finish(self.settings.shutdown, self._at_once)
        self.attempts.give_up_recording = True

    async def _leave(self, pool: asyncpg.Pool[Any]) -> None:
        try:
            async with asyncio.timeout(5), transaction(pool) as connection:
                await connection.execute(queue.SQL["leave"], self.claimer.id, self.claimer.nonce, "stopped")
                # Whatever did not end in time: nobody rescues the tasks of a worker that has left in order.
                await queue.give_back(connection, self.claimer, "its worker was stopped")
            self.metrics.incr("worker_stopped")
            log.info("worker %d has left", self.claimer.id)
        except (*RECONNECT, *REPEAT):
            log.warning("could not say goodbye; the lease runs out by itself")
