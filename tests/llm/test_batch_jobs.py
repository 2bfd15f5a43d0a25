"""Calls that go through a provider's batch API: nothing is lost, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gristmill.errors import Busy, ModelRefused, ModelUnavailable
from gristmill.llm import calls
from gristmill.llm.batch_jobs import Gathering
from gristmill.llm.batched import BatchedModel
from gristmill.llm.budget import Budgets, standing
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Answer, Message, Request
from gristmill.llm.prices import Caps, Price, Prices
from gristmill.llm.providers import protocol_class
from tests.llm.conftest import ScriptedServer
from tests.llm.test_ledger import MakeLedger, until

ROOT = Path(__file__).parents[2]
PROVIDERS = ["openai", "openai-responses", "anthropic"]
QUICK = Gathering(wait=0.0, size=100, beat=0.02, lease=20.0, settle=0.0)
MakeBatched = Callable[..., BatchedModel]


@pytest.fixture
async def batched(model_server: ScriptedServer, open_ledger: MakeLedger) -> AsyncIterator[MakeBatched]:
    """Makes models as different processes would have them."""
    opened: list[BatchedModel] = []

    def make(provider: str = "openai", **settings: Any) -> BatchedModel:
        ledger = settings.pop("ledger", None) or open_ledger(worker=uuid.uuid4())
        remote = protocol_class(provider)("scripted", provider=provider, base_url=model_server.base_url)
        opened.append(BatchedModel(remote, ledger, gathering=settings.pop("gathering", QUICK), **settings))
        return opened[-1]

    yield make
    for model in opened:
        await model.close()


def ask(text: str, **more: Any) -> Request:
    return Request((Message("user", text),), **more)


async def answered(model: BatchedModel, request: Request) -> Answer:
    """Asks as the engine does: again and again while it is told to wait."""

    async def one() -> Answer | None:
        try:
            return await model.complete(request)
        except Busy:
            return None

    async with asyncio.timeout(20):
        found: Answer = await until(one)
        return found


async def all_answered(model: BatchedModel, count: int) -> list[Answer]:
    return await asyncio.gather(*(answered(model, ask(f"question {n}")) for n in range(count)))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_calls_wait_for_their_batch_and_get_the_same_answers_as_single_ones(
    provider: str, batched: MakeBatched, model_server: ScriptedServer, open_ledger: MakeLedger, pool: Any
) -> None:
    model = batched(provider, gathering=Gathering(wait=60.0, size=5, beat=0.02))
    with pytest.raises(Busy, match=r"waiting for batch \d+ of ") as caught:
        await model.complete(ask("question 0"))
    assert caught.value.delay >= 30
    answers = await all_answered(model, 5)
    assert [one.text for one in answers] == [f"You said: question {n}" for n in range(5)]
    assert answers[0].usage.input > 0
    stats = await model_server.stats()
    assert (stats["batches"], stats["questions"], stats["requests"]) == (1, [5], 0)
    keys = [row["key"] for row in await pool.fetch("select encode(key, 'hex') as key from call")]
    asked = [(await calls.find(pool, key))["request"]["messages"][-1]["parts"][0]["text"] for key in keys]
    assert sorted(asked) == [f"question {n}" for n in range(5)]
    remote = protocol_class(provider)("scripted", provider=provider, base_url=model_server.base_url)
    single = LedgeredModel(remote, open_ledger())
    assert (await single.complete(ask("question 1"))).from_ledger  # it is the same purchase
    await single.close()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("kind", ["error", "expired"])
async def test_failed_rows_are_asked_again_in_the_next_batch(
    provider: str, kind: str, batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(batch_fault={"kind": kind, "contains": "question 1", "once": True})
    answers = await all_answered(batched(provider), 3)
    assert [one.text for one in answers] == [f"You said: question {n}" for n in range(3)]
    stats = await model_server.stats()
    assert (sum(stats["questions"]), stats["repeated"]) == (4, 0)


async def test_failed_rows_are_asked_again_alone_where_that_is_wanted(
    batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(batch_fault={"kind": "error", "contains": "question 1"})
    answers = await all_answered(batched(again="single"), 3)
    assert [one.text for one in answers] == [f"You said: question {n}" for n in range(3)]
    stats = await model_server.stats()
    assert (sum(stats["questions"]), stats["requests"]) == (3, 1)


async def test_a_row_that_fails_in_three_batches_fails_its_task_and_may_be_asked_anew(
    batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(batch_fault={"kind": "expired"})
    model = batched()
    with pytest.raises(ModelUnavailable, match="3 batches did not answer"):
        await answered(model, ask("hello"))
    assert (await model_server.stats())["batches"] == 3
    await model_server.control(batch_fault={})
    assert (await answered(model, ask("hello"))).text == "You said: hello"


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_row_that_the_provider_refuses_fails_at_once_as_a_single_call_does(
    provider: str, batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(batch_fault={"kind": "error", "status": 400, "message": "no such thing"})
    with pytest.raises(ModelRefused, match="no such thing"):
        await answered(batched(provider), ask("hello"))
    assert (await model_server.stats())["batches"] == 1


async def test_a_server_without_schemas_is_asked_in_words_in_the_next_batch(
    batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(formats=["text"])
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    assert "answer" in (await answered(batched(), ask("hello", schema=schema))).text


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_batch_that_was_made_and_not_noted_is_found_again_and_not_made_twice(
    provider: str, batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(batch_fault={"kind": "lost_answer", "once": True}, batch_seconds=0.3)
    first = batched(provider)
    with pytest.raises(Busy):
        await first.complete(ask("hello"))

    async def lost() -> Any:
        return await pool.fetchval("select id from batch_job where begun_at is not null and note is not null")

    await until(lost)
    await first.close()  # the process that made it is gone
    await pool.execute("update batch_job set next_at = '-infinity'")
    assert (await answered(batched(provider), ask("hello"))).text == "You said: hello"
    stats = await model_server.stats()
    assert (stats["batches"], stats["repeated"]) == (1, 0)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_a_process_killed_between_the_making_of_its_batch_and_the_note_of_it_has_it_made_once(
    provider: str, batched: MakeBatched, model_server: ScriptedServer, pool: Any, database_url: str
) -> None:
    told = [sys.executable, "-m", "tests.llm.batching_process", database_url, model_server.base_url, provider]
    with subprocess.Popen(told, stdin=subprocess.PIPE, cwd=ROOT) as process:
        fault = {"kind": "lost_answer", "once": True, "kill": process.pid}
        await model_server.control(batch_fault=fault, batch_seconds=0.3)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL
    assert (await model_server.stats())["batches"] == 1
    assert await pool.fetchval("select begun_at is not null and provider_id is null from batch_job")
    assert (await answered(batched(provider), ask("hello"))).text == "You said: hello"
    stats = await model_server.stats()
    assert (stats["batches"], stats["repeated"]) == (1, 0)


async def test_anothers_batch_of_the_same_size_is_not_taken_for_ones_own(
    batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(batch_seconds=0.2)
    other = batched("anthropic")
    await answered(other, ask("from elsewhere"))
    await pool.execute("delete from batch_job")  # another project's, in another database
    first = batched("anthropic", gathering=Gathering(wait=60.0))
    with pytest.raises(Busy):
        await first.complete(ask("hello"))
    await first.close()
    await pool.execute(
        "update batch_job set begun_at = clock_timestamp(), state = 'closed'"
    )  # killed before it was sent
    assert (await answered(batched("anthropic"), ask("hello"))).text == "You said: hello"
    assert (await model_server.stats())["questions"] == [1, 1]


async def test_a_process_that_stops_while_its_batch_runs_is_followed_by_another(
    batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(batch_seconds=0.5)
    first = batched()
    for number in range(3):
        with pytest.raises(Busy):
            await first.complete(ask(f"question {number}"))

    async def runs() -> Any:
        return await pool.fetchval("select bool_and(state = 'running') from batch_job")

    await until(runs)
    await first.close()
    await all_answered(batched(), 3)
    stats = await model_server.stats()
    assert (sum(stats["questions"]), stats["repeated"]) == (3, 0)


async def test_a_provider_that_takes_no_more_batches_now_gets_this_one_later(
    batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(batch_fault={"kind": "failed", "code": "token_limit_exceeded", "once": True})
    model = batched()
    with pytest.raises(Busy):
        await model.complete(ask("hello"))

    async def refused() -> Any:
        return await pool.fetchval(
            "select id from batch_job where note like '%token_limit_exceeded%' and until < now()"
        )

    await until(refused)
    await pool.execute("update batch_job set next_at = '-infinity'")
    assert (await answered(model, ask("hello"))).text == "You said: hello"


async def test_a_key_that_is_refused_fails_the_calls_and_not_for_ever(
    batched: MakeBatched, model_server: ScriptedServer
) -> None:
    await model_server.control(batch_fault={"kind": "no_batches"})
    model = batched()
    with pytest.raises(ModelRefused, match="did not take the batch"):
        await answered(model, ask("hello"))
    await model_server.control(batch_fault={})
    assert (await answered(model, ask("hello"))).text == "You said: hello"


async def test_a_cancelled_run_sends_nothing_and_cancels_what_was_sent(
    batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    run = await pool.fetchval("insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id")
    await model_server.control(batch_seconds=60)
    model, slow = batched(), batched(gathering=Gathering(wait=0.3, beat=0.02))
    with pytest.raises(Busy):
        await model.complete(ask("sent", run=run))

    async def sent() -> Any:
        return await pool.fetchval("select state = 'running' from batch_job")

    await until(sent)
    await model.close()
    with pytest.raises(Busy):
        await slow.complete(ask("never sent", run=run))
    await pool.execute("update run set state = 'cancelled'")
    await pool.execute("update batch_job set next_at = '-infinity'")

    async def ended() -> Any:
        return await pool.fetchval("select bool_and(state = 'ended') from batch_job")

    await until(ended)
    stats = await model_server.stats()
    assert (stats["batches"], stats["cancelled"]) == (1, 1)
    assert await pool.fetchval("select count(*) from call") == 0


async def test_an_answer_is_new_in_the_try_that_asked_for_it_and_an_old_one_in_the_next(
    batched: MakeBatched, pool: Any
) -> None:
    run = await pool.fetchval("insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id")
    task = await pool.fetchval(
        "insert into task (run_id, kind, pool, state) values ($1, 'k', 'p', 'running') returning id", run
    )
    model, request = batched(), ask("hello", task=task, run=run)
    assert not (await answered(model, request)).from_ledger
    assert not (await answered(model, request)).from_ledger  # given back for another question, and here again
    await pool.execute("update task set failures = 1")
    assert (await answered(model, request)).from_ledger


async def test_the_task_behind_an_answer_comes_back_at_once(
    batched: MakeBatched, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(batch_seconds=0.3)
    run = await pool.fetchval("insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id")
    task = await pool.fetchval("insert into task (run_id, kind, pool) values ($1, 'k', 'p') returning id", run)
    with pytest.raises(Busy) as caught:
        await batched().complete(ask("hello", task=task, run=run))
    await pool.execute("update task set held = $1, run_at = clock_timestamp() + interval '1 hour'", caught.value.reason)

    async def due() -> Any:
        return await pool.fetchval("select run_at <= clock_timestamp() from task")

    assert await until(due)


async def test_a_batch_costs_half_and_its_money_is_set_aside_until_it_ends(
    batched: MakeBatched, model_server: ScriptedServer, open_ledger: MakeLedger, pool: Any
) -> None:
    await model_server.control(batch_seconds=0.4)
    prices = Prices({"openai:scripted": Price(input=Decimal(1000), output=Decimal(1000))})
    caps = Caps(project=Decimal(1000))
    ledger: Ledger = open_ledger(prices=prices)
    budgets = Budgets(pool, prices, caps=caps)
    model = batched(ledger=ledger, budgets=budgets)
    with pytest.raises(Busy):
        await model.complete(ask("hello"))
    holds = await pool.fetch("select h.amount from budget_hold h join batch_job j on j.mark = h.worker")
    assert [hold["amount"] > 0 for hold in holds] == [True]
    await answered(model, ask("hello"))

    async def over() -> Any:
        return await pool.fetchval("select state = 'ended' from batch_job")

    await until(over)
    row = await pool.fetchrow("select cost, tokens_in + tokens_out as tokens from call")
    assert row["cost"] == Decimal(row["tokens"]) / 2000
    await budgets.close()
    (project,) = [one for one in await standing(pool, caps=caps) if one.scope == "project"]
    assert (project.spent, project.held) == (row["cost"], Decimal(0))
