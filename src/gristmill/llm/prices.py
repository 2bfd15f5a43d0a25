"""What tokens cost. A price that nobody knows is None, never 0; amounts are exact (`Decimal`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gristmill.llm.model import Usage

MILLION = Decimal(1_000_000)
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|\d{3}|latest)$")


class Price(BaseModel):
    """Prices per million tokens. Without `cached`, tokens read from the provider's cache cost as much as others.
    `batch` is the share of the price that calls in a batch cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached: Decimal | None = Field(None, ge=0)
    batch: Decimal = Field(Decimal("0.5"), ge=0, le=1)
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")

    def cost(self, usage: Usage, *, batch: bool = False) -> Decimal | None:
        """What a call has cost; None when the server did not say how many tokens it took."""
        if not usage.input and not usage.output:
            return None
        cached = min(usage.cached, usage.input)
        read = self.input if self.cached is None else self.cached
        full = ((usage.input - cached) * self.input + cached * read + usage.output * self.output) / MILLION
        return full * self.batch if batch else full


class Caps(BaseModel):
    """How much may be spent: a `run`, a `day` of the project, the whole `project`; None is no limit.

    `strict` refuses calls whose price nobody knows, where a cap would not see them. `timezone` is where a day begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Decimal | None = Field(None, ge=0)
    day: Decimal | None = Field(None, ge=0)
    project: Decimal | None = Field(None, ge=0)
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    timezone: str = "UTC"
    strict: bool = False

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'"{name}" is no time zone; write UTC or a name like Europe/Berlin') from None
        return name


@dataclass(frozen=True, slots=True)
class PriceList:
    """The shipped prices: date and source of the file, host and prices by provider."""

    date: str
    source: str
    hosts: Mapping[str, str]
    prices: Mapping[tuple[str, str], Price]


@cache
def shipped() -> PriceList:
    """The price list that comes with this version."""
    data: dict[str, Any] = tomllib.loads(
        resources.files("gristmill.llm").joinpath("prices.toml").read_text("utf-8"), parse_float=Decimal
    )
    providers = {name: part for name, part in data.items() if isinstance(part, dict)}
    prices = {
        (provider, model): Price(**price, currency=data["currency"])
        for provider, part in providers.items()
        for model, price in part["models"].items()
    }
    hosts = {name: part["host"] for name, part in providers.items()}
    return PriceList(data["date"], data["source"], hosts, prices)


class Prices:
    """Prices of models: the user's own first (keys "provider:model"), then the shipped ones."""

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._own = dict(own or {})

    def find(self, provider: str, model: str, base_url: str = "") -> Price | None:
        """The price of a model; None when nobody knows it. A shipped price holds for the provider's own server only
        (`base_url` empty, or its host): what another server takes for a model of the same name is its own affair."""
        for name in _names(model):
            if (found := self._own.get(f"{provider}:{name}")) is not None:
                return found
        known = shipped()
        provider = "openai" if provider.startswith("openai-") else provider  # the same models by another protocol
        if base_url and urlsplit(base_url).hostname != known.hosts.get(provider):
            return None
        return next((known.prices[provider, name] for name in _names(model) if (provider, name) in known.prices), None)


def _names(model: str) -> list[str]:
    """The name as it is, then without its date."""
    bare = _DATED.sub("", model)
    return [model] if bare == model else [model, bare]


def money(amount: Decimal | None, currency: str | None = "USD") -> str:
    """An amount for people: two places, more where two would show nothing. None is an unknown price, never 0."""
    if amount is None:
        return "unknown"
    if amount and abs(amount) < Decimal("0.01"):
        places = 1 - amount.adjusted()
        return f"{amount:.{places}f} {currency or ''}".rstrip()
    return f"{amount:,.2f} {currency or ''}".rstrip()
