"""A worker process for tests: `python -m tests.engine.roughly_worker URL SETTINGS` runs tasks of the kind "bare"."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from gristmill.engine.child_limits import Limits
from gristmill.engine.children import Children
from gristmill.engine.performer import Outcome
from gristmill.engine.queue import Task
from gristmill.engine.threads import in_thread, lost_threads
from gristmill.engine.worker import Worker, WorkerSettings
from tests.engine import roughly
from tests.engine.bare import Bare

HERE = "tests.engine.roughly"


class Roughly(Bare):
    """`where` of the payload: "child", "thread" or "loop"; `call`: a function of roughly.py; `with`: its argument."""

    isolates = True

    def __init__(self, backoff: float = 0.05) -> None:
        super().__init__(backoff)
        self.children = Children()

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        wish = json.loads(task.payload)
        if "where" not in wish:
            return await super().perform(task)
        if wish["where"] == "child" or alone:
            limits = Limits(memory=wish.get("memory"), cpu=wish.get("cpu"))
            await self.children.call(
                f"{HERE}:{wish['call']}", json.dumps(wish.get("with")), fresh=alone,
                limits=limits.doubled() if alone else limits,
            )  # fmt: skip
        else:
            function: Callable[[Any], Any] = getattr(roughly, wish["call"])
            value = await in_thread(function, wish.get("with"))
            json.dumps(value, allow_nan=False).encode()
        return Outcome("ok", {})


async def main() -> None:
    settings = json.loads(sys.argv[2])
    settings.pop("backoff", None)
    performer = Roughly()
    worker = Worker(sys.argv[1], performer, WorkerSettings(**settings))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    try:
        await worker.run()
    finally:
        await performer.children.close()
        print(f"lost threads: {lost_threads()}", flush=True)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
