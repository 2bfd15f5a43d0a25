"""Functions that other processes have to find: a worker program, and targets of child processes."""

from __future__ import annotations

import asyncio
import os

from gristmill.engine import Engine, TaskContext

engine = Engine()


def pid() -> int:
    return os.getpid()


async def pid_of_coroutine(context: TaskContext) -> list[object]:
    await asyncio.sleep(0)
    return [context.attempt, bool(context.idempotency_key)]


def greedy() -> int:
    return len(bytearray(2**31))


@engine.task("slow")
async def slow(number: int) -> int:
    await asyncio.sleep(0.3)
    return number


if __name__ == "__main__":

    async def main() -> None:
        async with engine:
            await engine.work({"*": 1}, poll=0.05)

    asyncio.run(main())
