"""Budgets against a real database: no cap is passed, whoever asks, and whatever dies in between."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from gristmill.errors import BudgetSpent, Busy, ModelRefused
from gristmill.llm.budget import Budgets, set_cap, standing
from gristmill.llm.entries import Entry
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Reply, Usage
from gristmill.llm.prices import Caps, Price, Prices
from tests.llm.test_ledger import MakeLedger, until

PRICES = Prices({"openai:m": Price(input=Decimal(1), output=Decimal(1))})  # a million tokens cost 1.00
MakeBudgets = Callable[..., Budgets]


@pytest.fixture
async def open_budgets(pool: Any) -> AsyncIterator[MakeBudgets]:
    """Makes budgets as different processes would have them."""
    opened: list[Budgets] = []

    def make(**settings: Any) -> Budgets:
        opened.append(Budgets(pool, settings.pop("prices", PRICES), **settings))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


def call(run: int | None = None, model: str = "m") -> Entry:
    return Entry(uuid.uuid4().bytes * 2, uuid.uuid4(), uuid.uuid4(), "openai", model, run=run)


async def add_run(pool: Any, project: str = "default") -> int:
    number: int = await pool.fetchval(
        "INSERT INTO run (project, name, workflow, definition) VALUES ($1, 'r', 'w', '{}') RETURNING id", project
    )
    return number


async def buy(budgets: Budgets, ledger: Ledger, entry: Entry, tokens: int = 100_000, most: int = 100_000) -> bool:
    """One call as the pipeline makes it: it may cost `most` tokens and costs `tokens`. Whether it was allowed."""
    while True:
        try:
            reservation = await budgets.reserve(entry, 1, most - 1)
        except BudgetSpent:
            return False
        except Busy:
            await asyncio.sleep(0.01)
            continue
        await ledger.begin(entry)
        reply = Reply(b"{}", "stop", Usage(input=tokens // 2, output=tokens - tokens // 2))
        await ledger.journal(entry, reply)
        if reservation is not None:
            await reservation.settle(reservation.cost(reply.usage))
        return True


async def spent(pool: Any, scope: str, **settings: Any) -> Decimal:
    found = [one.spent for one in await standing(pool, **settings) if one.scope == scope]
    return found[0]


async def test_without_a_budget_nothing_is_set_aside(pool: Any, open_budgets: MakeBudgets) -> None:
    assert await open_budgets().reserve(call(), 10, 10) is None
    assert await pool.fetchval("SELECT count(*) FROM budget_hold") == 0


async def test_a_budget_stops_before_it_is_passed_whatever_is_in_flight_in_several_processes(
    pool: Any, open_budgets: MakeBudgets, open_ledger: MakeLedger
) -> None:
    run = await add_run(pool)
    await set_cap(pool, "run", run, Decimal("2.05"))
    processes = [(open_budgets(lease=2.0), open_ledger(prices=PRICES)) for _ in range(3)]
    allowed = await asyncio.gather(*[buy(*processes[n % 3], call(run)) for n in range(60)])
    assert sum(allowed) == 20
    assert await spent(pool, "run", run=run) == Decimal(2)
    assert await pool.fetchval("SELECT sum(cost) FROM call WHERE run = $1", run) == Decimal(2)


async def test_what_cost_less_than_was_set_aside_is_spent_on_more_calls(
    pool: Any, open_budgets: MakeBudgets, open_ledger: MakeLedger
) -> None:
    budgets, ledger = open_budgets(caps=Caps(project=Decimal(1))), open_ledger(prices=PRICES)
    allowed = [await buy(budgets, ledger, call(), tokens=100_000, most=300_000) for _ in range(12)]
    assert allowed == [True] * 8 + [False] * 4  # the ninth could have passed it


async def test_a_spent_budget_pauses_the_run_once_and_goes_on_after_it_was_raised(
    pool: Any, open_budgets: MakeBudgets, open_ledger: MakeLedger
) -> None:
    run = await add_run(pool)
    budgets, ledger = open_budgets(caps=Caps(run=Decimal("0.25"))), open_ledger(prices=PRICES)
    assert [await buy(budgets, ledger, call(run)) for _ in range(4)] == [True, True, False, False]
    row = await pool.fetchrow("SELECT state, held, held_until FROM run WHERE id = $1", run)
    assert tuple(row) == ("paused", "budget: run 0.25 USD, spent 0.20", None)
    events = await pool.fetch("SELECT run_id, body FROM event_inbox WHERE name = 'budget.spent'")
    assert [row["run_id"] for row in events] == [run]
    assert json.loads(events[0]["body"]) == {
        "scope": "run", "cap": "0.25", "spent": "0.2", "currency": "USD", "next_call": "0.1",
    }  # fmt: skip
    await set_cap(pool, "run", run, Decimal("0.35"))
    budgets._known.clear()  # or wait two seconds
    assert await buy(budgets, ledger, call(run))


async def test_the_day_and_the_project_limit_all_runs_together(
    pool: Any, open_budgets: MakeBudgets, open_ledger: MakeLedger
) -> None:
    first, second, stranger = await add_run(pool), await add_run(pool), await add_run(pool, "other")
    budgets, ledger = open_budgets(caps=Caps(day=Decimal("0.2"))), open_ledger(prices=PRICES)
    assert await buy(budgets, ledger, call(first))
    assert await buy(budgets, ledger, call(second))
    assert not await buy(budgets, ledger, call(first))
    assert await buy(budgets, ledger, call(stranger))
    assert await pool.fetchval("SELECT held_until > clock_timestamp() FROM run WHERE id = $1", first)
    assert await pool.fetchval("SELECT state FROM run WHERE id = $1", second) == "running"  # until it asks


async def test_money_of_a_process_that_was_killed_is_free_after_its_lease_or_its_burial(
    pool: Any, open_budgets: MakeBudgets
) -> None:
    await set_cap(pool, "project", "default", Decimal(1))
    nonce = uuid.uuid4()
    dead = open_budgets(lease=600.0, worker=nonce)
    assert await dead.reserve(call(), 1, 800_000) is not None
    silent = open_budgets(lease=0.3)
    with pytest.raises(Busy) as caught:
        await silent.reserve(call(), 1, 300_000)
    assert not isinstance(caught.value, BudgetSpent)
    await pool.execute(
        "INSERT INTO worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until, state,"
        " cause) VALUES ($1, '', '', '', 1, 1, '{}', '', '1 s', clock_timestamp(), 'dead', 'its process ended')",
        nonce,
    )  # fmt: skip
    assert await silent.reserve(call(), 1, 300_000) is not None
    silent._keeper.cancel()  # type: ignore[union-attr]  # a killed process renews nothing
    await until(lambda: pool.fetchval("SELECT bool_or(deadline < clock_timestamp()) FROM budget_hold"))
    assert await open_budgets().reserve(call(), 1, 900_000) is not None


async def test_a_process_whose_money_was_free_meanwhile_has_to_ask_again(pool: Any, open_budgets: MakeBudgets) -> None:
    await set_cap(pool, "project", "default", Decimal(1))
    frozen = open_budgets(lease=0.3)
    assert await frozen.reserve(call(), 1, 10_000) is not None
    frozen._keeper.cancel()  # type: ignore[union-attr]
    await until(lambda: pool.fetchval("SELECT bool_or(deadline < clock_timestamp()) FROM budget_hold"))
    assert await open_budgets().reserve(call(), 1, 985_000) is not None
    with pytest.raises(Busy):
        await frozen.reserve(call(), 1, 10_000)


async def test_a_call_that_was_never_answered_counts_with_its_estimate_and_one_never_sent_with_nothing(
    pool: Any, open_budgets: MakeBudgets
) -> None:
    budgets = open_budgets(caps=Caps(project=Decimal(1)))
    lost = await budgets.reserve(call(), 1, 299_999)
    unsent = await budgets.reserve(call(), 1, 299_999)
    assert lost is not None
    assert unsent is not None
    await lost.settle(None)
    await unsent.release()
    await unsent.settle(Decimal(5))  # only the first word counts
    (found,) = [one for one in await standing(pool, caps=Caps(project=Decimal(1))) if one.scope == "project"]
    assert (found.spent, found.uncertain, found.cap) == (Decimal("0.3"), Decimal("0.3"), Decimal(1))


async def test_an_unknown_price_passes_with_a_warning_or_is_refused_by_a_strict_budget(
    open_budgets: MakeBudgets, caplog: pytest.LogCaptureFixture
) -> None:
    lenient = open_budgets(caps=Caps(project=Decimal(1)))
    for _ in range(2):
        assert await lenient.reserve(call(model="unheard-of"), 1, 1) is None
    assert caplog.text.count("its price is not known") == 1
    assert '[prices."openai:unheard-of"]' in caplog.text
    with pytest.raises(ModelRefused) as caught:
        await open_budgets(caps=Caps(project=Decimal(1), strict=True)).reserve(call(model="unheard-of"), 1, 1)
    assert caught.value.code == "M422"
    euros = open_budgets(caps=Caps(project=Decimal(1), currency="EUR", strict=True))
    with pytest.raises(ModelRefused, match="its price is in USD"):
        await euros.reserve(call(), 1, 1)


async def test_most_calls_cost_no_round_trip(pool: Any, open_budgets: MakeBudgets) -> None:
    budgets = open_budgets(caps=Caps(project=Decimal(1000)))
    seen: list[str] = []
    connections = [await pool.acquire() for _ in range(pool.get_size())]
    for connection in connections:
        connection._con.add_query_logger(lambda record: seen.append(record.query))
        await pool.release(connection)
    for _ in range(90):
        reservation = await budgets.reserve(call(), 10, 1000)
        assert reservation is not None
        await reservation.settle(Decimal("0.00101"))
    assert sum("budget_hold" in query for query in seen) <= 12


async def test_sums_stay_true_when_they_are_folded_by_many(pool: Any, open_ledger: MakeLedger) -> None:
    run = await add_run(pool)
    ledger = open_ledger(prices=PRICES)
    for _ in range(10):
        entry = call(run)
        await ledger.begin(entry)
        await ledger.journal(entry, Reply(b"{}", usage=Usage(input=1000, output=1000)))
    before = await standing(pool, run=run)
    await asyncio.gather(*[ledger_sum(pool) for _ in range(5)])
    assert await pool.fetchval("SELECT count(*) FROM spending_delta") == 0
    assert await standing(pool, run=run) == before
    assert {one.scope: one.spent for one in before} == dict.fromkeys(("run", "day", "project"), Decimal("0.02"))


async def ledger_sum(pool: Any) -> None:
    from gristmill.llm.budget import SQL

    await pool.execute(SQL["sum_up"])
