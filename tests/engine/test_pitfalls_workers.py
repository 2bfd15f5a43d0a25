"""What workers of earlier systems fell into; the list is docs/concepts/pitfalls.md. Real processes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.engine import queue
from tests.engine.conftest import Enqueue, Processes
from tests.scenarios.conftest import Home


async def test_a_long_task_does_not_hold_up_those_beside_it(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    """T4: no batch that waits for its slowest."""
    (long,) = await enqueue({"do": "sleep", "seconds": 600}, priority=-1)
    await enqueue(*[{}] * 20)
    processes.start(pools={"*": 2})
    await watching("select count(*) = 20 from done")
    assert await pool.fetchval("select state from task where id = $1", long) == "running"


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_the_worker_command_leaves_in_order_on_every_signal_that_asks_it_to(
    database_url: str, tmp_path: Path, watching: Any, pool: asyncpg.Pool[Any], sent: signal.Signals
) -> None:
    """W21: a signal that is not heard, or ends the process inside of its handler, skips the drain."""
    home = Home(tmp_path, {"GRISTMILL_DATABASE_URL": database_url})
    try:
        worker = home.start("worker", "--name", "left in order")
        await watching("select state = 'alive' and postmaster_started is not null from worker")
        worker.send_signal(sent)
        assert await asyncio.to_thread(worker.wait, 20) == 0
        assert tuple(await pool.fetchrow("select state, cause from worker")) == ("stopped", "stopped")
        assert await pool.fetchval("select count(*) from task where state = 'running'") == 0
    finally:
        home.end()


async def test_a_worker_that_lost_its_row_is_stopped_and_its_tasks_are_done_by_others(
    processes: Processes, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    """W3: whatever happens to the rows of workers, no task runs for ever."""
    worker = processes.start()
    await watching("select postmaster_started is not null from worker")
    await enqueue({"do": "sleep", "seconds": 600})
    await watching("select state = 'running' from task")
    await pool.execute("delete from worker")
    assert await asyncio.to_thread(worker.wait, 20) in (75, -signal.SIGKILL)
    assert await pool.fetchval("select state from task") == "running"
    async with pool.acquire() as connection:
        assert len(await queue.take_in(connection)) == 1
    assert tuple(await pool.fetchrow("select state, held from task")) == ("available", "its worker is gone")
