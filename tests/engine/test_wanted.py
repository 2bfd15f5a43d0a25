"""How many slots a pool can use: what there is to do, and no more than its quota lets through."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from gristmill.engine import fleet, workflow
from gristmill.engine.queue import NewTask, enqueue
from gristmill.llm.quota_limits import set_limit
from gristmill.llm.quota_settings import LimitSettings

STEPS = {"steps": [{"operator": "read", "model": None}, {"operator": "ask", "model": "openai:mini"}]}


@pytest.fixture
async def run(pool: asyncpg.Pool[Any]) -> int:
    """Forty tasks for the pool "parse", and four hundred for "model", which ask openai:mini."""
    steps = (workflow.Step("read", "read", pool="parse"), workflow.Step("ask", "ask", pool="model"))
    async with pool.acquire() as connection, connection.transaction():
        made, _ = await workflow.find_or_create(connection, workflow.NewRun("r", "w", steps, STEPS))
        for number, name, kind in ((40, "parse", "read"), (400, "model", "ask")):
            step = 0 if kind == "read" else 1
            await enqueue(connection, [NewTask(made, kind, step=step, pool=name) for _ in range(number)])
    return made


async def wanted(pool: asyncpg.Pool[Any]) -> dict[str, tuple[int, str]]:
    return {row["pool"]: (row["wanted"], row["bound_by"]) for row in await pool.fetch("select * from wanted_workers")}


async def test_a_pool_wants_as_many_slots_as_it_has_tasks(pool: asyncpg.Pool[Any], run: int) -> None:
    assert await wanted(pool) == {"parse": (40, "the work there is"), "model": (400, "the work there is")}
    await pool.execute("update run set state = 'paused'")
    assert await wanted(pool) == {}


async def test_a_quota_bounds_it_by_rate_times_latency(pool: asyncpg.Pool[Any], run: int) -> None:
    await set_limit(pool, "openai:OPENAI_API_KEY", LimitSettings(requests_per_minute=600), by="anna")
    await pool.execute(
        "insert into call (key, state, owner, deadline, provider, model, latency_ms, response, run) values "
        "(sha256('a'), 'ok', gen_random_uuid(), clock_timestamp(), 'openai', 'mini', 2000, '', $1)", run,
    )  # fmt: skip
    # Ten a second, for two seconds each.
    assert (await wanted(pool))["model"] == (20, "quota: openai:OPENAI_API_KEY")
    assert (await wanted(pool))["parse"] == (40, "the work there is")


async def test_the_binding_of_a_name_tells_which_quota_it_is(pool: asyncpg.Pool[Any], run: int) -> None:
    await pool.execute("update run set definition = $1", json.dumps({"steps": [{"model": None}, {"model": "cheap"}]}))
    await pool.execute(
        "insert into model_binding (project, name, settings) values ('default', 'cheap', $1)",
        json.dumps({"provider": "openai", "model": "mini", "limit": "shared"}),
    )
    await set_limit(pool, "shared", LimitSettings(requests_per_minute=60), by="anna")
    assert (await wanted(pool))["model"] == (3, "quota: shared")  # nobody has asked yet: three seconds a call


async def test_the_limit_of_a_pool_and_its_pause_come_first(pool: asyncpg.Pool[Any], run: int) -> None:
    await fleet.limit_pool(pool, "parse", 5, by="anna")
    await fleet.pause_pool(pool, "model", by="anna")
    assert await wanted(pool) == {"parse": (5, "the limit of the pool"), "model": (0, "the pool is paused")}
