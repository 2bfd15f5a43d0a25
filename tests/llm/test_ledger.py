"""The ledger against a real server and a real database."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import open_pool
from gristmill.db.statements import statements
from gristmill.errors import Busy, ModelRefused, ModelUnavailable, TransientError
from gristmill.llm.entries import Entry, call_key
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Answer, Message, Reply, Request, UnusableAnswer
from gristmill.llm.openai import OpenAIModel
from tests.llm.conftest import OwnDatabase, ScriptedServer

MakeModel = Callable[..., OpenAIModel]
MakeLedger = Callable[..., Ledger]


def ask(text: str = "hello", **settings: Any) -> Request:
    return Request((Message("user", text),), **settings)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What the condition returns as soon as it is true; the test's own timeout bounds it."""
    while not (found := await condition()):
        await asyncio.sleep(0.01)
    return found


def spooled(folder: Path) -> list[Path]:
    return list(folder.glob("*.calls"))


async def test_a_repeated_request_is_answered_from_the_ledger(
    ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    first = await ledgered.complete(ask())
    again = await ledgered.complete(ask())
    assert (first.text, first.from_ledger) == ("You said: hello", False)
    assert (again.text, again.from_ledger, again.raw) == (first.text, True, first.raw)
    assert (await model_server.stats())["requests"] == 1


async def test_another_process_finds_the_answer_too(
    ledgered: LedgeredModel, open_model: MakeModel, open_ledger: MakeLedger, model_server: ScriptedServer
) -> None:
    await ledgered.complete(ask())
    other = LedgeredModel(open_model(), open_ledger())
    assert (await other.complete(ask())).from_ledger
    assert (await model_server.stats())["requests"] == 1


def test_the_key_depends_on_everything_that_can_change_the_answer_and_on_nothing_else() -> None:
    base = ask(parameters={"temperature": 0})
    changed = [
        ask("other", parameters={"temperature": 0}),
        ask(parameters={"temperature": 1}),
        ask(),
        replace(base, schema={"type": "object"}),
        replace(base, sample=1),
        replace(base, attempt=1),
    ]
    keys = {call_key(b"binding", request) for request in [base, *changed]}
    assert len(keys) == len(changed) + 1
    assert call_key(b"other", base) not in keys
    assert call_key(b"binding", replace(base, task=5, run=7, prompt="ask", fields={"a": 1})) in keys
    assert call_key(b"binding", ask(parameters={"temperature": 0})) == call_key(b"binding", base)


async def test_two_askers_of_the_same_question_buy_it_once(
    open_model: MakeModel, open_ledger: MakeLedger, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=0.3)
    askers = [LedgeredModel(open_model(), open_ledger()) for _ in range(4)]
    answers = await asyncio.gather(*[asker.complete(ask()) for asker in askers for _ in range(3)])
    assert {answer.text for answer in answers} == {"You said: hello"}
    assert sum(not answer.from_ledger for answer in answers) == 1
    assert (await model_server.stats())["requests"] == 1


async def test_an_intent_of_a_killed_process_is_taken_over_after_its_deadline(
    pool: Any, open_model: MakeModel, open_ledger: MakeLedger
) -> None:
    model, dead = open_model(), open_ledger(lease=0.3)
    key = call_key(model.binding.fingerprint(), ask())
    entry = Entry(key, uuid.uuid4(), dead.worker, "openai", "scripted")
    assert await dead.begin(entry) is None
    dead._keeper.cancel()  # type: ignore[union-attr]  # a killed process renews nothing
    answer = await LedgeredModel(model, open_ledger()).complete(ask())
    assert not answer.from_ledger
    row = await pool.fetchrow("SELECT tries, state FROM call WHERE key = $1", key)
    assert (row["tries"], row["state"]) == (2, "ok")


async def test_an_intent_of_a_process_that_is_surely_dead_is_taken_over_at_once(
    pool: Any, open_model: MakeModel, open_ledger: MakeLedger
) -> None:
    model, dead = open_model(), open_ledger(lease=600.0)
    key = call_key(model.binding.fingerprint(), ask())
    assert await dead.begin(Entry(key, uuid.uuid4(), dead.worker, "openai", "scripted")) is None
    await pool.execute(
        "INSERT INTO worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until, state,"
        " cause) VALUES ($1, '', '', '', 1, 1, '{}', '', '1 s', clock_timestamp(), 'dead', 'its process ended')",
        dead.worker,
    )  # fmt: skip
    assert not (await LedgeredModel(model, open_ledger(lease=600.0)).complete(ask())).from_ledger


async def test_a_call_that_outlives_its_lease_is_not_taken_over_while_its_process_lives(
    open_model: MakeModel, open_ledger: MakeLedger, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=1.5)
    first = LedgeredModel(open_model(), open_ledger(lease=0.5))
    second = LedgeredModel(open_model(), open_ledger(lease=0.5))
    answers = await asyncio.gather(first.complete(ask()), second.complete(ask()))
    assert sorted(answer.from_ledger for answer in answers) == [False, True]
    assert (await model_server.stats())["requests"] == 1


async def test_a_waiter_gives_its_slot_back_when_its_patience_is_spent(
    open_model: MakeModel, open_ledger: MakeLedger
) -> None:
    model, other = open_model(), open_ledger()
    key = call_key(model.binding.fingerprint(), ask())
    assert await other.begin(Entry(key, uuid.uuid4(), other.worker, "openai", "scripted")) is None
    with pytest.raises(Busy):
        await LedgeredModel(model, open_ledger(patience=0.2)).complete(ask())


async def test_a_stale_owner_s_answer_is_kept_when_it_is_the_first(open_ledger: MakeLedger) -> None:
    slow, quick = open_ledger(lease=0.05), open_ledger()
    key = b"k" * 32
    old = Entry(key, uuid.uuid4(), slow.worker, "openai", "m")
    new = Entry(key, uuid.uuid4(), quick.worker, "openai", "m")
    assert await slow.begin(old) is None
    slow._keeper.cancel()  # type: ignore[union-attr]
    assert await quick.begin(new) is None
    assert (await slow.journal(old, Reply(b"paid first"))).body == b"paid first"
    assert (await quick.journal(new, Reply(b"paid second"))).body == b"paid first"


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"kind": "rate"}, Busy), ({"kind": "quota"}, ModelRefused), ({"kind": "error", "status": 400}, ModelRefused)],
)
async def test_an_intent_is_removed_when_surely_nothing_was_paid(
    fault: dict[str, Any], error: type[Exception], pool: Any, ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[fault])
    with pytest.raises(error):
        await ledgered.complete(ask())
    assert await pool.fetchval("SELECT count(*) FROM call") == 0


