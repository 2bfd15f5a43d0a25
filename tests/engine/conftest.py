"""A run of bare tasks, and worker processes that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask

ROOT = Path(__file__).parents[2]


async def until(condition: Callable[[], Awaitable[Any]], limit: float = 30.0) -> Any:
    """Waits for a condition and returns its value; fails when `limit` seconds have passed."""
    async with asyncio.timeout(limit):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
        return value


@pytest.fixture
async def bare_run(pool: asyncpg.Pool[Any]) -> int:
    """The id of an unsealed run with two steps of the bare operator; table `done` takes what is settled."""
    await pool.execute("create table done (task_id bigint primary key, fence bigint, worker integer)")
    async with pool.acquire() as connection, connection.transaction():
        steps = (workflow.Step("first", "bare"), workflow.Step("second", "bare"))
        run_id, _ = await workflow.find_or_create(connection, workflow.NewRun("test", "test", steps, {}))
    return run_id


Enqueue = Callable[..., Awaitable[list[int]]]


@pytest.fixture
def enqueue(pool: asyncpg.Pool[Any], bare_run: int) -> Enqueue:
    """`await enqueue({"do": "sleep", "seconds": 1}, {})` makes tasks and returns their ids."""

    async def make(*payloads: dict[str, Any], **more: Any) -> list[int]:
        async with pool.acquire() as connection, connection.transaction():
            ids = await queue.enqueue(
                connection, [NewTask(bare_run, "bare", payload=json.dumps(payload), **more) for payload in payloads]
            )
        await queue.hint(pool)
        return ids

    return make


@pytest.fixture
async def claimer(pool: asyncpg.Pool[Any]) -> queue.Claimer:
    return await register(pool)


async def register(pool: asyncpg.Pool[Any], lease: float = 60.0) -> queue.Claimer:
    """A worker row without a process."""
    import uuid

    nonce = uuid.uuid4()
    worker_id = await pool.fetchval(
        queue.SQL["register_worker"],
        nonce,
        "by hand",
        "here",
        "boot",
        os.getpid(),
        0,
        '{"*": 3}',
        "test",
        lease,
        ["bare"],
        False,
    )
    return queue.Claimer(worker_id, nonce)


class Processes:
    """Worker processes of the bare engine."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, **settings: Any) -> subprocess.Popen[bytes]:
        settings = {"pools": {"*": 4}, "poll": 0.1, "lease": 4.0, "beat": 0.5, "backoff": 0.05} | settings
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.engine.bare", self.url, json.dumps(settings)],
                cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def text(self) -> str:
        return self.log.read_text()

    def end(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def processes(database_url: str, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(database_url, tmp_path / "workers.log")
    yield made
    made.end()


@pytest.fixture
async def watching(pool: asyncpg.Pool[Any]) -> Callable[..., Awaitable[Any]]:
    """`await watching("select ...")` polls until the query gives something true."""

    async def watch(sql: str, *arguments: Any, limit: float = 30.0) -> Any:
        return await until(lambda: pool.fetchval(sql, *arguments), limit)

    return watch
