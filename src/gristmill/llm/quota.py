"""Quotas: no call leaves before the provider allows it, counted over all processes and machines together.

    take -> nobody limits it       -> go, without a round trip
         -> a permit, now or soon  -> wait for its moment -> go
         -> not within seconds     -> LimitReached: the slot goes back, and the task returns when its turn is near

Everything that waits in this process for one quota asks in one statement. That block holds permits for the next half
second at most, each with the moment at which its request is to leave; one that is late is not used.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.errors import LimitReached, TransientError
from gristmill.llm.quota_headers import told
from gristmill.llm.quota_queue import LATE, Queue

_log = logging.getLogger("gristmill.quota")
_IDLE = 60.0  # seconds without a call, then nobody looks after the quotas of this process any more
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class Permit:
    """The right to send one request now. Exactly one of `unused`, `spent` and `ended` follows."""

    queue: Queue
    tokens: float  # reserved; 0 where tokens are not counted
    taken: float  # on the loop's clock

    def unused(self) -> None:
        """Nothing was sent."""
        self.queue.give_back(self.tokens)

    def spent(self, tokens: int, limits: Mapping[str, str] | None = None) -> None:
        """An answer came: the reservation is corrected by the tokens that it took, in and out together; 0 is not known.
        `limits` are the provider's headers."""
        self.queue.answered()
        self.queue.end(tokens - self.tokens if tokens else 0.0)
        if limits and not self.queue.exists and (found := told(limits)) and found.near:
            self.queue.quotas.learn(self.queue.name, found.requests, found.tokens)

    def ended(self, *, unpaid: bool) -> None:
        """No answer came. Tokens that were surely not taken are given back; the request has been counted."""
        self.queue.end(-self.tokens if unpaid else 0.0)