async def test_nobody_waits_for_a_call_whose_outcome_is_unknown_and_the_next_try_is_counted(
    pool: Any, ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "reset", "first": 1}])
    with pytest.raises(ModelUnavailable):
        await ledgered.complete(ask())
    async with asyncio.timeout(5):
        assert not (await ledgered.complete(ask())).from_ledger
    assert await pool.fetchval("SELECT tries FROM call") == 2


async def test_a_cancelled_call_leaves_nothing_to_wait_for(
    pool: Any, ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=30)
    call = asyncio.create_task(ledgered.complete(ask()))
    await until(lambda: pool.fetchval("SELECT count(*) FROM call"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await model_server.control(latency=0)
    async with asyncio.timeout(5):
        assert (await ledgered.complete(ask())).text == "You said: hello"


async def test_a_useless_answer_is_kept_as_paid_and_never_bought_again_under_its_key(
    pool: Any, ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "html"}])
    for from_ledger in (False, True):
        with pytest.raises(UnusableAnswer) as caught:
            await ledgered.complete(ask())
        assert caught.value.from_ledger is from_ledger
    row = await pool.fetchrow("SELECT state, response, note FROM call")
    assert (row["state"], row["response"]) == ("unusable", b"<html><body>Bad gateway</body></html>")
    assert "without an answer" in row["note"]
    assert (await model_server.stats())["requests"] == 1


async def test_an_answer_that_breaks_the_parser_is_in_the_ledger_before(
    pool: Any, open_model: MakeModel, open_ledger: MakeLedger
) -> None:
    class Exploding(OpenAIModel):
        def read(self, reply: Reply) -> Answer:
            raise MemoryError("a parser may do anything")

    source = open_model()
    model = Exploding("scripted", base_url=source.binding.base_url)
    with pytest.raises(MemoryError):
        await LedgeredModel(model, open_ledger()).complete(ask())
    await model.close()
    assert b"You said: hello" in await pool.fetchval("SELECT response FROM call")


