"""Child processes and threads in real workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.engine.conftest import ROOT, Enqueue, Processes
from tests.engine.family import MIB, POISON


@pytest.fixture
def worker(processes: Processes) -> Callable[..., subprocess.Popen[bytes]]:
    def start(**settings: Any) -> subprocess.Popen[bytes]:
        settings = {"pools": {"*": 6}, "poll": 0.1, "lease": 4.0, "beat": 0.5} | settings
        with processes.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.engine.roughly_worker", processes.url, json.dumps(settings)],
                cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        processes.started.append(process)
        return process

    return start


async def test_blocking_code_that_outlasts_the_lease_disturbs_nobody(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker(stall_after=3.0)
    slow = await enqueue(
        {"where": "thread", "call": "sleep", "with": 9},
        {"where": "child", "call": "catastrophe", "with": 29},  # 9 s or more of one regular expression
        {"where": "child", "call": "sleep", "with": 9},
    )
    await watching("select count(*) = 3 from task where state = 'running'")
    quick = await enqueue(*({"where": "loop", "call": "echo"} for _ in range(40)))
    await watching("select count(*) = 40 from done where task_id = any($1)", quick, limit=8)
    assert await pool.fetchval("select count(*) from done where task_id = any($1)", slow) == 0
    await watching("select count(*) >= 2 from done where task_id = any($1)", slow, limit=40)
    row = await pool.fetchrow("select max(attempt), sum(crashes), sum(failures) from task")
    assert tuple(row) == (1, 0, 0)
    assert await pool.fetchval("select count(*) from worker") == 1
    assert process.poll() is None


async def test_poison_fails_its_own_task_only(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker()
    bad = [name for name, _ in POISON]
    await enqueue(
        *({"where": where, "call": "poison", "with": name} for name in bad if name != "large"
          for where in ("child", "thread")),
        {"where": "child", "call": "poison", "with": "large"}, max_attempts=2,
    )  # fmt: skip
    good = await enqueue(*({"where": where, "call": "echo"} for _ in range(10) for where in ("child", "thread")))
    await watching("select count(*) = 20 from done where task_id = any($1)", good)
    await watching("select count(*) = 15 from task where state = 'failed'")
    assert await pool.fetchval("select sum(crashes) from task") == 0
    assert process.poll() is None


async def test_a_task_that_kills_its_child_is_quarantined_with_its_story_and_its_neighbours_are_not(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    process = worker()
    (bad,) = await enqueue({"where": "child", "call": "end", "with": {"how": "signal", "number": 11}})
    good = await enqueue(*({"where": "child", "call": "echo"} for _ in range(20)))
    await watching("select count(*) = 20 from done where task_id = any($1)", good)
    await watching("select state = 'quarantined' from task where id = $1", bad)
    assert await pool.fetchval("select sum(crashes) from task where id <> $1", bad) == 0
    story = await pool.fetchval("select message from attempt where task_id = $1 order by attempt desc limit 1", bad)
    assert "signal SIGSEGV" in story
    assert "about to end" in story
    assert process.poll() is None


async def test_a_task_over_its_memory_limit_has_twice_as_much_once_and_alone(
    worker: Any, enqueue: Enqueue, watching: Any, pool: asyncpg.Pool[Any]
) -> None:
    worker()
    wish = {"where": "child", "call": "take", "memory": 256 * MIB}
    (fits, too_large) = await enqueue(
        wish | {"with": {"how": "bytes", "bytes": 300 * MIB}}, wish | {"with": {"how": "bytes", "bytes": 900 * MIB}}
    )
    await watching("select state = 'completed' from task where id = $1", fits)
    await watching("select state = 'quarantined' from task where id = $1", too_large)
    said = [row["message"] for row in
            await pool.fetch("select message from attempt where task_id = $1 order by attempt", too_large)]  # fmt: skip
    assert "limit of 256 MiB" in said[0]
    assert "limit of 512 MiB" in said[-1]
