"""Answers that wait on disk, intents that a crash of the server forgot, and who may buy meanwhile: nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.db.database import open_pool
from gristmill.llm.entries import Entry
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Reply
from tests.llm.conftest import OwnDatabase, ScriptedServer
from tests.llm.test_ledger import MakeLedger, MakeModel, ask, spooled, until

HOLDER = """
import asyncio, sys
from pathlib import Path
from gristmill.db.database import open_pool
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request
from gristmill.llm.openai import OpenAIModel

async def main(database, base_url, spool):
    pool = await open_pool(database, size=2)
    ledger = Ledger(pool, Path(spool), lease=2.0)
    ledger.replay = lambda: asyncio.sleep(0, 0)  # it is frozen in front of the replay
    model = LedgeredModel(OpenAIModel("scripted", base_url=base_url), ledger)
    answer = await model.complete(Request((Message("user", "hello"),)))
    print(answer.text, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_answer_on_another_process_s_disk_is_not_bought_again_while_it_lives_nor_after_it_was_killed(
    own_database: OwnDatabase, create_ledger: Any, open_model: MakeModel, model_server: ScriptedServer, tmp_path: Path
) -> None:
    pool = await open_pool(own_database.url, size=2)
    async with pool.acquire() as connection:
        await create_ledger(connection)
    await model_server.control(latency=0.5)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, own_database.url, model_server.base_url, str(tmp_path)], stdout=subprocess.PIPE
    )
    await until(lambda: pool.fetchval("SELECT count(*) FROM call"))
    own_database.stop()
    try:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == b"You said: hello\n"
        assert len(spooled(tmp_path)) == 1
    finally:
        own_database.start()
    await until(lambda: pool.fetchval("SELECT count(*) FROM call WHERE deadline > clock_timestamp()"))
    other = Ledger(pool, tmp_path, lease=2.0)
    call = asyncio.create_task(LedgeredModel(open_model(), other).complete(ask()))
    moved = await pool.fetchval("SELECT deadline FROM call")
    await until(lambda: pool.fetchval("SELECT deadline > $1 FROM call", moved))  # it is moved on, again and again
    assert not call.done()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (await call).from_ledger
    assert spooled(tmp_path) == []
    assert (await model_server.stats())["requests"] == 1
    await other.close()
    pool.terminate()


async def test_an_intent_that_the_server_forgot_is_there_again_before_its_owner_is_through(
    pool: Any, open_ledger: MakeLedger
) -> None:
    ledger, other = open_ledger(lease=0.4), open_ledger(patience=0.2)
    entry = Entry(b"k" * 32, uuid.uuid4(), ledger.worker, "openai", "m", run=3)
    assert await ledger.begin(entry) is None
    await pool.execute("DELETE FROM call")
    await until(lambda: pool.fetchval("SELECT owner = $1 AND run = 3 FROM call", entry.owner))
    later = asyncio.create_task(other.begin(Entry(entry.key, uuid.uuid4(), other.worker, "openai", "m")))
    await ledger.journal(entry, Reply(b"paid"))
    found = await later
    assert found is not None
    assert found.body == b"paid"


async def test_a_call_that_was_given_back_while_it_was_renewed_holds_nobody_up(
    pool: Any, open_ledger: MakeLedger
) -> None:
    ledger = open_ledger(lease=60.0)
    entries = [Entry(bytes([n]) * 32, uuid.uuid4(), ledger.worker, "openai", "m") for n in range(20)]
    for entry in entries:
        await ledger.begin(entry)
        ledger._live[entry.owner] = (entry, -1e9)  # long overdue
    await asyncio.gather(ledger._tidy(), *(ledger.give_back(entry, maybe_paid=False) for entry in entries))
    other = open_ledger(patience=0.5)
    for entry in entries:
        assert await other.begin(Entry(entry.key, uuid.uuid4(), other.worker, "openai", "m")) is None


@pytest.mark.thorough
async def test_after_an_outage_who_still_asks_gets_time_to_say_so(
    own_database: OwnDatabase, create_ledger: Any, open_model: MakeModel, model_server: ScriptedServer, tmp_path: Path
) -> None:
    pool = await open_pool(own_database.url, size=4)
    async with pool.acquire() as connection:
        await create_ledger(connection)
    await model_server.control(latency=3.0)
    first, second = Ledger(pool, tmp_path, lease=1.0), Ledger(pool, tmp_path, lease=6.0)
    call = asyncio.create_task(LedgeredModel(open_model(), first).complete(ask()))
    await until(lambda: pool.fetchval("SELECT count(*) FROM call"))
    await pool.execute("CHECKPOINT")  # an intent's commit does not wait for the disk
    own_database.stop()
    await asyncio.sleep(1.2)  # longer than the lease
    own_database.start()
    answers = await asyncio.gather(call, LedgeredModel(open_model(), second).complete(ask()))
    assert sorted(answer.from_ledger for answer in answers) == [False, True]
    assert (await model_server.stats())["requests"] == 1
    await first.close()
    await second.close()
    pool.terminate()


async def test_two_that_bought_the_same_have_both_spent_their_money_and_a_replay_spends_none(
    pool: Any, open_ledger: MakeLedger
) -> None:
    from decimal import Decimal

    from gristmill.llm.model import Usage
    from gristmill.llm.prices import Price, Prices

    prices = Prices({"openai:m": Price(input=Decimal(1), output=Decimal(2))})
    slow, quick = open_ledger(lease=0.05, prices=prices), open_ledger(prices=prices)
    old = Entry(b"k" * 32, uuid.uuid4(), slow.worker, "openai", "m")
    new = Entry(b"k" * 32, uuid.uuid4(), quick.worker, "openai", "m")
    assert await slow.begin(old) is None
    slow._keeper.cancel()  # type: ignore[union-attr]
    assert await quick.begin(new) is None
    reply = Reply(b"paid", usage=Usage(input=500_000, output=250_000))
    for _ in range(2):  # the second time it comes from a spool
        await slow.journal(old, reply)
    await quick.journal(new, reply)
    spent: Callable[[], Any] = lambda: pool.fetchval("SELECT sum(amount) FROM spending_delta")  # noqa: E731
    assert await spent() == Decimal(2)
    assert await pool.fetchval("SELECT cost FROM call") == Decimal(1)


async def test_the_same_question_within_another_circle_is_another_purchase(
    ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    assert not (await ledgered.complete(ask())).from_ledger
    assert not (await ledgered.complete(ask(reuse_within="run 7"))).from_ledger
    assert (await ledgered.complete(ask(reuse_within="run 7"))).from_ledger
    assert not (await ledgered.complete(ask(reuse_within="run 8"))).from_ledger
    assert (await model_server.stats())["requests"] == 3
