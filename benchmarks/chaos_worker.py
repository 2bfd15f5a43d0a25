"""A worker process of the soak: python -m benchmarks.chaos_worker '{"url": ...}'.

It writes every claim down when its reply has come, and every finish right before it is sent; and it dies or freezes
where a payload asks for that: between claim and reply, before, inside and after the transaction that settles.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.chaos_history import Pen
from benchmarks.chaos_work import LARGE, hold_everything, suffer
from gristmill.engine import queue
from gristmill.engine.beat import die_with
from gristmill.engine.children import Children, Limits
from gristmill.engine.queue import Claimer, NewTask, Task
from gristmill.engine.retry import Policy
from gristmill.engine.settling import Finished, Settler
from gristmill.engine.worker import Outcome, Worker, WorkerSettings
from gristmill.errors import Busy, TransientError

CLONE_NEWNET = 0x40000000
CHILD = Limits(memory=256 * 2**20, cpu=5)
WORK = "benchmarks.chaos_work:suffer"
INSERT = """insert into chaos_result (task_id, token, fence, worker_id, pid, body)
values ($1, $2, $3, $4, $5, octet_length($6::text))"""
MUTANTS = {  # how the names of the statements of queue.sql begin, what they say, what they say instead
    "token": ("settle", "t.id = g.id and t.token = g.token for update", "t.id = g.id for update"),
    "fail": ("fail", "and token = $2 and", "and $2::uuid is not null and"),
    "release": ("release", "t.id = g.id and t.token = g.token for update", "t.id = g.id for update"),
    "slot": ("claim", "numbered.lock_key is null or taken.task_id is not null", "true"),
    "leak": ("rescue", "l.task_id = r.id", "l.task_id = -r.id"),
}


class Soaked:
    """Does what the payload says, and writes each finished task into the table `chaos_result`."""

    kinds: Sequence[str] = ("chaos", "chaos_poison")
    isolates = True

    def __init__(self, pen: Pen) -> None:
        self.pen = pen
        self.children = Children()
        self.worker_id = 0

    async def policy(self, task: Task) -> Policy:
        return Policy(backoff=0.05, longest=1.0)

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        wish = json.loads(task.payload)
        if alone or wish["do"] in ("memory", "large"):
            told = await self.children.call(WORK, task.payload, limits=CHILD, fresh=alone, path=[os.getcwd()])
            return Outcome("ok", (wish, json.loads(told)))  # as JSON text a NUL byte would be no poison any more
        match wish["do"]:
            case "segfault" | "loop":
                self.pen.write("dies", how=wish["do"])
                suffer(wish)
            case "block" if task.attempt == 1:
                self.pen.write("fault", kind="block", seconds=wish["hold"])
                hold_everything(wish["hold"])
            case "flaky" if task.failures == 0:
                raise TransientError("not today")
            case "busy" if task.attempt == 1:
                raise Busy("busy", delay=0.05, reason="the quota of the soak")
            case "huge":
                return Outcome("ok", (wish, "x" * LARGE))
            case "nul":
                return Outcome("ok", (wish, suffer(wish)))
        again = wish.get("again", 0.0) if task.attempt > 1 else 0.0
        await asyncio.sleep(wish.get("seconds", 0.0) + again)
        return Outcome("ok", (wish, "done"))

    async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
        rows = [(t.id, t.token, t.fence, self.worker_id, os.getpid(), outcome.value[1]) for t, outcome in finished]
        await connection.executemany(INSERT, rows)
        return [
            NewTask(task.run_id, "chaos", payload=json.dumps({"do": "sleep", "seconds": 0.01, "parent": task.id}))
            for task, outcome in finished
            for _ in range(outcome.value[0].get("children", 0))
        ]


class Sabotage:
    """Stands in the place of four calls of the queue: writes down what is presented, and hurts its own process."""

    def __init__(self, pen: Pen, performer: Soaked) -> None:
        self.pen = pen
        self.performer = performer
        self._claim, self._settle, self._fail, self._crash = queue.claim, queue.settle, queue.fail, queue.crash
        self._release, self._commit = queue.release, Settler._commit_once

    def install(self) -> None:
        sabotage = self

        async def commit(settler: Settler, batch: Finished) -> None:
            await sabotage._commit(settler, batch)
            sabotage._die([task for task, _ in batch], "after")

        for name in ("claim", "settle", "fail", "crash", "release"):
            setattr(queue, name, getattr(self, name))
        setattr(Settler, "_commit_once", commit)  # noqa: B010 - not an assignment that a type checker would know

    async def claim(self, connection: Any, claimer: Claimer, *arguments: Any, **more: Any) -> list[Task]:
        self.performer.worker_id = claimer.id
        tasks = await self._claim(connection, claimer, *arguments, **more)
        self._die(tasks, "claim")
        for task in tasks:
            self.pen.write(
                "claimed", task=task.id, token=str(task.token), fence=task.fence, attempt=task.attempt,
                worker=claimer.id, lock=task.lock_key,
            )  # fmt: skip
        return tasks

    async def settle(self, connection: Any, claimer: Claimer, finished: Sequence[tuple[Task, str]]) -> set[int]:
        tasks = [task for task, _ in finished]
        for task in tasks:
            self._presents("settle", task)
        self._die(tasks, "before")
        self._freeze(tasks)
        done = await self._settle(connection, claimer, finished)
        self._die(tasks, "during")
        for task in tasks:
            if task.id not in done:
                self.pen.write("refused", task=task.id, token=str(task.token), how="settle")
        return done

    async def fail(self, connection: Any, claimer: Claimer, task: Task, failure: Any) -> str | None:
        self._presents("fail", task)
        return await self._fail(connection, claimer, task, failure)

    async def crash(self, connection: Any, claimer: Claimer, task: Task, story: str, *more: str) -> str | None:
        self._presents("crash", task)
        return await self._crash(connection, claimer, task, story, *more)

    async def release(self, connection: Any, back: Sequence[tuple[Task, float, str]]) -> set[int]:
        for task, _, _ in back:
            self._presents("release", task)
        return await self._release(connection, back)

    def _presents(self, how: str, task: Task) -> None:
        self.pen.write("presents", task=task.id, token=str(task.token), fence=task.fence, how=how,
                       worker=self.performer.worker_id)  # fmt: skip

    def _die(self, tasks: Sequence[Task], where: str) -> None:
        if any(task.attempt == 1 and json.loads(task.payload).get("die") == where for task in tasks):
            self.pen.write("dies", how=f"SIGKILL {where}")
            os.kill(os.getpid(), signal.SIGKILL)

    def _freeze(self, tasks: Sequence[Task]) -> None:
        """With its beat process, right before the write; who watches lets both go on when the lease is over."""
        if any(task.attempt == 1 and json.loads(task.payload).get("freeze") for task in tasks):
            self.pen.write("freezes")
            os.killpg(os.getpgid(0), signal.SIGSTOP)


def sow(name: str) -> None:
    """Sows one fault into the statements of the queue. Raises `ValueError` when none of them says what it replaces."""
    prefix, old, new = MUTANTS[name]
    found = {name: sql for name, sql in queue.SQL.items() if name.startswith(prefix) and old in sql}
    if not found:
        raise ValueError(f'mutant "{name}": no statement {prefix} says {old!r}')
    queue.SQL = MappingProxyType({**queue.SQL, **{name: sql.replace(old, new) for name, sql in found.items()}})


def enter_network(path: str) -> None:
    """Into the network namespace of a relay, before any connection is made."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(path).open("rb") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {path}")


def show_tasks() -> None:
    """Where every coroutine stands, on standard error."""
    for task in asyncio.all_tasks():
        task.print_stack()


async def main(order: dict[str, Any]) -> None:
    pen = Pen(order["history"])
    performer = Soaked(pen)
    if order["mutant"]:
        sow(order["mutant"])
    Sabotage(pen, performer).install()
    worker = Worker(order["url"], performer, WorkerSettings(**order["settings"]))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGUSR2, show_tasks)
    pen.write("started")
    try:
        await worker.run()
    finally:
        await performer.children.close()
    pen.write("left")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    given = json.loads(sys.argv[1])
    die_with(given["parent"])
    if given["namespace"]:
        enter_network(given["namespace"])
    asyncio.run(main(given))
