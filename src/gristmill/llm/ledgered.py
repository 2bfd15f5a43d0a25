"""A paid model behind the ledger: what happens around one call, from the question to the parsed answer."""

from __future__ import annotations

import uuid
from dataclasses import replace

from gristmill.errors import Busy, InvalidOutput, ModelRefused, ModelUnavailable
from gristmill.llm.entries import Entry, call_key
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Answer, Binding, RemoteModel, Reply, Request, UnusableAnswer


class LedgeredModel:
    """A paid model whose answers all go through the ledger."""

    def __init__(self, model: RemoteModel, ledger: Ledger, *, owns_ledger: bool = False) -> None:
        self._model = model
        self._ledger = ledger
        self._owns_ledger = owns_ledger
        self._fingerprint = model.binding.fingerprint()

    @property
    def binding(self) -> Binding:
        return self._model.binding

    async def complete(self, request: Request) -> Answer:
        """The answer from the ledger, or a fresh one. Raises what the model raises, and what `Ledger.begin` raises."""
        binding = self._model.binding
        entry = Entry(
            self.key(request), uuid.uuid4(), self._ledger.worker, binding.provider, binding.model,
            request.task, request.run,
        )  # fmt: skip
        maybe_paid = False
        try:
            known = await self._ledger.begin(entry)
            if known is None:
                maybe_paid = True
                reply = await self._model.fetch(request)
        except BaseException as error:
            await self._ledger.give_back(entry, maybe_paid=maybe_paid and not _surely_unpaid(error))
            raise
        if known is not None:
            return self._read_again(known)
        reply = await self._ledger.journal(entry, reply)
        try:
            return self._model.read(reply)
        except InvalidOutput as error:
            await self._ledger.reject(entry.key, error.message)
            raise

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

    def _read_again(self, reply: Reply) -> Answer:
        try:
            return replace(self._model.read(reply), from_ledger=True)
        except UnusableAnswer as error:
            error.from_ledger = True
            raise


def _surely_unpaid(error: BaseException) -> bool:
    unreachable = isinstance(error, ModelUnavailable) and error.code == "M301"
    return unreachable or isinstance(error, ModelRefused | Busy)
