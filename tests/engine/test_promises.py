"""What docs/concepts/promises.md says about recovery and workers, and no other test shows."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from gristmill.config import load_settings
from gristmill.engine import Engine, queue, workflow
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.queue import Claimer
from gristmill.engine.upkeep import Housekeeping
from gristmill.engine.worker import Worker, WorkerSettings
from gristmill.errors import ConfigurationError
from tests.engine.bare import Bare
from tests.engine.conftest import Enqueue, register, until
from tests.engine.test_pitfalls_queue import LATE
from tests.engine.test_queue import claim


async def test_a_worker_that_cannot_be_buried_now_does_not_keep_others_from_it(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    other = await register(pool)
    (held,) = await enqueue({})
    await claim(pool, claimer)
    await enqueue({})
    await claim(pool, other)
    await pool.execute(LATE, claimer.id)
    await pool.execute(LATE, other.id)
    async with pool.acquire() as holding, pool.acquire() as connection:
        await connection.execute("set lock_timeout = '100ms'")
        somebody = holding.transaction()
        await somebody.start()
        await holding.execute("select 1 from task where id = $1 for update", held)
        assert await queue.rescue(connection, 0) == {other.id: 1}
        await somebody.rollback()
        assert await queue.rescue(connection, 0) == {claimer.id: 1}
        await connection.execute("reset lock_timeout")


async def test_one_rescue_gives_some_tasks_back_and_quarantines_others(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    first, second = await enqueue({}, {})
    (third,) = await enqueue({}, max_crashes=1)
    await claim(pool, claimer)
    await pool.execute("update task set crashes = 2 where id = $1", second)
    await pool.execute(LATE, claimer.id)
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, 0) == {claimer.id: 3}
    rows = await pool.fetch("select id, state, held from task order by id")
    assert [(row["id"], row["state"]) for row in rows] == [
        (first, "available"), (second, "quarantined"), (third, "quarantined"),
    ]  # fmt: skip
    assert rows[0]["held"] == "its worker died: its lease ran out"


async def test_a_duty_that_fails_is_logged_and_tried_again_and_the_others_go_on(
    pool: Any, database_url: str, bare_run: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await workflow.seal(connection, bare_run, [], [], [])
        await connection.execute("alter table schedule rename to elsewhere")
    house = Housekeeping(
        0, probe=0.02, confirm=0.1, grace=60.0, metrics=DatabaseMetrics(), on_rescue=lambda: None,
        keep_finished=86_400.0, keep_history=0.0,
    )  # fmt: skip
    with caplog.at_level(logging.ERROR, "gristmill.upkeep"):
        async with pool.acquire() as connection:
            keeping = asyncio.create_task(house.run(connection))
            await until(lambda: pool.fetchval("select state = 'completed' from run where id = $1", bare_run))

            async def failed() -> bool:
                return "schedules failed; it is tried again" in caplog.text

            await until(failed)
            await pool.execute("alter table gristmill.elsewhere rename to schedule")
            keeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await keeping


async def test_a_worker_that_is_stopped_before_it_began_leaves_at_once_and_twice_is_not_too_often(
    pool: asyncpg.Pool[Any], database_url: str, enqueue: Enqueue
) -> None:
    await enqueue({})
    worker = Worker(database_url, Bare(), WorkerSettings(lease=60.0))
    worker.stop()
    worker.stop()
    await asyncio.wait_for(worker.run(), 20)
    assert await pool.fetchval("select state from worker") == "stopped"
    assert await pool.fetchval("select state from task") == "available"


async def test_two_workers_in_one_process_are_two(pool: asyncpg.Pool[Any], database_url: str) -> None:
    engine, both = Engine(database_url), asyncio.Barrier(2)

    @engine.task("meet")
    async def meet() -> None:
        await both.wait()

    async with engine:
        tasks = await engine.enqueue_many(meet, [{}, {}])
        async with engine.working({"*": 1}, name="one"), engine.working({"*": 1}, name="other"):
            for task in tasks:
                await task.result(wait=20)
    workers = await pool.fetch("select id, nonce, state from worker")
    assert len({row["id"] for row in workers}) == len({row["nonce"] for row in workers}) == 2
    assert {row["state"] for row in workers} == {"stopped"}
    assert await pool.fetchval("select count(distinct worker_id) from attempt") == 2


def test_the_lease_is_set_by_the_environment_and_recovery_cannot_be_switched_off(tmp_path: Any) -> None:
    home = {"HOME": str(tmp_path)}
    loaded = load_settings(tmp_path, home | {"GRISTMILL_LEASE": "30"})
    assert (loaded.values.lease, loaded.origins["lease"]) == (30.0, "environment GRISTMILL_LEASE")
    for value in ("0", "-1"):
        with pytest.raises(ConfigurationError, match="lease"):
            load_settings(tmp_path, home | {"GRISTMILL_LEASE": value})