async def test_the_ledger_holds_tokens_and_on_whose_behalf_it_was_paid(pool: Any, ledgered: LedgeredModel) -> None:
    await ledgered.complete(ask(task=11, run=3))
    row = await pool.fetchrow("SELECT * FROM call")
    assert (row["provider"], row["model"], row["status"], row["finish_reason"]) == ("openai", "scripted", 200, "stop")
    assert row["tokens_in"] > 0
    assert row["tokens_out"] > 0
    assert (row["tokens_cached"], row["tokens_reasoning"]) == (3, 2)
    assert (row["first_task"], row["run"]) == (11, 3)
    assert row["latency_ms"] >= 0
    assert row["made_at"] is not None


async def test_usage_says_what_was_paid_and_what_was_not(
    ledgered: LedgeredModel, open_ledger: MakeLedger, open_model: MakeModel
) -> None:
    ledger = open_ledger()
    model = LedgeredModel(open_model(), ledger)
    await model.complete(ask("a", run=1))
    await model.complete(ask("b", run=1))
    await model.complete(ask("b", run=2))
    await model.reject(ask("b"), "wrong")
    (first,) = await ledger.usage(1)
    (second,) = await ledger.usage(2)
    assert (first.model, first.calls, first.unusable, first.from_ledger) == ("scripted", 2, 1, 0)
    assert first.tokens_out > 0
    assert (second.calls, second.from_ledger, second.tokens_in) == (0, 1, 0)


async def test_a_fresh_call_takes_two_round_trips_and_a_repeated_one_writes_nothing(
    pool: Any, ledgered: LedgeredModel
) -> None:
    seen: list[str] = []

    async def listen(connection: Any) -> None:
        connection.add_query_logger(lambda record: seen.append(record.query))

    await ledgered.complete(ask("warm up"))
    connections = [await pool.acquire() for _ in range(pool.get_size())]
    for connection in connections:
        await listen(connection._con)
        await pool.release(connection)
    seen.clear()
    await ledgered.complete(ask())
    ours = [query for query in seen if "call" in query]
    assert len(ours) == 2
    before = await pool.fetchrow("SELECT xmin, xmax, ctid FROM call ORDER BY made_at DESC LIMIT 1")
    await ledgered.complete(ask())
    assert await pool.fetchrow("SELECT xmin, xmax, ctid FROM call ORDER BY made_at DESC LIMIT 1") == before


async def test_a_journal_whose_connections_are_cut_arrives_all_the_same(
    pool: Any, database_url: str, ledgered: LedgeredModel, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=0.3)
    outside = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill"})
    call = asyncio.create_task(ledgered.complete(ask()))
    await until(lambda: outside.fetchval("SELECT count(*) FROM call"))
    await outside.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    assert (await call).text == "You said: hello"
    assert await outside.fetchval("SELECT state FROM call") == "ok"
    await outside.close()


async def test_answers_that_arrive_while_the_database_is_away_wait_on_disk_and_are_never_bought_again(
    own_database: OwnDatabase, create_ledger: Any, open_model: MakeModel, model_server: ScriptedServer, tmp_path: Path
) -> None:
    pool = await open_pool(own_database.url, size=2)
    async with pool.acquire() as connection:
        await create_ledger(connection)
    await model_server.control(latency=0.5)
    ledger = Ledger(pool, tmp_path)
    model = LedgeredModel(open_model(), ledger)
    calls = [asyncio.create_task(model.complete(ask(text))) for text in ("one", "two", "three")]
    await until(lambda: pool.fetchval("SELECT count(*) = 3 FROM call"))
    own_database.stop()
    try:
        answers = await asyncio.gather(*calls)
        assert [answer.text for answer in answers] == ["You said: one", "You said: two", "You said: three"]
        assert len(spooled(tmp_path)) == 1
    finally:
        own_database.start()
    assert await until(lambda: pool.fetchval("SELECT count(*) = 3 FROM call WHERE state = 'ok'"))
    await until(lambda: asyncio.to_thread(lambda: not spooled(tmp_path)))
    assert (await model.complete(ask("two"))).from_ledger
    assert (await model_server.stats())["requests"] == 3
    await ledger.close()
    pool.terminate()


async def test_the_spool_of_a_dead_process_is_replayed_before_anything_is_bought(
    own_database: OwnDatabase, create_ledger: Any, open_model: MakeModel, model_server: ScriptedServer, tmp_path: Path
) -> None:
    pool = await open_pool(own_database.url, size=2)
    async with pool.acquire() as connection:
        await create_ledger(connection)
    await model_server.control(latency=0.5)
    first = Ledger(pool, tmp_path)
    call = asyncio.create_task(LedgeredModel(open_model(), first).complete(ask()))
    await until(lambda: pool.fetchval("SELECT count(*) FROM call"))
    own_database.stop()
    try:
        await call
        await first.close()  # the database is still away
    finally:
        own_database.start()
    second = Ledger(pool, tmp_path)
    assert (await LedgeredModel(open_model(), second).complete(ask())).from_ledger
    assert (await model_server.stats())["requests"] == 1
    await second.close()
    pool.terminate()


