"""The ledger: every paid answer is kept before anyone looks at it, and is never bought a second time.

    begin -> the answer is there        -> no call
          -> nobody asks               -> call -> journal the bytes -> only then parse
          -> somebody else asks now     -> wait for that answer

An asker says what it is about to buy (an intent with a deadline of seconds, moved on while the call lives), so that two
workers never buy the same thing, and a killed one holds up the others for no longer than that. The journal is not
fenced by the lease of a task: the money is spent, whoever holds the task now. While the database is away the bytes
wait in a spool on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT
from gristmill.db.statements import statements
from gristmill.errors import Busy, TransientError
from gristmill.llm.batches import Batches
from gristmill.llm.entries import Entry, ModelUsage
from gristmill.llm.model import Binding, Reply, Request
from gristmill.llm.prices import Prices
from gristmill.llm.requests import Frames, asked
from gristmill.llm.responses import clean_text
from gristmill.llm.spool import Spool

_log = logging.getLogger("gristmill.ledger")


class Ledger:
    """The ledger of one process. Share it between all models of the process.

    `spool` is the folder for answers that the database cannot take now; without one they are lost when the process
    ends before the database is back. `worker` is the nonce of the process's worker row: once that worker is known to
    be dead, nobody waits for its calls. `lease` is how long an intent outlives its process, and `patience` how long an
    asker waits for another one's call before it gives its slot back, `away` how long for a database that is away
    (seconds). `prices` say what calls cost, `project`
    whose money it is where no run says so, `timezone` where its days begin. `keep_requests`: whether what was asked is
    kept beside the answers.
    """

    def __init__(
        self, pool: asyncpg.Pool[Any], spool: Path | None = None, *, worker: uuid.UUID | None = None,
        lease: float = 20.0, patience: float = 60.0, away: float = 300.0, prices: Prices | None = None,
        project: str = "default", timezone: str = "UTC", keep_requests: bool = True,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._spool = Spool(spool) if spool is not None else None
        self.worker = worker or uuid.uuid4()
        self._lease, self._patience, self._away = lease, patience, away
        self._prices, self._project, self._timezone = prices or Prices(), project, timezone
        self._keep_requests = keep_requests
        self.frames = Frames(pool)
        self._sql = statements("ledger")
        # Calls in flight and answers that wait on disk, by owner: what is asked, and when its deadline was last moved.
        self._live: dict[uuid.UUID, tuple[Entry, float]] = {}
        self._reused: Counter[tuple[int | None, str, str]] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spooling = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._begins: Batches[Entry, Any] = Batches(self._begin_all, key=_key_of, orphan=self._give_up)
        self._journals: Batches[tuple[Entry, bytes], bool] = Batches(
            self._journal_all, key=lambda paid: paid[0].key, weight=lambda paid: len(paid[1]) + len(paid[0].request)
        )
        self._waiting_on_disk = asyncio.Event()
        self._sum_up = False  # money was noted that nobody has summed up yet

    @property
    def pool(self) -> asyncpg.Pool[Any]:
        return self._pool

    async def start(self) -> None:
        """Replays what earlier processes left on disk, before this one buys anything. Called by the first `begin`."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="gristmill ledger")
            await self.replay()

    async def close(self) -> None:
        """Waits for journals under way (at most about 10 s), writes what was counted, stops. The pool stays open."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        await self._quietly(self._tidy())
        if self._spool is not None:
            self._spool.close()

    async def begin(self, entry: Entry) -> Reply | None:
        """The answer of an earlier call, or None: the call is ours to make, and `journal` or `give_back` must follow.

        Waits while somebody else makes the same call. Raises `Busy` after `patience` seconds of waiting, and
        `TransientError` M305 when the database cannot be reached: without the ledger nothing is bought.
        """
        await self.start()
        if self._spool is not None and self._spool.pending:
            await self.replay()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience
        while True:
            row = await self._begin_patiently(entry)
            if row is not None and row["what"] == "go":
                self._live[entry.owner] = (entry, loop.time())
                if row["tries"] == 1 or not await self._left_on_disk():
                    return None
                row = await self._pool.fetchrow(self._sql["answer"], entry.key)
                if row is None:
                    return None
                self._live.pop(entry.owner, None)
            if row is not None and row["what"] != "intent":
                self._reused[entry.run, entry.provider, entry.model] += 1
                return Reply(row["response"], row["finish_reason"] or "")
            await self._wait_for(entry.key, give_up)

    async def look(self, key: bytes) -> Reply | None:
        """The answer that is there; counts and changes nothing."""
        row = await self._pool.fetchrow(self._sql["answer"], key)
        return None if row is None else Reply(row["response"], row["finish_reason"] or "")

    def noting(self, entry: Entry, binding: Binding, request: Request, turns: list[str]) -> Entry:
        """The entry with what is asked, if that is to be kept. `turns` are as in `requests.asked`."""
        if not self._keep_requests:
            return entry
        said = asked(binding, request, turns)
        return replace(entry, request=said.own, frame=said.frame, frame_text=said.frame_text)

    async def journal(self, entry: Entry, reply: Reply) -> Reply:
        """Keeps the bytes: in the database, else on disk. The reply to go on with is the first that was kept.

        Goes on when the caller is cancelled: the answer is paid.
        """
        return await asyncio.shield(self._spawn(self._journal(entry, reply)))

    async def give_back(self, entry: Entry, *, maybe_paid: bool) -> None:
        """The call is over without an answer: nobody needs to wait for it. Goes on when the caller is cancelled."""
        self._live.pop(entry.owner, None)
        if maybe_paid:
            work = self._pool.execute(self._sql["expire"], [entry.key], [entry.owner])
        else:
            work = self._pool.execute(self._sql["give_back"], entry.key, entry.owner)
        await asyncio.shield(self._spawn(self._quietly(work)))

    async def reject(self, key: bytes, why: str) -> None:
        """Notes that an answer was of no use. It stays, and a re-ask has another key."""
        await self._quietly(self._pool.execute(self._sql["reject"], key, clean_text(why)[:1000]))

    async def usage(self, run: int) -> list[ModelUsage]:
        """What every model did for a run. Reads one row per call of the run: for a summary, not for a progress bar."""
        await self._quietly(self._tidy())
        rows = await self._pool.fetch(self._sql["usage"], run)
        return [ModelUsage(**dict(row)) for row in rows]

    async def replay(self) -> int:
        """Brings spooled answers into the database and returns how many; 0 while it is away."""
        if self._spool is None:
            return 0
        count = 0
        async with self._spooling:
            try:
                for path, records in self._spool.take():
                    for meta, body in records:
                        entry = Entry.from_json(meta)
                        await self._journals.add((entry, body))
                        self._live.pop(entry.owner, None)
                        count += 1
                    self._spool.done(path)
            except (*RECONNECT, asyncpg.PostgresError) as error:
                _log.warning("spooled answers wait on disk: %s", _name(error))
        return count

    async def _journal(self, entry: Entry, reply: Reply) -> Reply:
        usage = reply.usage
        price = self._prices.find(entry.provider, entry.model, entry.base_url)
        cost = price.cost(usage, batch=entry.batch) if price is not None else None
        noted = replace(
            entry, finish_reason=reply.finish_reason, tokens_in=usage.input, tokens_out=usage.output,
            tokens_cached=usage.cached, tokens_reasoning=usage.reasoning, latency_ms=round(reply.latency * 1000),
            cost=cost, currency=price.currency if price is not None and cost is not None else None,
        )  # fmt: skip
        problem: BaseException | None = None
        for _ in range(2):  # a connection that was cut is replaced at once; more patience has the spool
            try:
                async with asyncio.timeout(5):
                    first = await self._journals.add((noted, reply.body))
                    kept = None if first else await self._pool.fetchrow(self._sql["answer"], entry.key)
                self._live.pop(entry.owner, None)
                return reply if kept is None else Reply(kept["response"], kept["finish_reason"] or "")
            except (*RECONNECT, asyncpg.PostgresError) as error:
                problem = error
        _log.warning("the database did not take a paid answer (%s); it goes to disk", _name(problem))
        if not await self._to_disk(noted, reply.body):
            self._live.pop(entry.owner, None)
        return reply  # on disk its intent stays ours: nobody else buys it before it is replayed

    async def _to_disk(self, entry: Entry, body: bytes) -> bool:
        if self._spool is None:
            _log.error("a paid answer is kept in memory only: no spool folder was given")
            return False
        try:
            async with self._spooling:
                await asyncio.to_thread(self._spool.append, entry.to_json(), body)
            self._waiting_on_disk.set()
        except OSError as error:
            _log.error("a paid answer could be kept neither in the database nor on disk: %s", error)
            return False
        return True

    async def _left_on_disk(self) -> bool:
        """Replays what a process of this machine that died has left; whether there was anything."""
        return self._spool is not None and await self.replay() > 0

    async def _wait_for(self, key: bytes, give_up: float) -> None:
        """Returns when the other one's call has been answered, given back, or has passed its deadline."""
        pause = 0.05
        while True:
            if asyncio.get_running_loop().time() > give_up:
                raise Busy("the same question is being asked elsewhere", delay=5.0, reason="waiting for the same call")
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.6, 1.0)
            async with asyncio.timeout(10):
                row = await self._pool.fetchrow(self._sql["look"], key, self._lease)
            if row is None or row["state"] != "intent" or row["expired"]:
                return

    async def _begin_patiently(self, entry: Entry) -> Any:
        """The row for one call, over an absence of the database. The owner makes it safe to ask twice.

        A task that gave up here could begin anew elsewhere while its earlier answers wait on this process's disk: they
        would be bought again. So it keeps its slot and waits: nobody else gets anything done either.
        """
        pause = 0.05
        give_up = asyncio.get_running_loop().time() + self._away
        while True:
            try:
                async with asyncio.timeout(10):
                    return await self._begins.add(entry)
            except RECONNECT as error:
                if asyncio.get_running_loop().time() > give_up:
                    text = f"the ledger cannot be reached: {_name(error)}"
                    raise TransientError(text, hint="nothing was bought", code="M305") from error
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(3 * pause, 1.0)

    async def _begin_all(self, entries: list[Entry]) -> list[Any]:
        columns = zip(
            *((one.key, one.owner, one.provider, one.model, one.task, one.run) for one in entries), strict=True
        )
        keys, owners, *rest = columns
        rows = await self._pool.fetch(self._sql["begin"], keys, owners, self.worker, self._lease, *rest)
        found = {row["key"]: row for row in rows}
        return [found.get(entry.key) for entry in entries]

    def _give_up(self, entry: Entry, row: Any) -> None:
        """The caller was cancelled while its intent was being written."""
        if row is not None and row["what"] == "go":
            self._spawn(self._quietly(self._pool.execute(self._sql["give_back"], entry.key, entry.owner)))

    async def _journal_all(self, paid: list[tuple[Entry, bytes]]) -> list[bool]:
        """For each answer whether it was the first."""
        await self.frames.keep(entry for entry, _ in paid)
        columns = zip(*(entry.values(body) for entry, body in paid), strict=True)
        rows = await self._pool.fetch(self._sql["journal"], *columns, self._project, self._timezone)
        self._sum_up = True
        first = {row["key"] for row in rows}
        return [entry.key in first for entry, _ in paid]

    async def _keep(self) -> None:
        """Moves deadlines on, writes counts, and replays the spool, for as long as the process lives."""
        pause = self._lease / 4
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._waiting_on_disk.wait(), pause)
            self._waiting_on_disk.clear()
            well = await self._quietly(self._tidy())
            if self._spool is not None and (self._spool.pending or self._spool.orphans):
                await self.replay()
            if not well or (self._spool is not None and self._spool.pending):
                pause = random.uniform(0.25, 0.75)  # others wait a quarter of a lease for us after an outage
            else:
                pause = self._lease / 4

    async def _tidy(self) -> None:
        now = asyncio.get_running_loop().time()
        old = {owner: entry for owner, (entry, at) in self._live.items() if now - at > self._lease / 5}
        if old:
            entries = list(old.values())
            columns = zip(
                *((one.key, one.owner, one.provider, one.model, one.task, one.run) for one in entries), strict=True
            )
            keys, owners, *rest = columns
            await self._pool.execute(self._sql["renew"], keys, owners, self.worker, self._lease, *rest)
            self._live.update({owner: (entry, now) for owner, entry in old.items() if owner in self._live})
            over = [entry for owner, entry in old.items() if owner not in self._live]
            if over:  # given back while we renewed it
                await self._pool.execute(self._sql["expire"], [one.key for one in over], [one.owner for one in over])
        if self._sum_up:
            self._sum_up = False
            await self._pool.execute(statements("budget")["sum_up"])
        if self._reused:
            counted, self._reused = self._reused, Counter()
            runs, providers, models = zip(*counted, strict=True)
            try:
                await self._pool.execute(self._sql["count_reuse"], runs, providers, models, list(counted.values()))
            except BaseException:
                self._reused.update(counted)
                raise

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> bool:
        """For what only saves others some waiting: never a reason for a task to fail. Whether it went well."""
        try:
            async with asyncio.timeout(5):
                await work
        except (*RECONNECT, asyncpg.PostgresError) as error:
            _log.debug("the ledger's upkeep failed: %s", _name(error))
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _key_of(entry: Entry) -> bytes:
    return entry.key


def _name(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
