"""A model whose answers are shared within one circle only: a run that wants everything fresh."""

from __future__ import annotations

from dataclasses import replace

from gristmill.llm.model import Answer, Binding, Model, Request
from gristmill.llm.structured import Rejecting


class Apart:
    """The same model; its requests share answers only with others of the same `circle` ("run 7"). So a run buys what
    others have bought, but a task of it that is tried again still pays nothing twice."""

    def __init__(self, model: Model, circle: str) -> None:
        self._model, self._circle = model, circle

    @property
    def binding(self) -> Binding:
        return self._model.binding

    async def complete(self, request: Request) -> Answer:
        return await self._model.complete(replace(request, reuse_within=self._circle))

    async def reject(self, request: Request, why: str) -> None:
        """Notes in the ledger that an answer was of no use."""
        if isinstance(self._model, Rejecting):
            await self._model.reject(replace(request, reuse_within=self._circle), why)

    async def close(self) -> None:
        """The model is shared: whoever opened it closes it."""