async def test_without_a_database_nothing_is_bought(
    own_database: OwnDatabase, create_ledger: Any, open_model: MakeModel, model_server: ScriptedServer
) -> None:
    pool = await open_pool(own_database.url, size=1)
    async with pool.acquire() as connection:
        await create_ledger(connection)
    ledger = Ledger(pool, away=0.5)
    await ledger.start()
    own_database.stop()
    try:
        with pytest.raises(TransientError) as caught:
            await LedgeredModel(open_model(), ledger).complete(ask())
        assert caught.value.code == "M305"
    finally:
        own_database.start()
    assert (await model_server.stats())["requests"] == 0
    await ledger.close()
    pool.terminate()


BUYER = """
import asyncio, sys
from pathlib import Path
from gristmill.db.database import open_pool
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Message, Request
from gristmill.llm.models import open_model

async def main(database, base_url, spool):
    pool = await open_pool(database, size=4)
    ledger = Ledger(pool, Path(spool), lease=1.0)
    model = open_model("openai:scripted", base_url=base_url, ledger=ledger)
    numbers = iter(range(60))
    async def work():
        for number in numbers:
            answer = await model.complete(Request((Message("user", f"question {number}"),), run=1))
            assert answer.text == f"You said: question {number}"
    await asyncio.gather(*[work() for _ in range(8)])
    await model.close()
    await ledger.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_run_that_is_killed_and_started_again_pays_twice_only_for_what_was_in_flight(
    database_url: str, pool: Any, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(latency=0.05)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", BUYER, database_url, model_server.base_url, str(tmp_path)])

    for enough in (15, 35):
        process = start()
        await until(lambda: pool.fetchval("SELECT count(*) >= $1 FROM call WHERE state = 'ok'", enough))  # noqa: B023
        process.kill()
        process.wait()
    assert await asyncio.to_thread(start().wait) == 0
    stats = await model_server.stats()
    assert await pool.fetchval("SELECT count(*) FROM call WHERE state = 'ok'") == stats["unique"] == 60
    assert stats["repeated"] <= 16  # two kills, eight in flight
    assert stats["repeated"] <= await pool.fetchval("SELECT sum(tries - 1) FROM call")


async def test_beginning_stays_an_index_look_up_in_a_ledger_of_any_size(pool: Any) -> None:
    await pool.execute(
        "INSERT INTO call (key, state, owner, deadline, provider, model, response)"
        " SELECT sha256(n::text::bytea), 'ok', gen_random_uuid(), now(), 'openai', 'm', 'x'"
        " FROM generate_series(1, 20000) AS n"
    )
    await pool.execute("ANALYZE call")
    async with pool.acquire() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(
            "PREPARE begin_plan (bytea[], uuid[], uuid, float8, text[], text[], bigint[], bigint[]) AS "
            + statements("ledger")["begin"]
        )
        plan = await connection.fetch(
            "EXPLAIN EXECUTE begin_plan (ARRAY['\\x00'::bytea], ARRAY[gen_random_uuid()], gen_random_uuid(), 20,"
            " ARRAY['p'], ARRAY['m'], ARRAY[1], ARRAY[1])"
        )
        await connection.execute("DEALLOCATE begin_plan; RESET plan_cache_mode")
    text = "\n".join(row[0] for row in plan)
    assert "call_pkey" in text
    assert "Seq Scan on call" not in text


async def test_processes_that_begin_the_same_questions_in_any_order_do_not_block_each_other(
    open_model: MakeModel, open_ledger: MakeLedger, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=0.05)
    askers = [LedgeredModel(open_model(), open_ledger()) for _ in range(3)]
    orders = [list(range(40)), list(reversed(range(40))), [number * 7 % 40 for number in range(40)]]
    calls = [
        asker.complete(ask(f"question {number}"))
        for asker, order in zip(askers, orders, strict=True)
        for number in order
    ]
    answers = await asyncio.gather(*calls)
    assert sum(not answer.from_ledger for answer in answers) == 40
    assert (await model_server.stats())["requests"] == 40
