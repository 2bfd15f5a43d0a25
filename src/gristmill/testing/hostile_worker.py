"""A worker process that does harm to itself: python -m gristmill.testing.hostile_worker '{"target": ...}'."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gristmill.engine.library import SLOTS, Engine
from gristmill.engine.performing import FunctionPerformer
from gristmill.engine.retry import Policy
from gristmill.engine.task import NewTask, Task
from gristmill.engine.worker import Outcome, Performer, Worker, WorkerSettings
from gristmill.testing.hostile import Faults


class HostilePerformer:
    """Performs as the one inside does, in a process that dies and hangs at bad moments."""

    def __init__(self, inner: Performer, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults
        self.kinds = inner.kinds
        self.isolates = inner.isolates

    async def policy(self, task: Task) -> Policy:
        return await self.inner.policy(task)

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        first = task.attempt == 1
        if first and self._roll("starve", task) < self.faults.starve:
            hold_everything(self.faults.starve_for)
        outcome = await self.inner.perform(task, alone=alone)
        if first and self._roll("kill", task) < self.faults.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
        return [new._replace(max_crashes=10_000) for new in await self.inner.save(connection, finished)]

    def _roll(self, what: str, task: Task) -> float:
        """From 0 to 1, the same for a task in every process and every run of the test."""
        text = f"{self.faults.seed} {what} {task.kind} {task.payload}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def hold_everything(seconds: float) -> None:
    """Holds the GIL and the event loop: no other thread of this process runs meanwhile."""
    ctypes.PyDLL(None).poll(None, 0, int(seconds * 1000))


async def main(order: dict[str, Any]) -> None:
    sys.path[:0] = [folder for folder in order["path"] if folder not in sys.path]
    module, _, name = order["target"].partition(":")
    loaded = importlib.import_module(module)
    found = getattr(loaded, name or "engine", None)
    faults = Faults(**order["faults"])
    if isinstance(found, Engine):
        await _run_engine(found, order, faults)
    elif name:
        raise SystemExit(f"{order['target']} is no Engine")
    else:
        await _run_app(order, faults)


async def _run_engine(engine: Engine, order: dict[str, Any], faults: Faults) -> None:
    engine.url = order["url"]
    async with engine:
        performer = FunctionPerformer(engine)
        pools = order["pools"] or dict.fromkeys({"*", *(made.pool for made in engine.tasks.all())}, SLOTS)
        await _work(order, pools, HostilePerformer(performer, faults))
        await performer.close()


async def _run_app(order: dict[str, Any], faults: Faults) -> None:
    from gristmill.app import App

    async with App(order["url"], home=Path(order["home"]) if order["home"] else None) as app:
        performer = HostilePerformer(app.worker().performer, faults)
        await _work(order, order["pools"] or app.settings.pools, performer)


async def _work(order: dict[str, Any], pools: dict[str, int], performer: Performer) -> None:
    settings = WorkerSettings(
        pools=pools, lease=order["lease"], beat=0.5, stall_after=2.0, poll=0.1, probe=0.1, confirm=0.2,
        shutdown=1, suspect_slots=8,
    )  # fmt: skip
    worker = Worker(order["url"], performer, settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    asyncio.run(main(json.loads(sys.argv[1])))
