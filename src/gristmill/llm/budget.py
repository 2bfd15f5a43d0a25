"""Budgets: money is set aside before a call and settled after it, so that no cap is passed, calls in flight included.

    reserve (the estimate) -> call -> settle (the real cost)      nothing was sent: release

A process sets money aside in small blocks in the database, so that a call mostly costs no round trip. What its calls
have really cost is noted by the ledger together with the answer. When it dies, or is silent for `lease` seconds, its
blocks are free again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import asyncpg

from gristmill.db.database import RECONNECT, transaction
from gristmill.db.statements import statements
from gristmill.errors import BudgetSpent, Busy, ModelRefused, TransientError
from gristmill.llm.entries import Entry
from gristmill.llm.model import Usage
from gristmill.llm.prices import Caps, Price, Prices, money

SQL = statements("budget")
LOCK_CLASS = 0x6772_6962  # key of the advisory lock under which money of a project is set aside
FRESH = 2.0  # seconds for which caps are believed: a change takes effect within them
AHEAD = 8  # calls that a block is for, beyond the one that asks; more, where more are in flight
_ZERO = Decimal(0)
_log = logging.getLogger("gristmill.budget")


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap that a call has to respect. `name` is the run's number, "project date", or the project."""

    scope: str
    name: str
    cap: Decimal
    currency: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scope, self.name, self.currency


@dataclass(slots=True)
class _Block:
    """What this process has set aside for one cap, what of it its calls in flight may need, and what they have cost."""

    held: Decimal = _ZERO
    busy: Decimal = _ZERO
    settled: Decimal = _ZERO  # since the block was last told to the database
    renewed: float = 0.0
    used: bool = False  # since the last renewal


@dataclass(slots=True)
class Reservation:
    """Money set aside for one call. Exactly one of `settle` and `release` has to follow."""

    amount: Decimal
    price: Price
    _budgets: Budgets = field(repr=False)
    _run: int | None = None
    _blocks: tuple[_Block, ...] = field(default=(), repr=False)
    _open: bool = True

    def cost(self, usage: Usage) -> Decimal | None:
        """What that many tokens cost; None when the server did not say how many it took."""
        return self.price.cost(usage)

    async def settle(self, cost: Decimal | None) -> None:
        """The call is over and was journaled. With None its cost is unknown (no answer came, or one without numbers):
        then the whole estimate counts as spent."""
        if self._close(self.amount if cost is None else cost) and cost is None:
            await self._budgets._note_uncertain(self._run, self.price.currency, self.amount)  # goes on when cancelled

    async def release(self) -> None:
        """Surely nothing was paid."""
        self._close(_ZERO)

    def _close(self, cost: Decimal) -> bool:
        was, self._open = self._open, False
        for block in self._blocks if was else ():
            block.busy -= self.amount
            block.settled += cost
        return was


