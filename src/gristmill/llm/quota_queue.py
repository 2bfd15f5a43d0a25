"""What waits in one process for one quota: asked for in blocks, one statement at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import LimitReached

if TYPE_CHECKING:
    from gristmill.llm.quota import Quotas

_log = logging.getLogger("gristmill.quota")
LATE = 0.2  # seconds after its moment for which a permit is good
BLOCK = 200  # permits that are asked for at once
_OWED = 0.2  # seconds that corrections wait for company
_SLOWEST, _QUICKEST = 0.5, 0.01  # seconds between two questions while somebody waits


class Clock:
    """The database's moments on the loop's clock: never earlier than they were, and as late as the quickest reply says.

    The moment of a block may not be taken for that of its reply: this process may have been frozen in between.
    """

    def __init__(self) -> None:
        self._ahead: float | None = None  # what the loop's clock is ahead of the database's, with the way of the reply
        self._at = 0.0

    def moment(self, there: float, asked: float, heard: float) -> float:
        """When it was `there` in the database, between the question and its answer."""
        ahead = heard - there
        if self._ahead is not None:
            ahead = min(ahead, self._ahead + 1e-4 * (heard - self._at))  # clocks drift apart
        self._ahead, self._at = ahead, heard
        return min(max(there + ahead, asked), heard)


@dataclass(eq=False, slots=True)
class _Waiter:
    tokens: float
    began: float
    moment: asyncio.Future[float | None]


class Queue:
    """The waiting calls of one quota, and what it is owed: corrections, permits nobody used, ended calls.

    `exists` is False as long as no such quota is known: then nobody waits. `counted`: it limits what is under way.
    `metered`: it limits tokens. `held` is how many calls of this process are under way, or about to be.
    """

    def __init__(self, quotas: Quotas, name: str) -> None:
        self.quotas = quotas
        self.name = name
        self.exists = self.counted = self.metered = False
        self.held = 0
        self.known: asyncio.Future[None]
        self._waiting: list[_Waiter] = []
        self._used_more = 0.0
        self._back, self._back_since = 0, 0.0
        self._freed = False
        self._answers: deque[float] = deque(maxlen=50_000)
        self._any = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._clock = Clock()

    def news(self, row: Any) -> None:
        """What the table says of this quota; None when it has none of this name."""
        self.exists = row is not None
        self.counted = row is not None and row["counted"]
        self.metered = row is not None and row["metered"]

    async def wait(self, tokens: float, began: float) -> float | None:
        """The moment, on the loop's clock, at which the request may leave; None: nothing limits it (any more)."""
        waiter = _Waiter(tokens, began, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._run()
        try:
            return await waiter.moment
        except asyncio.CancelledError:
            if waiter.moment.done() and not waiter.moment.cancelled() and waiter.moment.exception() is None:
                self.give_back(tokens)
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def end(self, used_more: float) -> None:
        """A call is over; it took so many tokens more (or, negative, fewer) than were reserved."""
        self.held -= 1
        if self.exists and ((self.metered and used_more) or self.counted):
            self._used_more += used_more
            self._freed = self._freed or self.counted
            self._run()

    def give_back(self, tokens: float) -> None:
        """A permit that nobody used."""
        if self.exists:
            self._back += 1
            if not self._back_since:
                self._back_since = asyncio.get_running_loop().time() - self.quotas.ahead - LATE
        self.end(-tokens)

    def answered(self) -> None:
        now = asyncio.get_running_loop().time()
        self._answers.append(now)
        while self._answers and self._answers[0] < now - 60:
            self._answers.popleft()

    def answers_per_minute(self) -> int:
        return len(self._answers)

    def busy(self, why: str, delay: float) -> LimitReached:
        return LimitReached(
            f'the limit "{self.name}" is reached: {why}', delay=delay, reason=f"quota: {self.name}, {why}"
        )

    def spread(self) -> float:
        """Seconds; so that those who were sent away at once do not all come back at once."""
        return random.uniform(0.0, 0.1 * min(50, self.held + 1))

    async def close(self) -> None:
        if self._runner is not None:
            self._any.set()
            await asyncio.wait((self._runner,), timeout=5)

    def _run(self) -> None:
        self._any.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._serve(), name=f"gristmill quota {self.name}")

    @property
    def _owes(self) -> bool:
        return self._freed or self._back > 0 or bool(self._used_more)

    async def _serve(self) -> None:
        """Until nobody waits and nothing is owed."""
        while self._waiting or self._owes:
            self._any.clear()
            if not self._waiting and not self._freed:  # corrections alone: with the next question, or after a while
                await self._pause(_OWED)
            try:
                again = await self._ask()
            except BaseException as error:
                for waiter in self._waiting:
                    if not waiter.moment.done():
                        waiter.moment.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                self._waiting.clear()
                self._owe_nothing()
                if not isinstance(error, Exception):
                    raise
                return
            if self._waiting:
                self._any.clear()
                await self._pause(again)

    async def _pause(self, seconds: float) -> None:
        """Ends early when a call ends or comes, but for those who have to wait anyhow."""
        if self.counted or not self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._any.wait(), seconds)
        else:
            await asyncio.sleep(seconds)

    async def _ask(self) -> float:
        """One block. Returns in how many seconds to ask for those who still wait."""
        quotas, loop = self.quotas, asyncio.get_running_loop()
        self._waiting = [one for one in self._waiting if not one.moment.done()]
        block, now = self._waiting[:BLOCK], loop.time()
        back_age = now - self._back_since if self._back else 0.0
        owed = self._used_more, self._back, back_age, self.held
        self._owe_nothing()
        given = [one.tokens for one in block], [now - one.began for one in block], *owed, quotas.ahead, quotas.patience
        asked = now

        async def take() -> Any:
            nonlocal asked
            asked = loop.time()
            return await quotas.pool.fetchrow(quotas.sql["take"], self.name, quotas.worker, *given)

        row = await quotas.patiently(self.name, take)
        if row is None:
            self.news(None)
            self._waiting = []
            for one in block:
                if not one.moment.done():
                    one.moment.set_result(None)
            return 0.0
        if row["stepped"]:
            _log.warning("the database's clock was set back: the quota %s was brought into order", self.name)
        now = self._clock.moment(row["moment"], asked, loop.time())
        for one, start, leave in zip(block, row["starts"], row["leaves"], strict=True):
            self._tell(one, now, start, leave, row["why"])
        self._waiting = [one for one in self._waiting if not one.moment.done()]
        again = (row["again"] or 0.0) - quotas.ahead / 2
        return min(_SLOWEST, max(_QUICKEST, again)) if not self.counted else 0.1

    def _tell(self, one: _Waiter, now: float, start: float | None, leave: float | None, why: str) -> None:
        if start is not None:
            self.held += 1
            if one.moment.done():  # cancelled meanwhile
                self.give_back(one.tokens)
            else:
                one.moment.set_result(now + start)
        elif leave is not None and not one.moment.done():
            one.moment.set_exception(self.busy(why, leave))

    def _owe_nothing(self) -> None:
        self._used_more, self._back, self._back_since, self._freed = 0.0, 0, 0.0, False
