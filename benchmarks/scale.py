"""How does the engine's cost grow? The slopes from which docs/concepts/scale.md computes where the first limit lies.

    python -m benchmarks.scale [--quick] [--write] [--only workers,waiting,finished,runs,readers,bytes]

Each row is a drain of bare tasks in a fresh database, CPU of the worker processes and of the server, microseconds a
task. "workers": processes at once. "waiting": tasks behind those that are drained. "finished": tasks that ended before,
in the hot table. "runs": runs that the tasks are spread over. "readers": sessions that read new events four times a
second. "bytes": write-ahead log, and disk in hot tables and in the history, for a finished task.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks.engine import HOLD, RELEASE, SETTINGS, make_run, workers_ready
from benchmarks.measure import Bench, bench, cpu_seconds, descendants, publish, table, until
from gristmill.db.database import connect
from gristmill.engine import history

FILL = "insert into task (run_id, kind, pool) select $2, 'nothing', '*' from generate_series(1, $1)"
FINISHED = """
insert into task (run_id, kind, pool, state, ended_at)
select $2, 'nothing', '*', 'completed', clock_timestamp() from generate_series(1, $1)"""
DONE = """
select coalesce(sum(n), 0) from (
    select n from counter_delta where name = 'completed' union all select n from counter where name = 'completed') c"""
EVENTS = "select seq, name, body from event where seq > $1 order by seq limit 500"


@dataclass(frozen=True)
class Sizes:
    tasks: int
    workers: tuple[int, ...]
    behind: tuple[int, ...]
    runs: tuple[int, ...]
    readers: tuple[int, ...]


MANY = (0, 10_000, 100_000, 1_000_000, 10_000_000)
FULL = Sizes(20_000, (1, 2, 4, 8, 16), MANY, (1, 10, 100, 1_000), (0, 1, 10, 50, 200))
QUICK = Sizes(6_000, (1, 2, 4), (0, 10_000, 100_000), (1, 10, 100), (0, 10, 50))


@dataclass(frozen=True)
class Drain:
    """Tasks a second, and CPU microseconds a task of the workers and of the server."""

    rate: float
    worker: float
    server: float
    connections: int
    wal: int = 0


async def drain(
    made: Bench, tasks: int, *, workers: int = 1, waiting: int = 0, finished: int = 0, runs: int = 1, readers: int = 0
) -> Drain:
    async with made.database() as url:
        control = await connect(url, statement_timeout="0")
        numbers = [await make_run(control) for _ in range(runs)]
        await control.execute(HOLD)
        for number in numbers:
            await control.execute(FILL, (tasks + waiting) // runs, number, timeout=3600)
        if finished:
            await control.execute(FINISHED, finished, numbers[0], timeout=3600)
        await control.execute("vacuum analyze task", timeout=3600)
        started = [
            made.processes.start("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
            for _ in range(workers)
        ]
        await workers_ready(control, workers)
        async with reading(url, readers):
            return await _measured(made, control, [pid for one in started for pid in descendants(one.pid)], tasks)


async def _measured(made: Bench, control: asyncpg.Connection[Any], tree: Sequence[int], tasks: int) -> Drain:
    position = await control.fetchval("select pg_current_wal_lsn()")
    server, worker, began = made.server_cpu(without=control), cpu_seconds(tree), time.perf_counter()
    await control.execute(RELEASE)

    async def over() -> bool:
        return bool(await control.fetchval(DONE) >= tasks)

    await until(over, 900, 0.1)
    seconds = time.perf_counter() - began
    done = int(await control.fetchval(DONE))
    server, worker = made.server_cpu(without=control) - server, cpu_seconds(tree) - worker
    wal = await control.fetchval("select pg_wal_lsn_diff(pg_current_wal_lsn(), $1)::bigint", position)
    users = await control.fetchval("select count(*) from pg_stat_activity where application_name like 'gristmill:%'")
    await control.close()
    return Drain(done / seconds, worker / done * 1e6, server / done * 1e6, users, wal // done)


@asynccontextmanager
async def reading(url: str, count: int) -> AsyncIterator[None]:
    async def reader() -> None:
        connection, seen = await connect(url), 0
        while True:
            rows = await connection.fetch(EVENTS, seen)
            seen = rows[-1]["seq"] if rows else seen
            await asyncio.sleep(0.25)

    tasks = [asyncio.create_task(reader()) for _ in range(count)]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def slope(made: Bench, name: str, values: Sequence[int], tasks: int) -> str:
    rows = []
    for value in values:
        found = await drain(made, tasks, **{name: value})
        rows.append([
            f"{value:,}", f"{found.rate:,.0f}", f"{found.worker:.0f}", f"{found.server:.0f}", str(found.connections)
        ])  # fmt: skip
    return table((name, "tasks/s", "CPU us a task, workers", "server", "connections"), rows)


async def sizes_on_disk(made: Bench, tasks: int) -> str:
    """What a finished task leaves behind, before and after it went into the history."""
    async with made.database() as url:
        control = await connect(url, statement_timeout="0")
        size = "select pg_database_size(current_database())"
        number = await make_run(control)
        await control.execute("vacuum")
        empty = await control.fetchval(size)
        await control.execute(HOLD)
        await control.execute(FILL, tasks, number)
        made.processes.start("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
        await workers_ready(control, 1)
        found = await _measured(made, await connect(url), [], tasks)
        await control.execute("vacuum full")
        hot = await control.fetchval(size) - empty
        await control.execute("update run set state = 'completed', ended_at = clock_timestamp() - interval '1 year'")
        await control.execute("update task set ended_at = clock_timestamp() - interval '1 hour'")
        await history.prune(control, 0.0, 1e9)
        await control.execute("vacuum full")
        old = await control.fetchval(size) - empty
        await control.close()
    rows = [[f"{found.wal:,}", f"{hot / tasks:,.0f}", f"{old / tasks:,.0f}"]]
    return table(("bytes a bare task: write-ahead log", "disk while it is hot", "disk in the history"), rows)


async def measure(sizes: Sizes, wanted: set[str]) -> str:
    parts = []
    async with bench() as made:
        for name, values in (("workers", sizes.workers), ("waiting", sizes.behind), ("finished", sizes.behind),
                             ("runs", sizes.runs), ("readers", sizes.readers)):  # fmt: skip
            if name in wanted:
                parts.append(await slope(made, name, values, sizes.tasks))
        if "bytes" in wanted:
            parts.append(await sizes_on_disk(made, sizes.tasks))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few minutes")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--only", default="workers,waiting,finished,runs,readers,bytes", help="parts, with commas")
    options = parser.parse_args()
    text = asyncio.run(measure(QUICK if options.quick else FULL, set(options.only.split(","))))
    print(text)
    if options.write:
        publish("scale", text, f"python -m benchmarks.scale{' --quick' if options.quick else ''}")


if __name__ == "__main__":
    main()
