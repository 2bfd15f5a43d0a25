"""The models of one process: each opened once, all behind one ledger."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.config import Settings
from gristmill.errors import ModelSetupError
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Model
from gristmill.llm.models import open_model


class ModelSource:
    """Opens models by what the user wrote ("extractive", "openai:NAME") and closes them all together.

    `worker` is the nonce of the worker row: when that worker dies, its calls in flight hold nobody up.
    """

    def __init__(
        self, settings: Settings, pool: asyncpg.Pool[Any], spool: Path, worker: uuid.UUID | None = None
    ) -> None:
        self._settings = settings
        self._ledger = Ledger(pool, spool, worker=worker)
        self._open: dict[str, Model] = {}

    async def open(self, spec: str, *, ledger: bool = True) -> Model:
        """The model of that spec. Raises `ModelSetupError`. Without `ledger` a fresh one that the caller closes."""
        if not ledger:
            return self._make(spec, None)
        if spec not in self._open:
            self._open[spec] = self._make(spec, self._ledger)
        return self._open[spec]

    async def usage(self, run: int) -> dict[str, int]:
        """Totals of a run over all models: calls, from_ledger, input and output tokens."""
        rows = await self._ledger.usage(run)
        return {
            "calls": sum(row.calls for row in rows), "from_ledger": sum(row.from_ledger for row in rows),
            "unusable": sum(row.unusable for row in rows), "input": sum(row.tokens_in for row in rows),
            "output": sum(row.tokens_out for row in rows),
        }  # fmt: skip

    async def close(self) -> None:
        for model in self._open.values():
            await model.close()
        await self._ledger.close()

    def _make(self, spec: str, ledger: Ledger | None) -> Model:
        return open_model(
            spec, base_url=self._settings.openai_base_url, api_key=self._key(),
            max_connections=max(16, 2 * self._settings.pools.get("model", 32)), ledger=ledger,
        )  # fmt: skip

    def _key(self) -> str | None:
        file = self._settings.openai_key_file
        if file is None:
            return os.environ.get("OPENAI_API_KEY")
        try:
            return file.read_text("utf-8").strip()
        except OSError as error:
            raise ModelSetupError(f"the key file {file} cannot be read: {error.strerror}", code="M105") from None
