"""Does a drain stay as fast with a million tasks waiting, and while somebody holds an old snapshot open?

    python -m benchmarks.engine_conditions [--quick] [--write]

Ours and the limit (hand-written SQL, as in benchmarks/engine.py), one worker process each, alternating on one server.
"waiting" drains the first of many; the ratio is to the same number of tasks with nothing behind them. "snapshot" drains
everything while another session sits in a REPEATABLE READ transaction; the ratio is the throughput of the last fifth to
that of the first, and beside it the same without the snapshot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks.engine import HOLD, RELEASE, SETTINGS, make_run, workers_ready
from benchmarks.engine_processes import LIMIT_TABLES
from benchmarks.measure import Bench, bench, cpu_seconds, descendants, line_of, middle, publish, table, tell, until
from gristmill.db.database import connect

FILL_LIMIT = "insert into job (payload) select '{}' from generate_series(1, $1)"
FILL = "insert into task (run_id, kind, pool) select $2, 'nothing', '*' from generate_series(1, $1)"
FIFTHS = """
with ended as (select {at} as at, ntile(5) over (order by {at}) as fifth from {table} where {done})
select extract(epoch from max(at) - min(at))::float8 as seconds from ended group by fifth order by fifth
"""
OF = {
    "limit": FIFTHS.format(at="ended_at", table="job", done="state = 2"),
    "gristmill": FIFTHS.format(at="ended_at", table="task", done="state = 'completed'"),
}
DONE = {
    "limit": "select count(*) from job where state = 2",
    "gristmill": "select coalesce(sum(n), 0) from counter where name = 'completed'",
}
EXACT = {"limit": DONE["limit"], "gristmill": "select count(*) from attempt where outcome = 'completed'"}


@dataclass(frozen=True)
class Sizes:
    rounds: int
    tasks: int
    waiting: int
    under_snapshot: int


FULL = Sizes(rounds=3, tasks=20_000, waiting=1_000_000, under_snapshot=100_000)
QUICK = Sizes(rounds=1, tasks=10_000, waiting=300_000, under_snapshot=40_000)


@dataclass(frozen=True)
class Drained:
    """CPU microseconds a task, worker and server together; `fifths` are tasks a second in each fifth, `costs` the CPU a
    task in the first and in the last fifth."""

    cpu: float
    fifths: list[float]
    costs: tuple[float, float]


@asynccontextmanager
async def snapshot(url: str, held: bool) -> AsyncIterator[None]:
    if not held:
        yield
        return
    connection = await connect(url, idle_in_transaction_session_timeout="0")  # else it is ended soon
    async with connection.transaction(isolation="repeatable_read"):
        await connection.fetch("select 1 from pg_class limit 1")
        yield
    await connection.close()


async def drain(made: Bench, name: str, there: int, count: int, *, held: bool = False) -> Drained:
    """Fills in `there` tasks and works off `count` of them, or a few more."""
    ours = name == "gristmill"
    async with made.database("template_gristmill" if ours else "template0") as url:
        connection = await (connect(url, statement_timeout="0") if ours else asyncpg.connect(url))
        worker = await _prepared(made, connection, url, there, ours=ours)
        tree = descendants(worker.pid)
        async with snapshot(url, held):
            before = cpu_seconds(tree) + made.server_cpu(without=connection)
            await connection.execute(RELEASE) if ours else tell(worker, "go")
            course = [(0, 0.0)]

            async def are_done() -> bool:
                done = int(await connection.fetchval(DONE[name]))
                course.append((done, cpu_seconds(tree) + made.server_cpu(without=connection) - before))
                return bool(done >= count)

            await until(are_done, 900, 0.1)
            used = cpu_seconds(tree) + made.server_cpu(without=connection) - before
            done = await connection.fetchval(EXACT[name])
            made.processes.end(worker)
        seconds = [row["seconds"] for row in await connection.fetch(OF[name])]
        total = await connection.fetchval(EXACT[name])
        await connection.close()
    return Drained(used / done * 1e6, [total / 5 / each for each in seconds], _costs(course))


def _costs(course: list[tuple[int, float]]) -> tuple[float, float]:
    """CPU microseconds a task in the first and in the last fifth, from how many were done after how much CPU."""
    last = course[-1]
    first = next(point for point in course if point[0] >= last[0] / 5)
    late = next(point for point in course if point[0] >= last[0] * 4 / 5)
    since = late if late[0] < last[0] else course[-2]
    return first[1] / first[0] * 1e6, (last[1] - since[1]) / (last[0] - since[0]) * 1e6


async def _prepared(made: Bench, connection: asyncpg.Connection[Any], url: str, there: int, *, ours: bool) -> Any:
    if not ours:
        await connection.execute(LIMIT_TABLES)
        await connection.execute(FILL_LIMIT, there)
        await connection.execute("vacuum analyze job")
        worker = made.processes.start("-m", "benchmarks.engine_processes", "limit", url)
        await line_of(worker)
        return worker
    run_id = await make_run(connection)
    await connection.execute(HOLD)
    await connection.execute(FILL, there, run_id)
    await connection.execute("vacuum analyze task")
    worker = made.processes.start("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
    await workers_ready(connection, 1)
    return worker


async def measure(sizes: Sizes) -> str:
    few: dict[str, list[Drained]] = defaultdict(list)
    many: dict[str, list[Drained]] = defaultdict(list)
    free: dict[str, list[Drained]] = defaultdict(list)
    held: dict[str, list[Drained]] = defaultdict(list)
    async with bench() as made:
        for _ in range(sizes.rounds):
            for name in OF:
                few[name].append(await drain(made, name, sizes.tasks, sizes.tasks))
                many[name].append(await drain(made, name, sizes.waiting, sizes.tasks))
            for name in OF:
                free[name].append(await drain(made, name, sizes.under_snapshot, sizes.under_snapshot))
                held[name].append(await drain(made, name, sizes.under_snapshot, sizes.under_snapshot, held=True))
    rows = [
        [
            name, f"{middle(d.cpu for d in few[name]):.0f}", f"{middle(d.cpu for d in many[name]):.0f}",
            f"{middle(b.cpu / a.cpu for a, b in zip(few[name], many[name], strict=True)):.2f}",
            f"{middle(d.fifths[-1] / d.fifths[0] for d in free[name]):.2f}",
            f"{middle(d.fifths[-1] / d.fifths[0] for d in held[name]):.2f}",
            f"{middle(b.cpu / a.cpu for a, b in zip(free[name], held[name], strict=True)):.2f}",
            f"{middle(d.costs[1] / d.costs[0] for d in held[name]):.2f}",
        ]
        for name in OF
    ]  # fmt: skip
    head = ("", "CPU us a task, nothing behind", f"{sizes.waiting:,} waiting", "ratio",
            f"last / first fifth of {sizes.under_snapshot:,}", "under a snapshot", "its CPU to that without one",
            "CPU under a snapshot, last to first fifth")  # fmt: skip
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.engine_conditions", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about three minutes")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    options = parser.parse_args()
    text = asyncio.run(measure(QUICK if options.quick else FULL))
    print(text)
    if options.write:
        flags = " --quick" if options.quick else ""
        publish("engine_conditions", text, f"python -m benchmarks.engine_conditions{flags}")


if __name__ == "__main__":
    main()
