"""A paid model whose calls go through the provider's batch API: the same calls, keys and answers, only later.

the answer is in the ledger       -> here it is
the call waits in a batch         -> Busy: the slot goes back, and the task returns when the batch has answered
its batch failed it               -> asked again, in the next batch or alone
nobody has asked yet              -> it joins the batch that is open, and Busy
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

from gristmill.errors import Busy, ModelRefused, ModelUnavailable
from gristmill.llm.batch_jobs import BatchJobs, Gathering, Question
from gristmill.llm.budget import Budgets
from gristmill.llm.entries import Entry, turns
from gristmill.llm.exchange import Received
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Answer, Binding, Reply, Request, UnusableAnswer, Usage
from gristmill.llm.quota import Quotas
from gristmill.llm.quota_estimate import Estimate
from gristmill.llm.remote import HttpModel
from gristmill.llm.responses import error_message

TRIES = 3  # batches that a question may fail in before its task hears of it
_SET_ASIDE = 172_800.0  # seconds that money stays set aside; a batch ends within a day
_BACK = (30.0, 600.0)  # seconds after which a task looks by itself; a batch that has answered wakes it


class BatchedModel:
    """A paid model whose calls wait in batches. Answers all go through the ledger, as those of `LedgeredModel` do.

    `again` says how a call that its batch has failed is asked again: "batch", at most three times, or "single", at once
    and for the full price, by `quotas`. Money for a call in a batch is set aside in `budgets` until it has ended.
    """

    def __init__(
        self, model: HttpModel, ledger: Ledger, *, gathering: Gathering | None = None, again: str = "batch",
        quotas: Quotas | None = None, budgets: Budgets | None = None,
    ) -> None:  # fmt: skip
        self._model, self._ledger, self._budgets, self._again = model, ledger, budgets, again
        self._single = LedgeredModel(model, ledger, quotas=quotas, budgets=budgets)
        self._jobs = BatchJobs(model, ledger, gathering or Gathering())
        self._estimate = Estimate()

    @property
    def binding(self) -> Binding:
        return self._model.binding

    async def complete(self, request: Request) -> Answer:
        """The answer from the ledger. Raises `Busy` while it waits for its batch, and what a single call raises."""
        await self._ledger.start()
        key = self._single.key(request)
        known = await self._jobs.look(key, request.task)
        if known["call"] in ("ok", "unusable"):
            return self._read(request, key, known)
        if known["state"] == "asked":
            raise self._waiting(known["job"], known["age"])
        if known["state"] == "failed":
            alone = await self._failed(request, key, known)
            if alone is not None:
                return alone
        job = await self._join(request, key)
        if job is None:
            raise Busy("the same question is being asked elsewhere", delay=15.0, reason="waiting for the same call")
        raise self._waiting(job["job"], 0.0)

    async def known(self, request: Request) -> Answer | None:
        """The answer if the ledger has one that can be used; asks nobody and buys nothing."""
        return await self._single.known(request)

    async def reject(self, request: Request, why: str) -> None:
        """Notes in the ledger that the answer to this request was of no use."""
        await self._single.reject(request, why)

    async def close(self) -> None:
        """Leaves the batches to others and closes the model's connections; the ledger stays open."""
        await self._jobs.close()
        await self._single.close()

    def _read(self, request: Request, key: bytes, known: Any) -> Answer:
        """An answer that this try of the task has asked for is new, though it lay in the ledger meanwhile."""
        usage = Usage(known["tokens_in"], known["tokens_out"])
        reply, fresh = Reply(known["response"], known["finish_reason"] or "", usage), bool(known["fresh"])
        self._estimate.learn(request, usage)
        try:
            return replace(self._model.read(reply), from_ledger=not fresh, key="" if fresh else key.hex())
        except UnusableAnswer as error:
            error.from_ledger = not fresh
            raise

    async def _failed(self, request: Request, key: bytes, known: Any) -> Answer | None:
        """What a failed call comes to: None to ask again in a batch, the answer of a single call, or its failure."""
        failure: ModelRefused | ModelUnavailable | Busy | None = None
        said, code = error_message(known["error"] or b"")
        if known["status"] == -1:
            failure = ModelRefused(f"{self.binding.base_url} did not take the batch: {said}", code=code or None)
        elif known["status"] == 0:
            failure = ModelUnavailable(f"a batch came back without this answer: {said}", code="M303")
        else:
            try:
                self._model.reply(request, known["mode"], Received(known["status"], {}, known["error"], 0.0))
            except (ModelRefused, ModelUnavailable, Busy) as error:
                failure = error
        if isinstance(failure, ModelRefused):
            await self._jobs.forget(key)
            raise failure
        if self._again == "single":
            answer = await self._single.complete(request)
            await self._jobs.forget(key)
            return answer
        if failure is not None and known["tries"] >= TRIES:
            await self._jobs.forget(key)
            raise ModelUnavailable(f"{TRIES} batches did not answer: {failure.message}", code="M303")
        return None

    async def _join(self, request: Request, key: bytes) -> Any:
        binding = self.binding
        entry = Entry(
            key, uuid.uuid4(), self._ledger.worker, binding.provider, binding.model, request.task, request.run,
            prompt=request.prompt, base_url=binding.base_url, batch=True,
        )  # fmt: skip
        entry = self._ledger.noting(entry, binding, request, turns(request))
        body, mode = self._model.question(request)
        if self._budgets is None:
            return await self._jobs.join(Question(entry, body, mode))
        try:
            money = await self._budgets.reserve(entry, *self._estimate.most(request, binding.parameters))
        except Busy as error:
            if error.code == "M421":  # calls in flight are in the way, and those of a batch stay there for long
                error.delay = 60.0
            raise
        try:
            job = await self._jobs.join(Question(entry, body, mode))
            if job is not None and money is not None:
                await asyncio.shield(self._budgets.hand_over(money, job["mark"], _SET_ASIDE))
            return job
        finally:
            if money is not None:
                await money.release()

    def _waiting(self, job: int, age: float | None) -> Busy:
        reason = f"waiting for batch {job} of {self.binding.spec}"
        least, most = _BACK
        return Busy(reason, delay=min(most, max(least, age or 0.0)), reason=reason, code="M431")
