"""A worker process for tests: runs small named tasks of the bare engine, without records or models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from gristmill.engine.queue import NewTask, Task
from gristmill.engine.retry import Policy
from gristmill.engine.worker import Outcome, Worker, WorkerSettings
from gristmill.errors import Busy, InputError, TransientError


class Bare:
    """Does what the payload says, and writes each finished task into the table `done`."""

    kinds: Sequence[str] = ("bare",)
    isolates = False

    def __init__(self, backoff: float = 1.0) -> None:
        self._policy = Policy(backoff=backoff)

    async def policy(self, task: Task) -> Policy:
        return self._policy

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        wish = json.loads(task.payload)
        match wish.get("do"):
            case "sleep":
                await asyncio.sleep(wish["seconds"])
            case "block":
                time.sleep(wish["seconds"])
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "fail":
                raise TransientError("not today")
            case "reject":
                raise InputError("never")
            case "busy" if task.attempt == 1:
                raise Busy("busy", delay=0.05, reason="the quota of the test")
            case "words":
                raise ValueError("a name like \udcff and a \0")
            case "later":
                raise Busy("busy", delay=float(wish["delay"]))
            case "exit":
                sys.exit(0)
            case "cancel":
                raise asyncio.CancelledError
            case "stubborn":
                while True:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(3600)
            case "raise":
                raise ValueError(f"value {task.id}")
        return Outcome("ok", wish)

    async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
        await connection.executemany(
            "insert into done (task_id, fence, worker) values ($1, $2, $3)",
            [(task.id, task.fence, os.getpid()) for task, _ in finished],
        )
        if any(outcome.value.get("do") == "poison" for _, outcome in finished):
            await connection.execute("select '\\u0000'::jsonb")
        return [
            NewTask(task.run_id, "bare", step=task.step + 1)
            for task, outcome in finished
            for _ in range(outcome.value.get("children", 0))
        ]


async def main() -> None:
    settings = json.loads(sys.argv[2])
    worker = Worker(sys.argv[1], Bare(settings.pop("backoff", 1.0)), WorkerSettings(**settings))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