class Budgets:
    """The budgets of one process. `caps` come from the settings; what `gristmill budget` or `--budget` says wins.

    `worker` is the nonce of the process's worker row: once it is known to be dead, its money is free. Without such a
    row that takes `lease` seconds.
    """

    def __init__(
        self, pool: asyncpg.Pool[Any], prices: Prices, *, caps: Caps | None = None, project: str = "default",
        worker: uuid.UUID | None = None, lease: float = 20.0,
    ) -> None:  # fmt: skip
        self._pool, self._prices, self._caps, self._project = pool, prices, caps or Caps(), project
        self._worker, self._lease = worker or uuid.uuid4(), lease
        self._blocks: dict[tuple[str, str, str], _Block] = {}
        self._known: dict[int | None, tuple[float, str, list[Limit]]] = {}
        self._taking = asyncio.Lock()
        self._warned: set[tuple[str, str, str]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._notes: set[asyncio.Task[None]] = set()

    async def reserve(self, entry: Entry, tokens_in: int, tokens_out: int) -> Reservation | None:
        """Sets aside what a call may cost: an estimate of the tokens it sends, and the most that it may get back.

        None where no budget holds or no price is known (said once for each model). Raises `BudgetSpent` M420 when a
        budget could be passed, after the run was paused; `Busy` M421 while only other calls in flight are in the way;
        `ModelRefused` M422 for a model without a price under a strict budget; `TransientError` M305 without a database.
        """
        limits, project = await self._limits(entry.run)
        if not limits:
            return None
        price = self._prices.find(entry.provider, entry.model, entry.base_url)
        limits = self._countable(entry, price, limits)
        if price is None or not limits:
            return None
        amount = price.cost(Usage(input=max(1, tokens_in), output=tokens_out)) or _ZERO
        blocks = tuple(self._blocks.setdefault(limit.key, _Block()) for limit in limits)
        for block in blocks:
            block.used = True
        if not self._free(blocks, amount):
            async with self._taking:
                if not self._free(blocks, amount):
                    await self._patiently(self._take(entry.run, project, limits, blocks, amount))
        for block in blocks:
            block.busy += amount
            block.used = True
        return Reservation(amount, price, self, entry.run, blocks)

    async def hand_over(self, money: Reservation, holder: uuid.UUID, seconds: float) -> None:
        """Sets the money of a call aside in another name, for a call that goes on without this process; then it is
        settled here. Raises `TransientError` M305 without a database."""
        keys = [key for key, block in self._blocks.items() if any(block is one for one in money._blocks)]
        columns = list(zip(*keys, strict=True)) or [(), (), ()]
        work = self._pool.execute(statements("batches")["hand_over"], holder, seconds, *columns, money.amount)
        await self._patiently(work)
        await money.release()

    async def close(self) -> None:
        """Frees what is set aside and not in use. The pool stays open."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        while self._notes:
            await asyncio.wait(set(self._notes))
        for block in self._blocks.values():
            block.used = False
        await self._quietly(self._renew())

    def _countable(self, entry: Entry, price: Price | None, limits: Sequence[Limit]) -> list[Limit]:
        """The caps that can count this call. Raises `ModelRefused` where a strict budget would not see one."""
        counted = [limit for limit in limits if price is not None and limit.currency == price.currency]
        if len(counted) < len(limits):
            blind = next(limit for limit in limits if limit not in counted)
            spec = f"{entry.provider}:{entry.model}"
            why = "its price is not known" if price is None else f"its price is in {price.currency}"
            what = f"the budget of the {blind.scope} in {blind.currency} does not see what {spec} costs: {why}"
            hint = f'say it in gristmill.toml: [prices."{spec}"] input = ..., output = ... (per million tokens)'
            if self._caps.strict:
                raise ModelRefused(what, hint=hint, safe="nothing was sent", code="M422")
            if (key := (blind.scope, spec, blind.currency)) not in self._warned:
                self._warned.add(key)
                _log.warning("%s; %s", what, hint)
        return counted

    def _free(self, blocks: Sequence[_Block], amount: Decimal) -> bool:
        """Whether the call fits into what is set aside and was renewed in time."""
        late = asyncio.get_running_loop().time() - self._lease
        return all(b.renewed > late and b.held - b.busy - b.settled >= amount for b in blocks)

    async def _limits(self, run: int | None) -> tuple[list[Limit], str]:
        now = asyncio.get_running_loop().time()
        if run not in self._known or now - self._known[run][0] > FRESH:
            if len(self._known) > 1000:
                self._known.clear()
            rows = await self._patiently(self._pool.fetch(SQL["limits"], run, self._project, *self._settings()))
            found = [Limit(r["scope"], r["name"], r["cap"], r["currency"]) for r in rows if r["cap"] is not None]
            self._known[run] = (now, rows[0]["project"], found)
        _, project, limits = self._known[run]
        return limits, project

    def _settings(self) -> tuple[str, list[str], list[Decimal | None], str]:
        caps = self._caps
        return caps.timezone, ["run", "day", "project"], [caps.run, caps.day, caps.project], caps.currency

    async def _take(
        self, run: int | None, project: str, limits: Sequence[Limit], blocks: Sequence[_Block], amount: Decimal
    ) -> None:
        """Sets a new block aside. Raises `BudgetSpent` or `Busy`."""
        loop = asyncio.get_running_loop()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="gristmill budget")
        busy, settled = [b.busy for b in blocks], [b.settled for b in blocks]
        for block in blocks:
            block.held = block.busy + block.settled  # nobody takes the rest while we ask
        asked = loop.time()
        scopes, names, currencies = zip(*(limit.key for limit in limits), strict=True)
        async with transaction(self._pool) as connection:
            await connection.execute(SQL["lock_project"], LOCK_CLASS, project)
            rows = await connection.fetch(
                SQL["set_aside"], self._worker, self._lease, scopes, names, currencies, [li.cap for li in limits],
                [one + amount for one in busy], [max(amount * AHEAD, one) for one in busy], busy,
            )  # fmt: skip
        told = {(row["scope"], row["name"], row["currency"]): row for row in rows}
        for limit, block, before in zip(limits, blocks, settled, strict=True):
            block.held, block.renewed = told[limit.key]["amount"], asked
            block.settled -= before  # the ledger had noted it before: the database has just counted it
        refused = [row for row in rows if not row["fits"]]
        spent = next((row for row in refused if row["spent"] + amount > row["cap"]), None)
        if spent is not None:
            raise await self._spent(run, spent, amount)
        if refused:
            row = refused[0]
            reason = f"{_said(row)}, the rest is set aside for calls in flight"
            raise Busy(reason, delay=1.0, reason=reason, code="M421")

    async def _spent(self, run: int | None, row: Any, amount: Decimal) -> BudgetSpent:
        """Pauses the run, once, and says why."""
        why = _said(row)
        if run is not None:
            body = {
                "scope": row["scope"], "cap": str(row["cap"]), "spent": str(row["spent"]), "currency": row["currency"],
                "next_call": str(amount),
            }  # fmt: skip
            await self._pool.fetchval(SQL["hold_run"], run, why, row["scope"], self._caps.timezone, json.dumps(body))
        return BudgetSpent(
            f"{why}; the next call may cost {money(amount, row['currency'])}", reason=why, scope=row["scope"],
            cap=row["cap"], spent=row["spent"], currency=row["currency"],
        )  # fmt: skip

    async def _note_uncertain(self, run: int | None, currency: str, amount: Decimal) -> None:
        write = self._pool.execute(SQL["uncertain"], run, self._project, self._caps.timezone, currency, amount)
        task = asyncio.create_task(self._quietly(write))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)
        await asyncio.shield(task)

    async def _keep(self) -> None:
        """Tells the database what is still needed, for as long as the process lives."""
        while True:
            await asyncio.sleep(self._lease / 10)
            await self._quietly(self._renew())

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        asked = loop.time()
        told: dict[tuple[str, str, str], tuple[_Block, Decimal, Decimal]] = {}
        async with self._taking:
            for key, block in list(self._blocks.items()):
                if not (block.used or block.busy or block.held):
                    del self._blocks[key]
                    continue
                # What nobody used since the last time goes back: others may need it.
                amount = max(block.busy, block.held - block.settled) if block.used else block.busy
                told[key] = (block, min(amount, block.held), block.settled)
                block.used = False
                block.held = min(amount, block.held) + block.settled  # nobody takes it while we tell
            if not told:
                return
            scopes, names, currencies = zip(*told, strict=True)
            amounts = [amount for _, amount, _ in told.values()]
            rows = await self._pool.fetch(
                SQL["renew_holds"], self._worker, self._lease, scopes, names, currencies, amounts
            )
            ours = {tuple(row) for row in rows}
            for key, (block, amount, settled) in told.items():
                block.settled -= settled
                block.held, block.renewed = (amount, asked) if key in ours else (_ZERO, block.renewed)
        await self._pool.execute(SQL["forget_holds"])

    async def _patiently(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            async with asyncio.timeout(10):
                return await work
        except (*RECONNECT, asyncpg.LockNotAvailableError) as error:
            text = f"the budget cannot be looked up: {error or type(error).__name__}"
            raise TransientError(text, hint="nothing was bought", code="M305") from error

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            async with asyncio.timeout(5):
                await work
        except (*RECONNECT, asyncpg.PostgresError) as error:
            _log.debug("the budget's upkeep failed: %s", error or type(error).__name__)


def _said(row: Any) -> str:
    """For people: "budget: run 5.00 USD, spent 4.98"."""
    return f"budget: {row['scope']} {money(row['cap'], row['currency'])}, spent {money(row['spent'], '')}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How one budget stands. `cap` None: no limit. `uncertain` is part of `spent`: calls that were never answered."""

    scope: str
    name: str
    cap: Decimal | None
    currency: str
    spent: Decimal
    uncertain: Decimal
    held: Decimal


async def standing(
    pool: asyncpg.Pool[Any], *, run: int | None = None, project: str = "default", caps: Caps | None = None
) -> list[Standing]:
    """What was spent, what is set aside and what may be spent: of the run, of today, of the project."""
    caps = caps or Caps()
    rows = await pool.fetch(
        SQL["status"], run, project, caps.timezone, ["run", "day", "project"], [caps.run, caps.day, caps.project],
        caps.currency,
    )  # fmt: skip
    return [Standing(**dict(row)) for row in rows]


async def set_cap(
    pool: asyncpg.Pool[Any] | asyncpg.Connection[Any], scope: str, name: str | int, cap: Decimal | None,
    currency: str = "USD",
) -> None:  # fmt: skip
    """How much may be spent in a `scope` ("run", "day", "project"), whatever the settings say. `name` is the run's
    number, or the project. None: no limit. Takes effect within 2 s."""
    await pool.execute(SQL["set_cap"], scope, str(name), cap, currency)
