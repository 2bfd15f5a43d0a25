"""Quotas against a real database and a real server: what waits, what is sent away, what a 429 does to everybody."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import open_pool, transaction
from gristmill.db.statements import statements
from gristmill.errors import LimitReached, TransientError, UsageError
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request, Usage
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.quota import Quotas
from gristmill.llm.quota_estimate import Estimate
from gristmill.llm.quota_headers import Told, told
from gristmill.llm.quota_limits import change_limit, remove_limit, report, set_limit, take_settings
from gristmill.llm.quota_settings import LimitSettings
from tests.llm.conftest import OwnDatabase, ScriptedServer

MakeQuotas = Callable[..., Quotas]
MakeLedgered = Callable[..., LedgeredModel]
SQL = statements("quota")


@pytest.fixture
async def open_quotas(pool: Any) -> AsyncIterator[MakeQuotas]:
    """Makes quotas as different processes would have them."""
    opened: list[Quotas] = []

    def make(**settings: Any) -> Quotas:
        opened.append(Quotas(settings.pop("pool", pool), **settings))
        return opened[-1]

    yield make
    for quotas in opened:
        await quotas.close()


@pytest.fixture
def open_ledgered(
    open_model: Callable[..., OpenAIModel], open_ledger: Callable[..., Ledger], open_quotas: MakeQuotas
) -> MakeLedgered:
    """A model behind a ledger and quotas of its own, as another process would have it; its limit is "test"."""

    def make(quotas: Quotas | None = None, **settings: Any) -> LedgeredModel:
        return LedgeredModel(open_model(limit="test", **settings), open_ledger(), quotas=quotas or open_quotas())

    return make


def ask(text: str = "hello", **settings: Any) -> Request:
    return Request((Message("user", text),), **settings)


async def limited(pool: Any, full: bool = False, **limits: Any) -> None:
    """Sets the limit "test"; its bucket is empty, as after a minute of rest, unless it is to be `full`."""
    await set_limit(pool, "test", LimitSettings(**limits), by="anna")
    if not full:
        await pool.execute("update quota set request_tat = 0, token_tat = 0")


async def until_away(take: Callable[[], Awaitable[Any]]) -> LimitReached:
    """Takes until somebody is sent away."""
    async with asyncio.timeout(10):
        while True:
            try:
                await take()
            except LimitReached as error:
                return error
            await asyncio.sleep(0)


async def events(pool: Any, name: str) -> list[dict[str, Any]]:
    return [json.loads(row["body"]) for row in await pool.fetch("select body from event_inbox where name = $1", name)]


async def test_where_nothing_is_limited_no_call_asks_the_database(open_quotas: MakeQuotas, pool: Any) -> None:
    quotas = open_quotas(beat=600)
    (await quotas.take("free")).spent(10)
    quotas.pool = None  # whoever asked it would fail
    for _ in range(100):
        (await quotas.take("free")).spent(10)
    quotas.pool = pool
    assert not await report(pool)


async def test_a_short_wait_is_waited_and_a_longer_one_gives_the_slot_back(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_minute=120)  # one in half a second
    quotas = open_quotas()
    results = await asyncio.gather(*(quotas.take("test") for _ in range(20)), return_exceptions=True)
    away = [result for result in results if isinstance(result, LimitReached)]
    assert 3 <= 20 - len(away) <= 12
    assert {error.reason for error in away} == {"quota: test, requests per minute"}
    delays = sorted(error.delay for error in away)
    assert delays[0] > 0
    assert delays[-1] - delays[0] > 0.2 * len(away)  # they come back one after the other, not all at once


async def test_processes_share_one_bucket(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_minute=60, burst=10)
    results = await asyncio.gather(
        *(open_quotas(patience=0.0).take("test") for _ in range(5) for _ in range(4)), return_exceptions=True
    )
    assert sum(not isinstance(result, LimitReached) for result in results) in range(
        10, 15
    )  # ten at once, then one in 1.2 s


async def test_the_day_s_quota_is_counted_in_its_time_zone_and_told_once(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_day=3, timezone="Asia/Kathmandu")
    quotas = open_quotas()
    results = await asyncio.gather(*(quotas.take("test") for _ in range(8)), return_exceptions=True)
    away = [result for result in results if isinstance(result, LimitReached)]
    assert len(away) == 5
    midnight = await pool.fetchval(
        "select extract(epoch from ((clock_timestamp() at time zone 'Asia/Kathmandu')::date + 1)::timestamp"
        " at time zone 'Asia/Kathmandu' - clock_timestamp())::float8"
    )
    assert all(abs(error.delay - midnight) < 30 for error in away)
    assert {error.reason for error in away} == {"quota: test, requests per day"}
    told_events = await events(pool, "limit.spent")
    assert [(one["limit"], one["why"]) for one in told_events] == [("test", "requests per day")]
    one = (await report(pool))[0]
    assert (one.requests_today, one.quota_limit, one.percentage_used) == (3, 3, 100.0)
    assert not one.can_make_request
    assert abs(one.wait_time_seconds - midnight) < 30
    await pool.execute("update quota set day = day - 1")  # the next day has come
    await quotas.take("test")
    assert (await report(pool))[0].requests_today == 1


async def test_tokens_are_reserved_by_estimate_and_corrected_both_ways(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, tokens_per_minute=60_000)
    quotas = open_quotas()

    async def left() -> float:
        return float((await report(pool))[0].model_tokens_available or 0)

    permit = await quotas.take("test", lambda: 800.0)
    full = 900.0
    assert (await left()) <= full - 700
    permit.spent(100)
    async with asyncio.timeout(5):
        while await left() < full - 101:
            await asyncio.sleep(0.02)
    permit = await quotas.take("test", lambda: 10.0)
    permit.spent(30_000)  # far more than reserved: a debt, which the next ones wait for
    error = await until_away(lambda: quotas.take("test", lambda: 10.0))
    assert error.reason == "quota: test, tokens per minute"


async def test_calls_under_way_are_limited_over_all_processes_and_freed_with_a_dead_worker(
    open_quotas: MakeQuotas, pool: Any
) -> None:
    await limited(pool, concurrency=3)
    dead = uuid.uuid4()
    first, second = open_quotas(worker=dead, patience=0.3), open_quotas(patience=0.3)
    for quotas in (first, first, second):
        await quotas.take("test")
    with pytest.raises(LimitReached, match="requests under way"):
        await second.take("test")
    assert (await report(pool))[0].in_flight == 3
    first._keeper.cancel()  # type: ignore[union-attr]  # a killed process renews nothing
    await pool.execute(
        "insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until, state,"
        " cause) values ($1, '', '', '', 1, 1, '{}', '', '1 s', clock_timestamp(), 'dead', 'its process ended')",
        dead,
    )  # fmt: skip
    permits = [await second.take("test") for _ in range(2)]
    with pytest.raises(LimitReached):
        await second.take("test")
    permits[0].spent(0)
    await second.take("test")


async def test_a_slot_of_the_provider_that_is_free_again_is_given_to_who_waits(
    open_quotas: MakeQuotas, pool: Any
) -> None:
    await limited(pool, concurrency=1)
    one, other = open_quotas(patience=20.0), open_quotas(patience=20.0)
    permit = await one.take("test")
    waiting = asyncio.ensure_future(other.take("test"))
    done, _ = await asyncio.wait((waiting,), timeout=0.3)
    assert not done
    permit.spent(0)
    async with asyncio.timeout(5):
        await waiting


async def test_an_answer_429_holds_up_every_process_and_slows_all_down(
    open_ledgered: MakeLedgered, model_server: ScriptedServer, pool: Any
) -> None:
    await limited(pool, requests_per_minute=6000, burst=100)
    first, second = open_ledgered(), open_ledgered()
    await second.complete(ask("before"))
    await model_server.control(faults=[{"kind": "rate", "first": 99, "retry_after": "20"}])
    with pytest.raises(LimitReached, match="the provider asks to wait") as refused:
        await first.complete(ask())
    assert 20 <= refused.value.delay < 22
    with pytest.raises(LimitReached) as held:
        await second.complete(ask("other"))
    assert 17 < held.value.delay < 22
    assert (await model_server.stats())["requests"] == 2
    one = (await report(pool))[0]
    assert one.pace == 0.8
    assert one.blocked_why == "the provider asks to wait"
    await pool.execute("update quota set blocked_until = 0, paced_at = paced_at - 300")
    assert (await report(pool))[0].pace == pytest.approx(0.9, abs=0.01)  # 2 % a minute


async def test_many_answers_429_at_once_slow_down_once(
    open_ledgered: MakeLedgered, model_server: ScriptedServer, pool: Any
) -> None:
    await limited(pool, requests_per_minute=6000, burst=1000)
    await model_server.control(latency=0.3, faults=[{"kind": "rate", "retry_after": "5"}])
    model = open_ledgered()
    results = await asyncio.gather(*(model.complete(ask(str(n))) for n in range(10)), return_exceptions=True)
    assert all(isinstance(result, LimitReached) for result in results)
    assert (await report(pool))[0].pace == pytest.approx(0.8, abs=0.01)


async def test_an_unknown_limit_is_free_until_a_429_and_guessed_from_what_got_through(
    open_ledgered: MakeLedgered, model_server: ScriptedServer, pool: Any
) -> None:
    model = open_ledgered()
    await asyncio.gather(*(model.complete(ask(f"{n}")) for n in range(40)))
    assert not await report(pool)
    await model_server.control(faults=[{"kind": "rate", "retry_after": "0.5"}])
    with pytest.raises(LimitReached):
        await model.complete(ask("one too many"))
    one = (await report(pool))[0]
    assert (one.requests_per_minute, one.learned_requests) == (None, 40.0)
    await pool.execute("update quota set paced_at = paced_at - 120, blocked_until = 0")
    assert (await report(pool))[0].pace == pytest.approx(1.21, abs=0.01)  # a guess is probed


async def test_a_limit_in_the_provider_s_headers_is_kept_before_it_is_passed(
    open_ledgered: MakeLedgered, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(requests_per_minute=20, tell_limits=True)
    model = open_ledgered()
    numbers = itertools.count()
    error = await until_away(lambda: model.complete(ask(str(next(numbers)))))
    assert error.reason == "quota: test, requests per minute"
    stats = await model_server.stats()
    assert stats["answered"] < 20
    assert "429" not in stats["by_status"]
    assert (await report(pool))[0].learned_requests == 20


async def test_a_spent_account_parks_everything_until_tomorrow_with_one_event(
    open_ledgered: MakeLedgered, model_server: ScriptedServer, pool: Any
) -> None:
    await model_server.control(faults=[{"kind": "quota"}], latency=0.1)
    model = open_ledgered()
    results = await asyncio.gather(*(model.complete(ask(str(n))) for n in range(8)), return_exceptions=True)
    assert {str(result) for result in results} == {'the limit "test" is reached: the account has no money left'}
    with pytest.raises(LimitReached) as away:
        await open_ledgered().complete(ask("later"))
    assert away.value.reason == "quota: test, the account has no money left"
    assert len(await events(pool, "limit.spent")) == 1
    assert (await model_server.stats())["requests"] == 8
    await model_server.control(reset=True)
    await limited(pool, requests_per_minute=600)  # somebody has paid, and says so
    assert (await model.complete(ask("later"))).text == "You said: later"


async def test_what_the_ledger_knows_needs_no_permit(open_ledgered: MakeLedgered, pool: Any) -> None:
    model = open_ledgered()
    await model.complete(ask())
    await limited(pool, requests_per_day=1)
    await pool.execute("update quota set day = (clock_timestamp() at time zone 'UTC')::date, day_used = 1")
    assert (await model.complete(ask())).from_ledger


async def test_a_change_is_told_as_an_event_and_holds_for_running_processes_within_a_beat(
    open_quotas: MakeQuotas, pool: Any
) -> None:
    quotas = open_quotas(beat=0.1)
    (await quotas.take("test")).spent(0)
    await set_limit(pool, "test", LimitSettings(requests_per_day=1), by="anna")
    await until_away(lambda: quotas.take("test"))
    assert (await change_limit(pool, "test", {"concurrency": 2}, by="bob")).requests_per_day == 1
    assert await remove_limit(pool, "test", by="anna")
    assert not await remove_limit(pool, "test", by="anna")
    async with asyncio.timeout(10):
        (await quotas.take("test")).spent(0)
    changes = await events(pool, "limit.changed")
    assert [(one["requests_per_day"], one["concurrency"], one["by"]) for one in changes] == [
        (1, None, "anna"), (1, 2, "bob"), (None, None, "anna"),
    ]  # fmt: skip


async def test_settings_are_taken_over_once_and_do_not_undo_what_was_set_by_hand(pool: Any) -> None:
    said = {"test": LimitSettings(requests_per_minute=15)}
    await take_settings(pool, said)
    await change_limit(pool, "test", {"requests_per_minute": 30}, by="anna")
    await take_settings(pool, said)
    assert (await report(pool))[0].requests_per_minute == 30
    await take_settings(pool, {"test": LimitSettings(requests_per_minute=20)})
    assert (await report(pool))[0].requests_per_minute == 20
    with pytest.raises(UsageError) as wrong:
        await take_settings(pool, {"a,b": LimitSettings()})
    assert wrong.value.code == "U460"


async def test_a_clock_that_was_set_back_holds_nobody_up_for_long(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_minute=600, tokens_per_minute=1_000_000)
    await pool.execute(
        "update quota set request_tat = extract(epoch from clock_timestamp()) + 3600, token_tat = request_tat + 3600,"
        " blocked_until = extract(epoch from clock_timestamp()) + 3600, blocked_for = 1.0"
    )
    quotas = open_quotas(patience=5.0)
    async with asyncio.timeout(10):
        await quotas.take("test")


async def test_a_permit_whose_moment_has_passed_is_not_used(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_minute=200, burst=1)
    quotas = open_quotas()
    await quotas.take("test")
    waiting = asyncio.ensure_future(quotas.take("test"))
    async with asyncio.timeout(5):
        while (await report(pool))[0].requests_today < 2:
            await asyncio.sleep(0)
    time.sleep(0.6)  # the process is busy, or was frozen
    await waiting
    assert quotas.late == 1
    assert (await report(pool))[0].requests_today >= 2


async def test_a_cancelled_caller_leaves_nothing_behind(open_quotas: MakeQuotas, pool: Any) -> None:
    await limited(pool, requests_per_minute=60, concurrency=50, requests_per_day=100)
    quotas = open_quotas()
    await quotas.take("test")
    waiting = [asyncio.ensure_future(quotas.take("test")) for _ in range(5)]
    await asyncio.sleep(0.1)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        while (await report(pool))[0].in_flight != 1 or (await report(pool))[0].requests_today != 1:
            await asyncio.sleep(0.02)


async def test_a_crash_of_the_server_forgets_no_permit(own_database: OwnDatabase, create_ledger: Any) -> None:
    connection = await asyncpg.connect(own_database.url)
    await create_ledger(connection)
    await connection.close()
    pool = await open_pool(own_database.url, size=4)
    try:
        await set_limit(pool, "test", LimitSettings(requests_per_day=100, requests_per_minute=6000, burst=200), by="a")
        await pool.execute("update quota set request_tat = 0")
        quotas = Quotas(pool)
        for _ in range(7):
            (await quotas.take("test")).spent(0)
        own_database.stop()  # at once, as in a crash
        with pytest.raises(TransientError, match="cannot be reached") as error:
            await Quotas(pool, away=0.1).take("test")
        assert error.value.code == "M306"
        own_database.start()
        assert (await report(pool))[0].requests_today == 7
        (await quotas.take("test")).spent(0)
        await quotas.close()
    finally:
        pool.terminate()


def test_headers_are_believed_when_they_are_plausible() -> None:
    near = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "60",
        "x-ratelimit-reset-requests": "6s",
    }
    assert told(near) == Told(600, None, True)
    assert told({"anthropic-ratelimit-tokens-limit": "80000", "anthropic-ratelimit-tokens-remaining": "70000",
                 "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z"}) == Told(None, 80_000, False)  # fmt: skip
    for nonsense in ("-1", "0", "many", "1e99", "nan", ""):
        assert not told({"x-ratelimit-limit-requests": nonsense})
    assert not told({"x-ratelimit-limit-requests": "200", "x-ratelimit-reset-requests": "7m12s"})  # of a day


def test_estimates_learn_from_answers() -> None:
    estimate = Estimate()
    request = ask("x" * 400)
    assert estimate.of(request, {}) == 1100
    assert estimate.of(request, {"max_tokens": 50}) == 150
    assert estimate.most(request, {"max_tokens": 50}) == (100, 50)
    for _ in range(200):
        estimate.learn(request, Usage(input=200, output=30))
    assert estimate.of(request, {}) == pytest.approx(230, abs=1)
    estimate.learn(request, Usage())
    assert estimate.of(request, {"max_tokens": 20}) == pytest.approx(220, abs=1)


@pytest.mark.parametrize(
    "wrong",
    [{"requests_per_minute": 0}, {"requests_per_day": -1}, {"timezone": "Mars/Olympus"}, {"burst": 0}, {"rpm": 5}],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LimitSettings(**wrong)


async def test_tasks_that_were_sent_away_look_again_when_their_limit_has_changed(
    pool: Any, until_held: Callable[[str], Awaitable[int]]
) -> None:
    mine, other = await until_held("quota: test, requests per day"), await until_held("quota: test2, requests per day")
    await set_limit(pool, "test", LimitSettings(requests_per_day=5), by="anna")
    due = await pool.fetch("select id, run_at <= clock_timestamp() as due from task order by id")
    assert [(row["id"], row["due"]) for row in due] == [(mine, True), (other, False)]


@pytest.fixture
def until_held(pool: Any) -> Callable[[str], Awaitable[int]]:
    """Makes a task that waits for an hour for this reason."""

    async def make(reason: str) -> int:
        async with transaction(pool) as connection:
            return int(await connection.fetchval(
                "insert into task (run_id, step, kind, pool, payload, run_at, held) values"
                " (1, 0, 'bare', '*', '{}', clock_timestamp() + interval '1 hour', $1) returning id", reason,
            ))  # fmt: skip

    return make