class Quotas:
    """The quotas of one process. Share it between all models of the process.

    `worker` is the nonce of the process's worker row: what it has under way is free again when that worker is known to
    be dead, else 15 s after the process was heard of last. Times in seconds: `ahead` is how far permits are taken in
    advance, `patience` how long a call waits here before it gives its slot back, `beat` how soon a change is noticed,
    `away` how long a database that is away is waited for.
    """

    def __init__(
        self, pool: asyncpg.Pool[Any], *, worker: uuid.UUID | None = None, ahead: float = 0.5, patience: float = 2.0,
        beat: float = 2.0, away: float = 6.0,
    ) -> None:  # fmt: skip
        self.pool = pool
        self.worker = worker or uuid.uuid4()
        self.ahead, self.patience, self._beat, self._away = ahead, patience, beat, away
        self.sql = statements("quota")
        self.late = 0  # permits that were not used because their moment had passed
        self._queues: dict[str, Queue] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._last = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._parking: dict[str, asyncio.Future[float]] = {}

    async def take(self, name: str, estimate: Callable[[], float] = lambda: 1.0) -> Permit:
        """A permit whose moment is now, of the quota `name`; at once, where there is none of that name.

        `estimate` says how many tokens to reserve, where they are counted. Raises `LimitReached` T430 when it takes
        more than `patience` seconds, and `TransientError` M306 when the database cannot be reached: without it nobody
        knows what may be sent.
        """
        loop = asyncio.get_running_loop()
        queue = await self._queue(name)
        self._last = began = loop.time()
        while queue.exists:
            tokens = estimate() if queue.metered else 0.0
            moment = await queue.wait(tokens, began)
            if moment is None:  # the quota was removed
                break
            permit = Permit(queue, tokens, loop.time())
            try:
                if moment > loop.time():
                    await asyncio.sleep(moment - loop.time())
            except asyncio.CancelledError:
                permit.unused()
                raise
            if loop.time() - moment <= LATE:
                return permit
            self.late += 1
            permit.unused()  # the process was busy or frozen: later than this, windows would merge at the provider
        queue.held += 1
        return Permit(queue, 0.0, loop.time())

    async def refused(self, permit: Permit, delay: float, limits: Mapping[str, str] | None = None) -> LimitReached:
        """The provider answered 429 and asks for `delay` seconds: everybody waits. Returns the error to raise."""
        queue, loop = permit.queue, asyncio.get_running_loop()
        permit.ended(unpaid=True)
        found = told(limits or {})
        wait = min(max(delay, 0.5), 900.0)
        row = await self._try(self.pool.fetchrow(
            self.sql["refused"], queue.name, wait, loop.time() - permit.taken, float(queue.answers_per_minute()),
            found.requests, found.tokens,
        ))  # fmt: skip
        queue.exists = True  # what follows in this process asks first
        if row is not None:
            wait = max(wait, row["wait"])
        return queue.busy("the provider asks to wait", wait + queue.spread())

    async def park(self, permit: Permit, why: str, delay: float = 900.0) -> LimitReached:
        """The account or the day is spent: nothing more is sent before the next day begins, or somebody changes the
        limit. Told as one event. Returns the error to raise; `delay` counts when the database is away."""
        queue = permit.queue
        permit.ended(unpaid=True)
        under_way = self._parking.get(queue.name)
        if under_way is None:
            under_way = self._parking[queue.name] = asyncio.ensure_future(self._park(queue.name, why, delay))
            under_way.add_done_callback(lambda _: self._parking.pop(queue.name, None))
        queue.exists = True
        return queue.busy(why, await asyncio.shield(under_way) + queue.spread())

    def learn(self, name: str, requests: float | None, tokens: float | None) -> None:
        """Takes over what the provider's headers tell, where nobody has set a limit."""
        self._queues[name].exists = True
        self._spawn(self._try(self.pool.execute(self.sql["learn"], name, requests, tokens)))

    async def close(self) -> None:
        """Gives back what was not used. The pool stays open."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        for queue in self._queues.values():
            await queue.close()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._queues:
            await self._try(self.pool.execute(self.sql["leave"], self.worker))

    async def patiently(self, name: str, work: Any) -> Any:
        """What `work()` returns, over a short absence of the database. Raises `TransientError` M306."""
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + self._away, 0.05
        while True:
            try:
                async with asyncio.timeout(10):
                    return await work()
            except (*RECONNECT, *REPEAT) as error:
                if loop.time() > end:
                    text = f'the quota "{name}" cannot be reached: {error or type(error).__name__}'
                    raise TransientError(text, hint="nothing was sent", code="M306") from error
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _queue(self, name: str) -> Queue:
        """The queue of that name, with news of its quota that are not older than a beat."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(self, name)
            queue.known = asyncio.ensure_future(self._renew())
        if self._keeper is None or self._keeper.done():
            if queue.known.done():
                queue.known = asyncio.ensure_future(self._renew())
            self._last = asyncio.get_running_loop().time()
            self._keeper = asyncio.create_task(self._keep(), name="gristmill quotas")
        if not queue.known.done() or queue.known.exception() is not None:
            await self.patiently(name, lambda: self._known(queue))
        return queue

    async def _known(self, queue: Queue) -> None:
        if queue.known.done() and (queue.known.cancelled() or queue.known.exception() is not None):
            queue.known = asyncio.ensure_future(self._renew())
        await asyncio.shield(queue.known)

    async def _renew(self) -> None:
        """Says what is under way here and learns which quotas there are, in one round trip for all."""
        names = sorted(self._queues)
        rows = await self.pool.fetch(self.sql["renew"], names, self.worker, [self._queues[one].held for one in names])
        found = {row["name"]: row for row in rows}
        for name in names:
            self._queues[name].news(found.get(name))

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        await self._try(self.pool.execute(self.sql["sweep"]))
        while loop.time() - self._last < _IDLE or any(queue.held for queue in self._queues.values()):
            await asyncio.sleep(self._beat)
            await self._try(self._renew())

    async def _park(self, name: str, why: str, delay: float) -> float:
        row = await self._try(self.pool.fetchrow(self.sql["park"], name, why))
        return float(row["wait"]) if row is not None else delay

    async def _try(self, work: Awaitable[Result]) -> Result | None:
        """For what only saves others a 429: never a reason for a task to fail."""
        try:
            async with asyncio.timeout(5):
                return await work
        except (*RECONNECT, *REPEAT, asyncpg.PostgresError) as error:
            _log.warning("the quotas could not be written: %s", error or type(error).__name__)
            return None

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
