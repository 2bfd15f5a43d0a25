"""Which shape of a worker: operators in the main process with a small beat process, or in a child behind a pipe?

    python -m benchmarks.worker_shape [--quick] [--write]

Shape "beat" is src/gristmill/engine/worker.py as it is: one process claims, runs operators and settles, a second one
beats. Shape "pipe" keeps the same worker as a small parent, whose operators run in a child: JSON lines in both
directions, written in batches. The operator gets a chunk of text and returns two questions with answers, which are
saved; then the same with an operator that does nothing. The parent of "pipe" would beat itself, so its beat process is
left out of its figures. "Call" is one task on an idle worker, from the performer to the operator and back. Rounds
alternate on one server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.engine import HOLD, RELEASE, all_done, make_run, workers_ready
from benchmarks.measure import (
    Bench,
    bench,
    cpu_seconds,
    descendants,
    line_of,
    memory_mib,
    middle,
    percentile,
    publish,
    table,
)  # fmt: skip
from gristmill.db.database import connect
from gristmill.engine import queue
from gristmill.engine.queue import NewTask, Task
from gristmill.engine.worker import Outcome, Worker, WorkerSettings

KEEP = "create table kept (task_id bigint, body text)"
CHUNK = "The component is a part that holds units of grain and turns a number of times a minute. " * 10
WINDOW = "select extract(epoch from max(ended_at) - min(claimed_at))::float8 from task"
SETTINGS = WorkerSettings(pools={"*": 100}, poll=0.05)


async def operate(message: dict[str, Any]) -> dict[str, Any]:
    """The operator of this benchmark: two questions about a text, or nothing about nothing."""
    text = message.get("text")
    if text is None:
        return {}
    return {"made": [{"question": text[:60], "answer": text[60:160], "quote": text[160:260]} for _ in range(2)]}


class Here:
    """Runs the operator in this process."""

    async def run(self, message: dict[str, Any]) -> dict[str, Any]:
        return await operate(message)


class Child:
    """Runs the operator in a child process: one JSON document a line, both ways, gathered into batches."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._lines: list[bytes] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.worker_shape", "--role", "child",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())

    async def run(self, message: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._send)
        self._lines.append(json.dumps([self._number, message]).encode() + b"\n")
        return await future

    def _send(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(self._lines))
        self._lines.clear()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, reply = json.loads(line)
            self._waiting.pop(number).set_result(reply)


async def child() -> None:
    """The child of shape "pipe"."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    out: list[bytes] = []
    running: set[asyncio.Task[None]] = set()

    def send() -> None:
        transport.write(b"".join(out))
        out.clear()

    async def one(number: int, message: dict[str, Any]) -> None:
        reply = json.dumps([number, await operate(message)]).encode() + b"\n"
        if not out:
            loop.call_soon(send)
        out.append(reply)

    while line := await reader.readline():
        task = asyncio.create_task(one(*json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


class Performer:
    """Hands the payload to the operator, wherever it runs, and keeps what it returns."""

    kinds: Sequence[str] = ("nothing",)
    isolates = False

    def __init__(self, place: Here | Child) -> None:
        self.place = place

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        message = json.loads(task.payload)
        began = time.perf_counter()
        reply = await self.place.run(message)
        if "timed" in message:
            print(time.perf_counter() - began, flush=True)
        return Outcome("ok", reply)

    async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
        made = [(task.id, json.dumps(body)) for task, outcome in finished for body in outcome.value.get("made", ())]
        if made:
            await connection.execute(
                "insert into kept select * from unnest($1::bigint[], $2::text[])",
                [task_id for task_id, _ in made], [body for _, body in made],
            )  # fmt: skip
        return ()


async def work(shape: str, url: str) -> None:
    place: Here | Child = Here()
    if shape == "pipe":
        place = Child()
        await place.start()
    await Worker(url, Performer(place), SETTINGS).run()


def own_processes(shape: str, pid: int) -> list[int]:
    """Those that belong to the shape: with "pipe" the parent itself would beat."""
    tree = descendants(pid)
    return [tree[0], *(other for other in tree[1:] if shape == "beat" or not _is_beat(other))]


def _is_beat(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline") as file:
        return "engine.beat" in file.read()


async def measure_shape(made: Bench, shape: str, payload: dict[str, Any], count: int) -> dict[str, float]:
    async with made.database() as url:
        connection = await connect(url)
        await connection.execute(KEEP)
        run_id = await make_run(connection)
        await connection.execute(HOLD)
        for start in range(0, count, 500):
            async with connection.transaction():
                number = min(500, count - start)
                await queue.enqueue(connection, [NewTask(run_id, "nothing", payload=json.dumps(payload))] * number)
        worker = made.processes.start("-m", "benchmarks.worker_shape", "--role", shape, "--url", url)
        await workers_ready(connection, 1)
        tree = own_processes(shape, worker.pid)
        before = cpu_seconds(tree)
        await connection.execute(RELEASE)
        await all_done(connection, count)
        used = cpu_seconds(tree) - before
        window = await connection.fetchval(WINDOW)
        memory = memory_mib(tree)
        late = []
        for _ in range(50):
            await queue.enqueue(connection, [NewTask(run_id, "nothing", payload=json.dumps({**payload, "timed": 1}))])
            late.append(float(await line_of(worker)))
        await connection.close()
    return {
        "cpu": used / count * 1e6, "per second": count / window, "memory": memory,
        "late": middle(late) * 1e6, "late 99": percentile(late, 0.99) * 1e6,
    }  # fmt: skip


async def measure(rounds: int, count: int) -> str:
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    async with bench() as made:
        for _ in range(rounds):
            for name, payload in (("chunk in, two rows out", {"text": CHUNK}), ("nothing", {})):
                for shape in ("beat", "pipe"):
                    found[name, shape].append(await measure_shape(made, shape, payload, count))
    rows = []
    for (name, shape), values in found.items():

        def figure(key: str, values: list[dict[str, float]] = values) -> str:
            return f"{middle(value[key] for value in values):,.0f}"

        rows.append([
            name, shape, figure("cpu"), figure("per second"), f"{figure('late')} / {figure('late 99')}",
            figure("memory"),
        ])  # fmt: skip
    head = ("operator", "shape", "CPU us a task, all processes", "tasks/s", "call p50 / p99, us", "memory (PSS), MiB")
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.worker_shape", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--role", choices=("beat", "pipe", "child"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "child":
        asyncio.run(child())
    elif options.role:
        asyncio.run(work(options.role, options.url))
    else:
        text = asyncio.run(measure(1, 4_000) if options.quick else measure(3, 10_000))
        print(text)
        if options.write:
            publish("worker_shape", text, f"python -m benchmarks.worker_shape{' --quick' if options.quick else ''}")


if __name__ == "__main__":
    main()
