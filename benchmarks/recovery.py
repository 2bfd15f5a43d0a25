"""How long after a SIGKILL does the work go on?

    python -m benchmarks.recovery [--quick] [--write]

One of two workers: two worker processes with default settings hold sleeping tasks; one of them is killed with all that
it started; the time from the signal until each of its tasks is claimed by the other one is read from the task rows.
Whole tree: `gristmill run` over documents, everything below it and the database server killed after 60 calls; the same
command again, three times; the time from its start until the model server sees the first call. That one is a wall time
that a loaded machine stretches; the first is mostly waiting (two sightings of a vanished lock, 500 ms apart, then a
poll).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

from benchmarks.documents import ModelServer, command_line, kill_project, make_documents, project_environment
from benchmarks.engine import make_run, workers_ready
from benchmarks.measure import Bench, Processes, bench, descendants, middle, percentile, publish, table, until
from gristmill.db.database import connect
from gristmill.engine import queue
from gristmill.engine.queue import NewTask

HELD = 8  # tasks that the killed worker holds
TAKEN_OVER = """
select extract(epoch from claimed_at - $2::timestamptz)::float8 as late from task
where id = any ($1::bigint[]) and state = 'running' and worker_id <> $3 and claimed_at > $2
"""


async def kill_one_of_two(made: Bench) -> list[float]:
    """Seconds until each of the killed worker's tasks ran again."""
    async with made.database() as url:
        connection = await connect(url)
        run_id = await make_run(connection)
        settings = json.dumps({"pools": {"*": 2 * HELD}})  # all else is the default
        first = made.processes.start("-m", "tests.engine.bare", url, settings)
        await workers_ready(connection, 1)
        wish = json.dumps({"do": "sleep", "seconds": 60})
        tasks = await queue.enqueue(connection, [NewTask(run_id, "bare", payload=wish) for _ in range(HELD)])
        held = "select count(*) = $1 from task where state = 'running'"
        await until(lambda: connection.fetchval(held, HELD))
        made.processes.start("-m", "tests.engine.bare", url, settings)
        await workers_ready(connection, 2)
        victim = await connection.fetchval("select id from worker where pid = $1", first.pid)
        await asyncio.sleep(2.5)  # the other one has gone back to its slowest poll
        killed_at = await connection.fetchval("select clock_timestamp()")
        for pid in descendants(first.pid):
            os.kill(pid, signal.SIGKILL)

        async def taken_over() -> list[float]:
            found = await connection.fetch(TAKEN_OVER, tasks, killed_at, victim)
            return [row["late"] for row in found] if len(found) == HELD else []

        late: list[float] = await until(taken_over)
        await connection.close()
    return late


async def kill_everything(folder: Path, model: ModelServer, number: int) -> list[float]:
    """Seconds from the start of the command to its first call: the very first time, then after each of three kills."""
    project = folder / f"project-{number}"
    make_documents(project / "documents", files=40, seed=number)
    environment = project_environment(model)
    processes = Processes()
    times = []
    try:
        for _ in range(4):
            before = (await model.stats())["requests"]
            began = time.perf_counter()
            process = processes.start(*command_line(project / "documents"), cwd=project, env=environment)

            async def called(more: int, before: int = before, process: subprocess.Popen[str] = process) -> bool:
                return (await model.stats())["requests"] >= before + more or process.poll() is not None

            await until(partial(called, 1), every=0.01)
            times.append(time.perf_counter() - began)
            await until(partial(called, 60), every=0.01)
            kill_project(project, process.pid)
            process.wait()
    finally:
        processes.end()
        kill_project(project, None)
    return times


def row(name: str, seconds: list[float]) -> list[str]:
    return [
        name, str(len(seconds)), f"{middle(seconds):.2f}", f"{percentile(seconds, 0.99):.2f}", f"{max(seconds):.2f}",
    ]  # fmt: skip


async def measure(rounds: int, restarts: int) -> str:
    taken: list[float] = []
    async with bench() as made:
        for _ in range(rounds):
            taken += await kill_one_of_two(made)
        async with ModelServer.running(latency=0.2) as model:
            starts = [await kill_everything(made.folder, model, number) for number in range(restarts)]
    rows = [row(f"one of two workers: SIGKILL to each of its {HELD} tasks running again", taken)]
    names = ("first start of all (makes the database)", "after a kill", "after the second", "after the third")
    for place, name in enumerate(names):
        rows.append(row(f"the whole tree: start of the command to its first call, {name}", [s[place] for s in starts]))
    return table(("seconds", "samples", "p50", "p99", "max"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    text = asyncio.run(measure(3, 1) if options.quick else measure(20, 5))
    print(text)
    if options.write:
        publish("recovery", text, f"python -m benchmarks.recovery{' --quick' if options.quick else ''}")


if __name__ == "__main__":
    main()
