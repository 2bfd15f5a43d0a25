"""A worker whose loop looks for no work is no worker; one that waits in all of its slots is."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

WORKER = """
import asyncio, sys, time
from gristmill.engine.library import Engine
from gristmill.engine.worker import Worker

engine = Engine(sys.argv[1])
look = Worker._look_for_work

@engine.task("slow", timeout=600)
async def slow() -> int:
    print("full", flush=True)
    await asyncio.sleep(600)
    return 1

async def hang(self, pool):
    await look(self, pool)
    print("hangs", flush=True)
    await asyncio.Event().wait()

async def main():
    if sys.argv[2] == "hangs":
        Worker._look_for_work = hang
    async with engine:
        if sys.argv[2] == "full":
            await engine.enqueue(slow)
        await engine.work({"*": 1}, stuck_after=1.0, stall_after=3.0)

asyncio.run(main())
"""


def start(url: str, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.thorough
async def test_a_worker_that_looks_for_no_work_is_ended_and_one_with_full_slots_is_not(database_url: str) -> None:
    started = [start(database_url, "full")]
    try:
        (full,) = started
        assert full.stdout is not None
        assert await asyncio.to_thread(full.stdout.readline) == "full\n"
        started.append(hanging := start(database_url, "hangs"))
        assert hanging.stdout is not None
        assert await asyncio.to_thread(hanging.stdout.readline) == "hangs\n"
        assert await asyncio.to_thread(hanging.wait, 30) == -signal.SIGKILL
        assert full.poll() is None  # it has looked for nothing for longer than the other one
    finally:
        for process in started:
            process.kill()
            process.communicate()
