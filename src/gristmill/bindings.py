"""The models of one process: each opened once, when it is first used, all behind one ledger."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.config import Settings
from gristmill.errors import ModelSetupError
from gristmill.llm import stored_bindings
from gristmill.llm.budget import Budgets
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Model
from gristmill.llm.model_settings import ModelSettings, key_place, read_key
from gristmill.llm.models import LOCAL, open_model, split_spec
from gristmill.llm.prices import Prices
from gristmill.llm.providers import PROVIDERS
from gristmill.llm.quota import Quotas
from gristmill.llm.quota_limits import take_settings

_FRESH = 5.0  # seconds for which a binding of the database is not looked at again


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A binding with its origin: "settings" or "database"."""

    name: str
    origin: str
    settings: ModelSettings
    changed_at: datetime | None = None


class ModelSource:
    """Opens models by what the user wrote ("extractive", "openai:NAME", a binding) and closes them all together.

    `worker` is the nonce of the worker row: when that worker dies, its calls in flight hold nobody up.
    """

    def __init__(
        self, settings: Settings, pool: asyncpg.Pool[Any], spool: Path, worker: uuid.UUID | None = None
    ) -> None:
        self._settings = settings
        self._pool = pool
        self.prices = Prices(settings.prices)
        self._ledger = Ledger(
            pool,
            spool,
            worker=worker,
            prices=self.prices,
            project=settings.project,
            timezone=settings.budget.timezone,
            keep_requests=settings.keep_requests,
        )
        self._budgets = Budgets(
            pool, self.prices, caps=settings.budget, project=settings.project, worker=self._ledger.worker
        )
        self._quotas = Quotas(pool, worker=worker)
        self._limits_told = not settings.limits
        self._known: dict[str, tuple[float, ModelSettings]] = {}  # from the database, and when it was read
        self._open: dict[str, tuple[ModelSettings | None, Model]] = {}
        self._former: list[Model] = []  # of bindings that changed; calls of theirs may be under way

    async def open(self, spec: str, *, ledger: bool = True) -> Model:
        """The model of that spec or binding. Without `ledger` a fresh one that the caller closes.

        Bindings of gristmill.toml go before those of the database; a change of the latter is seen within 5 s.
        Raises `ModelSetupError`: M101 no key, M102 no such model, M103, M104 wrong settings, M105 the key's file.
        """
        settings = await self._find(spec)
        if not self._limits_told:
            await self.take_limits()
        if not ledger:
            return self._make(spec, settings, None)
        known = self._open.get(spec)
        if known is not None and known[0] == settings:
            return known[1]
        model = self._make(spec, settings, self._ledger)
        if known is not None:
            self._former.append(known[1])
        self._open[spec] = (settings, model)
        return model

    async def take_limits(self) -> None:
        """Takes over the limits of gristmill.toml, where they have changed since they were last taken over."""
        await take_settings(self._pool, self._settings.limits)
        self._limits_told = True

    def check_price(self, model: Model) -> None:
        """Raises `ModelSetupError` M110 for a paid model without a known price, if the settings' budget is strict."""
        binding = model.binding
        if not self._settings.budget.strict or not binding.paid:
            return
        if self.prices.find(binding.provider, binding.model, binding.base_url) is None:
            raise ModelSetupError(
                f"the price of {binding.spec} is not known, and the budget is strict", code="M110",
                hint=f'gristmill.toml: [prices."{binding.provider}:{binding.model}"] input = ..., output = ...',
                safe="nothing was sent",
            )  # fmt: skip

    async def named(self) -> list[NamedModel]:
        """All bindings by name. One of the database that has a namesake in gristmill.toml is not used."""
        found = [NamedModel(name, "settings", one) for name, one in self._settings.models.items()]
        stored = await stored_bindings.listed(self._pool, self._settings.project)
        found += [NamedModel(one.name, "database", one.settings, one.changed_at) for one in stored]
        return sorted(found, key=lambda one: (one.name, one.origin != "settings"))

    async def usage(self, run: int) -> dict[str, Any]:
        """Totals of a run over all models: calls, from_ledger, input and output tokens, cost by currency (as text), and
        the `unpriced` calls that no cost knows of."""
        rows = await self._ledger.usage(run)
        cost: dict[str, Decimal] = {}
        for row in rows:
            if row.cost is not None:
                cost[row.currency or ""] = cost.get(row.currency or "", Decimal(0)) + row.cost
        return {
            "calls": sum(row.calls for row in rows), "from_ledger": sum(row.from_ledger for row in rows),
            "unusable": sum(row.unusable for row in rows), "input": sum(row.tokens_in for row in rows),
            "output": sum(row.tokens_out for row in rows), "unpriced": sum(row.unpriced for row in rows),
            "cost": {currency: format(amount.normalize(), "f") for currency, amount in cost.items()},
        }  # fmt: skip

    async def close(self) -> None:
        for model in [*self._former, *(model for _, model in self._open.values())]:
            await model.close()
        await self._budgets.close()
        await self._quotas.close()
        await self._ledger.close()

    async def _find(self, spec: str) -> ModelSettings | None:
        """The settings of a binding; None for what is no name but says all by itself."""
        if spec in self._settings.models:
            return self._settings.models[spec]
        if ":" in spec or spec in LOCAL:
            return None
        at, settings = self._known.get(spec, (0.0, None))
        if settings is None or time.monotonic() - at > _FRESH:
            settings = await stored_bindings.find(self._pool, spec, self._settings.project)
            if settings is None:
                self._known.pop(spec, None)
                split_spec(spec, [one.name for one in await self.named()])  # raises, or it is "extractive"
                return None
            self._known[spec] = (time.monotonic(), settings)
        return settings

    def _make(self, spec: str, settings: ModelSettings | None, ledger: Ledger | None) -> Model:
        most = max(16, 2 * self._settings.pools.get("model", 32))
        shared: dict[str, Any] = {"quotas": self._quotas, "budgets": self._budgets}
        if settings is None:
            return open_model(spec, max_connections=most, ledger=ledger, **shared, **self._of_spec(spec))
        return open_bound(spec, settings, max_connections=most, ledger=ledger, **shared)

    def _of_spec(self, spec: str) -> Mapping[str, Any]:
        """Address and key of a model without a binding: OpenAI's may be set, the others are the provider's usual."""
        provider, _ = split_spec(spec)
        if provider not in PROVIDERS:
            return {}
        known = PROVIDERS[provider]
        if known.base_url != PROVIDERS["openai"].base_url:
            return {"api_key": read_key(f"env:{known.key}") if known.key else None}
        file = self._settings.openai_key_file
        reference = f"env:{known.key}" if file is None else f"file:{file}"
        key_name = known.key if file is None else key_place(reference)
        return {"base_url": self._settings.openai_base_url, "api_key": read_key(reference), "key_name": key_name}


def open_bound(name: str, settings: ModelSettings, **more: Any) -> Model:
    """The model of a binding. `more` goes to `open_model`. Raises `ModelSetupError` as that does, and M105."""
    reference = settings.reference
    key = read_key(reference) if reference else None
    if key is None and settings.key is not None:
        raise ModelSetupError(
            f"{name} needs a key, and {settings.key} is not set", code="M101", safe="nothing was sent",
            hint="set it where the workers run",
        )  # fmt: skip
    return open_model(
        f"{settings.provider}:{settings.model}", named=name, base_url=settings.base_url, api_key=key,
        key_name=key_place(reference) if reference else "", parameters=settings.parameters, headers=settings.headers,
        limit=settings.limit or "", timeout=settings.timeout, first_byte=settings.first_byte, idle=settings.idle,
        stream=settings.stream, structured=settings.structured, batch=settings, **more,
    )  # fmt: skip
