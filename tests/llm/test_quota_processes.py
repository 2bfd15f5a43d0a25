"""Worker processes under a quota that the server enforces in a sliding window, and under one that is spent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.db.statements import statements
from gristmill.llm.quota_limits import set_limit
from gristmill.llm.quota_settings import LimitSettings
from tests.engine.conftest import bare_run, enqueue, until
from tests.llm.conftest import ROOT, ScriptedServer

__all__ = ["bare_run", "enqueue"]

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(database_url: str, model_server: ScriptedServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker process with so many slots."""
    started: list[subprocess.Popen[bytes]] = []

    def make(slots: int = 16) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen(
                [sys.executable, "-m", "tests.llm.asking_worker", database_url, model_server.base_url, str(slots)],
                cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            ))  # fmt: skip
        return started[-1]

    yield make
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def questions(count: int) -> list[dict[str, Any]]:
    return [{"ask": f"question {number}"} for number in range(count)]


@pytest.mark.thorough
async def test_the_provider_never_says_429_to_four_processes_one_of_which_is_killed(
    pool: asyncpg.Pool[Any], model_server: ScriptedServer, start: Start, enqueue: Any
) -> None:
    window, quota = 2.0, 40
    await set_limit(pool, "test", LimitSettings(requests_per_minute=quota), by="test")
    await pool.execute("update quota set window_seconds = $1", window)
    await model_server.control(requests_per_minute=quota, window=window, latency=0.05)
    await enqueue(*questions(120))
    workers = [start() for _ in range(4)]
    await until(lambda: pool.fetchval("select count(*) > 10 from done"))
    os.killpg(workers[0].pid, signal.SIGKILL)
    await until(lambda: pool.fetchval("select count(*) = 120 from done"), 60)
    stats = await model_server.stats()
    assert "429" not in stats["by_status"]
    assert stats["answered"] <= 120 + 16  # what the killed one had in flight may be asked again
    assert await pool.fetchval("select max(failures) from task") == 0


async def test_a_spent_day_parks_the_queue_and_loses_nothing(
    pool: asyncpg.Pool[Any], model_server: ScriptedServer, start: Start, enqueue: Any, bare_run: int
) -> None:  # fmt: skip
    await set_limit(pool, "test", LimitSettings(requests_per_day=20), by="test")
    await enqueue(*questions(300))
    start()
    await until(lambda: pool.fetchval("select count(*) = 20 from done"))
    await until(lambda: pool.fetchval("select bool_or(held = 'quota: test, requests per day') from task"))
    held = [dict(row) for row in await pool.fetch(statements("why")["held_by"], bare_run, None)]
    why = {row["reason"].split(" (until")[0]: row["tasks"] for row in held}
    assert why.get("quota: test, requests per day", 0) > 200, held
    parked = await pool.fetchval("select count(*) from task where held like 'quota: %'")
    statements_before = await pool.fetchval("select sum(attempt) from task")
    await asyncio.sleep(2)
    assert await pool.fetchval("select sum(attempt) from task") - statements_before < 10  # it hardly tries
    assert parked < 100
    await set_limit(pool, "test", LimitSettings(requests_per_day=10_000), by="test")
    await until(lambda: pool.fetchval("select count(*) = 300 from done"), 60)
    assert (await model_server.stats())["answered"] == 300
    events = await pool.fetch("select body from event_inbox where name = 'limit.spent' union all"
                              " select body from event where name = 'limit.spent'")  # fmt: skip
    assert [json.loads(row["body"])["why"] for row in events] == ["requests per day"]
    assert await pool.fetchval("select max(failures) from task") == 0


async def test_tasks_that_need_no_quota_run_beside_those_that_wait_for_one() -> None:
    from gristmill.engine.pacing import Pacing

    pacing = Pacing(slots=32)
    for _ in range(20):
        pacing.taken("asks")
    pacing.taken("other")
    for _ in range(5):
        pacing.ended("asks", 1.0)
    assert list(pacing.open(["asks", "other"])) == ["other"]
    assert pacing.room() == {}  # fifteen run, and fifteen are what gets through
    pacing.ended("asks", None)
    assert pacing.room() == {"asks": 1}
    for _ in range(400):
        pacing.taken("asks")
        pacing.ended("asks", None)
    assert list(pacing.open(["asks", "other"])) == ["asks", "other"]  # as many as there are slots: forgotten
