"""What tokens cost, and what nobody knows."""

from __future__ import annotations

from decimal import Decimal

import pytest

from gristmill.llm.model import Usage
from gristmill.llm.prices import Price, Prices, money, shipped


def test_the_shipped_list_says_when_and_where_it_was_read() -> None:
    assert shipped().date
    assert "platform.openai.com" in shipped().source
    assert len(shipped().prices) > 10


@pytest.mark.parametrize("model", ["gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "gpt-4.1-mini-latest"])
def test_a_price_is_found_with_and_without_the_date_of_the_model(model: str) -> None:
    price = Prices().find("openai", model, "https://api.openai.com/v1")
    assert price is not None
    assert (price.input, price.output, price.cached) == (Decimal("0.40"), Decimal("1.60"), Decimal("0.10"))


def test_a_price_of_its_own_wins_over_the_one_without_the_date() -> None:
    price = Prices().find("openai", "gpt-4o-2024-05-13")
    assert price is not None
    assert price.input == 5


def test_another_server_s_model_of_the_same_name_has_no_known_price_until_somebody_says_it() -> None:
    assert Prices().find("openai", "gpt-4.1-mini", "http://localhost:8000/v1") is None
    own = Prices({"openai:gpt-4.1-mini": Price(input=Decimal(0), output=Decimal(0))})
    price = own.find("openai", "gpt-4.1-mini", "http://localhost:8000/v1")
    assert price is not None
    assert price.cost(Usage(input=10, output=10)) == 0


def test_cached_tokens_cost_what_cached_tokens_cost_and_no_tokens_cost_nobody_knows_what() -> None:
    price = Price(input=Decimal(2), output=Decimal(8), cached=Decimal("0.5"))
    assert price.cost(Usage(input=1_000_000, output=500_000, cached=400_000)) == Decimal("1.2") + 4 + Decimal("0.2")
    assert price.cost(Usage()) is None


@pytest.mark.parametrize(
    ("amount", "text"),
    [("4.98", "4.98 USD"), ("0", "0.00 USD"), ("0.00312", "0.0031 USD"), ("1234.5", "1,234.50 USD"), (None, "unknown")],
)
def test_money_never_rounds_to_nothing(amount: str | None, text: str) -> None:
    assert money(None if amount is None else Decimal(amount)) == text
