"""Blocking functions in threads."""

from __future__ import annotations

import asyncio

import pytest

from gristmill.engine.threads import in_thread, lost_threads
from gristmill.errors import TransientError
from tests.engine import roughly
from tests.engine.family import until_true


async def test_a_blocking_function_runs_in_a_thread_and_the_loop_goes_on() -> None:
    running = asyncio.create_task(in_thread(roughly.sleep, 0.5))
    beats = 0
    while not running.done():
        beats += 1
        await asyncio.sleep(0.01)
    assert beats > 10


async def test_as_many_threads_run_as_are_asked_for() -> None:
    async with asyncio.timeout(5):  # the loop's own pool has six on two cores
        await asyncio.gather(*(in_thread(roughly.sleep, 0.5) for _ in range(60)))


async def test_a_thread_that_nobody_waits_for_is_counted_until_it_returns() -> None:
    before = lost_threads()
    running = asyncio.create_task(in_thread(roughly.sleep, 1.0))
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert lost_threads() == before + 1
    await until_true(lambda: lost_threads() == before)


async def test_the_end_of_the_process_is_not_asked_for_by_a_thread() -> None:
    for how, words in (("exit", "SystemExit"), ("panic", "Panic"), ("interrupt", "KeyboardInterrupt")):
        with pytest.raises(TransientError, match=words):
            await in_thread(roughly.end, {"how": how, "number": 0})
    with pytest.raises(TransientError, match="StopIteration"):
        await in_thread(next, iter(()))
