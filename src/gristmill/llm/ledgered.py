"""A paid model behind the ledger: what happens around one call, from the question to the parsed answer.

begin in the ledger -> permit of the quota -> money of the budget -> fetch -> journal -> both hear what it took -> read
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from gristmill.errors import Busy, InvalidOutput, ModelRefused, ModelUnavailable
from gristmill.llm.budget import Budgets, Reservation
from gristmill.llm.entries import Entry, call_key, turns
from gristmill.llm.exchange import SPENT_DAY
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Answer, Binding, RemoteModel, Reply, Request, UnusableAnswer
from gristmill.llm.quota import Permit, Quotas
from gristmill.llm.quota_estimate import Estimate

NO_MONEY = "M208"  # code of the refusal of an account that is empty


@dataclass(slots=True)
class _Purchase:
    """How far a call has come."""

    permit: Permit | None = None
    money: Reservation | None = None
    sent: bool = False


class LedgeredModel:
    """A paid model whose answers all go through the ledger. Its calls wait for a permit of `quotas` and need money of
    `budgets`, if these are given."""

    def __init__(
        self, model: RemoteModel, ledger: Ledger, *, quotas: Quotas | None = None, budgets: Budgets | None = None,
        owns_ledger: bool = False,
    ) -> None:  # fmt: skip
        self._model = model
        self._ledger = ledger
        self._quotas, self._budgets = quotas, budgets
        self._owns_ledger = owns_ledger
        self._fingerprint = model.binding.fingerprint()
        self._estimate = Estimate()

    @property
    def binding(self) -> Binding:
        return self._model.binding

    async def complete(self, request: Request) -> Answer:
        """The answer from the ledger, or a fresh one. Raises what the model, `Ledger.begin`, `Quotas.take` and
        `Budgets.reserve` raise."""
        binding = self._model.binding
        encoded = turns(request)
        entry = Entry(
            call_key(self._fingerprint, request, encoded), uuid.uuid4(), self._ledger.worker, binding.provider,
            binding.model, request.task, request.run, prompt=request.prompt, base_url=binding.base_url,
        )  # fmt: skip
        purchase = _Purchase()
        try:
            known = await self._ledger.begin(entry)
            if known is None:
                reply = await self._buy(entry, request, purchase)
        except BaseException as error:
            try:
                await self._ledger.give_back(entry, maybe_paid=purchase.sent and not _surely_unpaid(error))
            finally:
                await self._account(purchase, error)
            raise
        if known is not None:
            return self._read_again(known, entry.key)
        try:
            kept = await self._ledger.journal(self._ledger.noting(entry, binding, request, encoded), reply)
        finally:
            await self._spent(purchase, request, reply)
        try:
            return self._model.read(kept)
        except InvalidOutput as error:
            await self._ledger.reject(entry.key, error.message)
            raise

    async def known(self, request: Request) -> Answer | None:
        """The answer if the ledger has one that can be used; asks nobody and buys nothing."""
        key = self.key(request)
        reply = await self._ledger.look(key)
        try:
            return self._read_again(reply, key) if reply is not None else None
        except InvalidOutput:
            return None

    async def reject(self, request: Request, why: str) -> None:
        """Notes in the ledger that the answer to this request was of no use."""
        await self._ledger.reject(self.key(request), why)

    def key(self, request: Request) -> bytes:
        return call_key(self._fingerprint, request)

    async def close(self) -> None:
        """Closes the model's connections, and the ledger only when it is this model's own: others may use it."""
        if self._owns_ledger:
            await self._ledger.close()
        await self._model.close()

    async def _buy(self, entry: Entry, request: Request, purchase: _Purchase) -> Reply:
        binding = self._model.binding
        if self._quotas is not None:
            purchase.permit = await self._quotas.take(
                binding.limit or binding.provider, lambda: self._estimate.of(request, binding.parameters)
            )
        if self._budgets is not None:
            most = self._estimate.most(request, binding.parameters)
            purchase.money = await self._budgets.reserve(entry, *most)
        purchase.sent = True
        return await self._model.fetch(request)

    async def _spent(self, purchase: _Purchase, request: Request, reply: Reply) -> None:
        self._estimate.learn(request, reply.usage)
        if purchase.permit is not None:
            purchase.permit.spent(reply.usage.input + reply.usage.output, reply.limits)
        if purchase.money is not None:
            await purchase.money.settle(purchase.money.cost(reply.usage))

    async def _account(self, purchase: _Purchase, error: BaseException) -> None:
        """Tells quota and budget what became of a call without an answer. Raises `LimitReached` where all must wait."""
        permit, unpaid = purchase.permit, not purchase.sent or _surely_unpaid(error)
        if purchase.money is not None:
            await (purchase.money.release() if unpaid else purchase.money.settle(None))
        if permit is None or self._quotas is None:
            return
        if not purchase.sent:
            permit.unused()
        elif isinstance(error, Busy) and error.reason == SPENT_DAY:
            raise await self._quotas.park(permit, "the provider's day is spent", error.delay) from error
        elif isinstance(error, Busy):
            raise await self._quotas.refused(permit, error.delay, error.limits) from error
        elif isinstance(error, ModelRefused) and error.code == NO_MONEY:
            raise await self._quotas.park(permit, "the account has no money left") from error
        else:
            permit.ended(unpaid=unpaid)

    def _read_again(self, reply: Reply, key: bytes) -> Answer:
        try:
            return replace(self._model.read(reply), from_ledger=True, key=key.hex())
        except UnusableAnswer as error:
            error.from_ledger = True
            raise


def _surely_unpaid(error: BaseException) -> bool:
    unreachable = isinstance(error, ModelUnavailable) and error.code == "M301"
    return unreachable or isinstance(error, ModelRefused | Busy)
