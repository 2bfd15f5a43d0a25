"""Pools and workers in the hands of a person, with real worker processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.engine import fleet, queue
from gristmill.engine.queue import NewTask
from gristmill.errors import UsageError
from tests.engine.conftest import Enqueue, Processes, register

Watching = Callable[..., Awaitable[Any]]
LIVE = "select id from worker where state = 'alive' and postmaster_started is not null"


async def pool_named(pool: asyncpg.Pool[Any], name: str) -> fleet.Pool:
    (found,) = [one for one in await fleet.pools(pool) if one.name == name]
    return found


async def told(pool: asyncpg.Pool[Any], name: str) -> list[dict[str, Any]]:
    sql = "select body from event where name = $1 union all select body from event_inbox where name = $1"
    rows = await pool.fetch(sql, name)  # numbered ones first, when a worker was there to do it
    return [json.loads(row["body"]) for row in rows]


async def test_pools_are_listed_with_what_waits_and_runs_and_who_has_slots(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, bare_run: int
) -> None:
    assert await fleet.pools(pool) == []
    claimer = await register(pool)
    paused = await register(pool)
    await pool.execute("update worker set state = 'paused' where id = $1", paused.id)
    await enqueue({}, {}, {})
    async with pool.acquire() as connection, connection.transaction():
        await queue.enqueue(connection, [NewTask(bare_run, "bare", pool="mail", delay=60)] * 2)
        await queue.enqueue(connection, [NewTask(bare_run, "bare", pool="oven")])
    assert len(await queue.claim(pool, claimer, {"*": 2}, ["bare"])) == 2
    await fleet.limit_pool(pool, "press", 4, by="me")
    rows = {one.name: (one.running, one.waiting, one.slots, one.workers, one.limit) for one in await fleet.pools(pool)}
    assert rows == {
        "*": (2, 1, 3, 2, None), "mail": (0, 2, 0, 0, None), "oven": (0, 1, 0, 0, None), "press": (0, 0, 0, 0, 4)
    }  # fmt: skip
    await fleet.limit_pool(pool, "press", None, by="me")
    assert "press" not in {one.name for one in await fleet.pools(pool)}
    assert {"*", "press"} <= await fleet.known_pools(pool)


async def test_limits_and_pauses_are_told_once_with_who_wanted_them(pool: asyncpg.Pool[Any]) -> None:
    assert await fleet.limit_pool(pool, "oven", 2, by="me@mill")
    assert not await fleet.limit_pool(pool, "oven", 2, by="you@mill")
    assert await fleet.pause_pool(pool, "oven", by="me@mill")
    assert not await fleet.pause_pool(pool, "oven", by="you@mill")
    assert await fleet.resume_pool(pool, "oven", by="me@mill")
    assert await fleet.limit_pool(pool, "oven", None, by="me@mill")
    for nothing in (fleet.resume_pool(pool, "never", by="you"), fleet.limit_pool(pool, "never", None, by="you")):
        assert not await nothing
    assert [(body["what"], body["slots"], body["by"]) for body in await told(pool, "pool.changed")] == [
        ("limit", 2, "me@mill"), ("pause", 2, "me@mill"), ("resume", 2, "me@mill"), ("limit", None, "me@mill")
    ]  # fmt: skip
    for name, slots in (("", 1), ("a\nb", 1), ("x" * 201, 1), ("oven", -1), ("oven", True), ("oven", 10**9)):
        with pytest.raises(UsageError) as caught:
            await fleet.limit_pool(pool, name, slots, by="me")
        assert caught.value.code == "U360"


async def test_a_paused_pool_rests_on_every_worker_and_the_others_go_on(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    await fleet.pause_pool(pool, "oven", by="me")
    processes.start(pools={"*": 2, "oven": 2})
    processes.start(pools={"*": 2, "oven": 2})
    hot = await enqueue({}, {}, pool="oven")
    await watching("select count(*) = 2 from worker where postmaster_started is not null")
    await enqueue(*[{}] * 6)
    await watching("select count(*) = 6 from done")
    assert await pool.fetchval("select count(*) from done where task_id = any ($1)", hot) == 0
    await fleet.limit_pool(pool, "oven", 0, by="me")
    await fleet.resume_pool(pool, "oven", by="me")
    await enqueue(*[{}] * 6)
    await watching("select count(*) = 12 from done")
    assert (await pool_named(pool, "oven")).waiting == 2, "a limit of nothing is a limit"
    await fleet.limit_pool(pool, "oven", 1, by="me")
    await watching("select count(*) = 14 from done")


async def test_a_worker_is_paused_goes_on_and_ends_within_a_beat_with_its_work_done(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    process = processes.start(name="miller")
    await watching(LIVE)
    (slow,) = await enqueue({"do": "sleep", "seconds": 0.5})
    await watching("select state = 'running' from task where id = $1", slow)
    (miller,) = await fleet.workers(pool)
    assert (miller.name, miller.state, miller.pools, miller.tasks) == ("miller", "alive", {"*": 4}, 1)
    assert miller.beat_age < 4
    assert await fleet.order(pool, "pause", [miller.id], by="me@mill") == [miller.id]
    assert await fleet.order(pool, "pause", [miller.id], by="me@mill") == []
    (late,) = await enqueue({})
    await watching("select state = 'completed' from task where id = $1", slow)
    assert await pool.fetchval("select state from task where id = $1", late) == "available"
    assert await fleet.order(pool, "resume", [miller.id], by="me@mill") == [miller.id]
    await watching("select state = 'completed' from task where id = $1", late)
    (last,) = await enqueue({"do": "sleep", "seconds": 1.5})
    await watching("select state = 'running' from task where id = $1", last)
    assert await fleet.order(pool, "drain", [miller.id, miller.id], by="me@mill") == [miller.id]
    assert await asyncio.to_thread(process.wait, 20) == 0
    assert await pool.fetchval("select state from task where id = $1", last) == "completed"
    (miller,) = await fleet.workers(pool)
    assert (miller.state, miller.live, miller.tasks) == ("stopped", False, 0)
    for name in ("worker.pause", "worker.resume", "worker.drain"):
        assert await told(pool, name) == [{"by": "me@mill"}]


async def test_a_paused_worker_can_be_told_to_end(
    pool: asyncpg.Pool[Any], processes: Processes, watching: Watching
) -> None:
    process = processes.start()
    worker = await watching(LIVE)
    await fleet.order(pool, "pause", [worker], by="me")
    assert await fleet.order(pool, "drain", [worker], by="me") == [worker]
    assert await asyncio.to_thread(process.wait, 20) == 0
    assert await fleet.order(pool, "resume", [worker], by="me") == [], "who has ended takes no orders"


async def test_workers_are_meant_by_id_and_by_name_and_a_wrong_name_says_the_nearest(pool: asyncpg.Pool[Any]) -> None:
    ids = [(await register(pool)).id for _ in range(3)]
    await pool.execute("update worker set name = 'miller' where id = $1", ids[2])
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", ids[1])
    members = await fleet.workers(pool)
    assert [member.state for member in members] == ["alive", "late", "alive"]
    assert [member.id for member in fleet.chosen(members, ["by hand"])] == ids[:2]
    assert [member.id for member in fleet.chosen(members, ["miller", str(ids[0]), "miller"])] == [ids[0], ids[2]]
    with pytest.raises(UsageError, match="miler") as caught:
        fleet.chosen(members, ["miller", "miler"])
    assert (caught.value.code, caught.value.hint) == ("U362", 'did you mean "miller"?')
    await pool.execute("update worker set state = 'stopped', ended_at = clock_timestamp() where id = $1", ids[2])
    with pytest.raises(UsageError, match="it is stopped"):
        fleet.chosen(await fleet.workers(pool), ["miller"])
