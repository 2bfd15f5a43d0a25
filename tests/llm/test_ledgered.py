"""One call between ledger, quota and budget: whichever stops it, the other two have nothing left of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from gristmill.errors import BudgetSpent, LimitReached, ModelUnavailable
from gristmill.llm.budget import Budgets, standing
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.prices import Caps, Price, Prices
from gristmill.llm.quota import Quotas
from gristmill.llm.quota_limits import report, set_limit
from gristmill.llm.quota_settings import LimitSettings
from tests.llm.conftest import ScriptedServer
from tests.llm.test_ledger import MakeLedger

PRICES = Prices({"openai:scripted": Price(input=Decimal(1000), output=Decimal(1000))})
Buying = Callable[..., LedgeredModel]
purses: list[Budgets] = []
HELLO = Request((Message("user", "hello"),))


@pytest.fixture
async def buying(pool: Any, open_ledger: MakeLedger, open_model: Callable[..., OpenAIModel]) -> AsyncIterator[Buying]:
    """A model whose calls need an intent in the ledger, a permit of the limit "test" and money."""

    def make(cap: str = "1000") -> LedgeredModel:
        quotas, budgets = Quotas(pool, beat=0.05), Budgets(pool, PRICES, caps=Caps(project=Decimal(cap)))
        opened.extend((quotas, budgets))
        purses.append(budgets)
        return LedgeredModel(
            open_model(limit="test", parameters={"max_tokens": 100}), open_ledger(prices=PRICES), quotas=quotas,
            budgets=budgets,
        )  # fmt: skip

    opened: list[Quotas | Budgets] = []
    purses.clear()
    yield make
    for one in opened:
        await one.close()


async def money(pool: Any) -> tuple[Decimal, Decimal]:
    """Spent, and set aside by calls; what the processes keep for their next ones is given back first."""
    for budgets in purses:
        await budgets.close()
    (found,) = [one for one in await standing(pool, caps=Caps(project=Decimal(1000))) if one.scope == "project"]
    return found.spent, found.held


async def intents(pool: Any) -> int:
    number: int = await pool.fetchval("select count(*) from call where state = 'intent'")
    return number


async def test_an_answer_is_counted_by_the_quota_and_paid_by_the_budget_with_its_usage(
    buying: Buying, pool: Any
) -> None:
    await set_limit(pool, "test", LimitSettings(requests_per_day=10, concurrency=2), by="anna")
    answer = await buying().complete(HELLO)
    spent, held = await money(pool)
    assert (spent, held) == (Decimal(answer.usage.input + answer.usage.output) / 1000, Decimal(0))
    (told,) = await report(pool)
    assert (told.requests_today, told.in_flight) == (1, 0)
    assert await intents(pool) == 0


async def test_a_spent_budget_leaves_the_permit_to_others_and_no_intent(
    buying: Buying, pool: Any, model_server: ScriptedServer
) -> None:
    await set_limit(pool, "test", LimitSettings(concurrency=1), by="anna")
    model = buying(cap="0.001")
    for _ in range(3):  # the one permit is free each time
        with pytest.raises(BudgetSpent):
            await model.complete(HELLO)
    assert (await money(pool), await intents(pool)) == ((Decimal(0), Decimal(0)), 0)
    assert (await model_server.stats())["requests"] == 0


async def test_a_call_that_its_quota_sends_away_sets_no_money_aside(
    buying: Buying, pool: Any, model_server: ScriptedServer
) -> None:
    await set_limit(pool, "test", LimitSettings(requests_per_day=1), by="anna")
    model = buying()
    await model.complete(HELLO)
    spent, _ = await money(pool)
    with pytest.raises(LimitReached):
        await model.complete(Request((Message("user", "and now?"),)))
    assert (await money(pool), await intents(pool)) == ((spent, Decimal(0)), 0)
    assert (await model_server.stats())["requests"] == 1


async def test_a_refusal_with_429_costs_nothing_and_holds_all_up(
    buying: Buying, pool: Any, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "rate", "first": 9, "retry_after": "30"}])
    with pytest.raises(LimitReached):
        await buying().complete(HELLO)
    with pytest.raises(LimitReached):
        await buying().complete(Request((Message("user", "and now?"),)))
    assert (await money(pool), await intents(pool)) == ((Decimal(0), Decimal(0)), 0)
    assert (await model_server.stats())["requests"] == 1


async def test_a_call_that_was_sent_and_never_answered_costs_its_estimate_and_frees_its_permit(
    buying: Buying, pool: Any, model_server: ScriptedServer
) -> None:
    await set_limit(pool, "test", LimitSettings(concurrency=1), by="anna")
    await model_server.control(faults=[{"kind": "error", "status": 500, "once": True}])
    model = buying()
    with pytest.raises(ModelUnavailable):
        await model.complete(HELLO)
    spent, held = await money(pool)
    assert spent > 0
    assert held == 0
    assert (await model.complete(HELLO)).text == "You said: hello"
