"""What does a bare task cost, next to hand-written SQL on the same server in the same minutes?

    python -m benchmarks.engine [--quick] [--write] [--peers PYTHON]

"limit" is hand-written SQL through asyncpg: claim 100, complete 100, two commits, SKIP LOCKED, a token, the result
kept. Gristmill does what it always does: leases, attempts, counters, events, a beat process. Both use the embedded
server with its durable settings; measurements alternate, each in a fresh database; figures are medians over the
rounds, ratios are taken inside a round. `--peers` names a Python in which pgqueuer, procrastinate,
oban (Python 3.12) or dbos are installed (never the project's); they go into a section of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks import engine_peers
from benchmarks.engine_processes import HOLDS, LIMIT_TABLES
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
    tell,
    until,
)  # fmt: skip
from gristmill.db.database import connect
from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask

SETTINGS = {"pools": {"*": 100}}
HOLD, RELEASE = "update run set state = 'paused'", "update run set state = 'running'"


@dataclass(frozen=True)
class Sizes:
    rounds: int
    tasks: int
    single: int  # enqueued one by one
    latencies: int
    idle: float  # seconds


FULL = Sizes(rounds=3, tasks=24_000, single=1_000, latencies=100, idle=10)
QUICK = Sizes(rounds=1, tasks=10_000, single=300, latencies=15, idle=3)


@dataclass(frozen=True)
class Drain:
    """`worker` and `server` are CPU microseconds a task."""

    per_second: float
    worker: float
    server: float

    @property
    def total(self) -> float:
        return self.worker + self.server


async def make_run(connection: asyncpg.Connection[Any]) -> int:
    async with connection.transaction():
        new = workflow.NewRun("bench", "bench", (workflow.Step("nothing", "nothing"),), {})
        run_id, _ = await workflow.find_or_create(connection, new)
    return run_id


async def add_tasks(connection: asyncpg.Connection[Any], run_id: int, count: int) -> None:
    for start in range(0, count, 1000):
        async with connection.transaction():
            await queue.enqueue(connection, [NewTask(run_id, "nothing") for _ in range(min(1000, count - start))])


async def workers_ready(connection: asyncpg.Connection[Any], count: int) -> None:
    ready = "select count(*) from worker where state = 'alive' and postmaster_started is not null"

    async def are_ready() -> bool:
        return bool(await connection.fetchval(ready) >= count)

    await until(are_ready)


async def all_done(connection: asyncpg.Connection[Any], count: int) -> None:
    """Looks at the folded counter only: cheap, and a fraction of a second late, which no figure depends on."""
    done = "select coalesce(sum(n), 0) from counter where name = 'completed'"

    async def are_done() -> bool:
        return bool(await connection.fetchval(done) >= count)

    await until(are_done, 300, 0.1)


async def drain_limit(made: Bench, processes: int, count: int) -> Drain:
    async with made.database("template0") as url:
        connection = await asyncpg.connect(url)
        await connection.execute(LIMIT_TABLES)
        await connection.execute("insert into job (payload) select '{}' from generate_series(1, $1)", count)
        await connection.execute("vacuum analyze job")
        workers = [made.processes.start("-m", "benchmarks.engine_processes", "limit", url) for _ in range(processes)]
        for worker in workers:
            await line_of(worker)
        before = [cpu_seconds([worker.pid]) for worker in workers], made.server_cpu(without=connection)
        for worker in workers:
            tell(worker, "go")
        for worker in workers:
            while await line_of(worker) != "drained":
                pass
        used = sum(cpu_seconds([worker.pid]) for worker in workers) - sum(before[0])
        server = made.server_cpu(without=connection) - before[1]
        window = await connection.fetchval(
            "select extract(epoch from max(ended_at) - min(claimed_at))::float8 from job where state = 2"
        )
        assert await connection.fetchval("select count(*) from job where state = 2") == count
        await connection.close()
    return Drain(count / window, used / count * 1e6, server / count * 1e6)


async def drain_gristmill(made: Bench, processes: int, count: int) -> Drain:
    async with made.database() as url:
        connection = await connect(url)
        run_id = await make_run(connection)
        await connection.execute(HOLD)
        await add_tasks(connection, run_id, count)
        await connection.execute("vacuum analyze task")
        start = ("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
        workers = [made.processes.start(*start) for _ in range(processes)]
        await workers_ready(connection, processes)
        tree = [pid for worker in workers for pid in descendants(worker.pid)]
        before = cpu_seconds(tree), made.server_cpu(without=connection)
        await connection.execute(RELEASE)
        await all_done(connection, count)
        used, server = cpu_seconds(tree) - before[0], made.server_cpu(without=connection) - before[1]
        window = await connection.fetchval(
            "select extract(epoch from max(ended_at) - min(claimed_at))::float8 from task where state = 'completed'"
        )
        assert await connection.fetchval("select count(*) from attempt where outcome = 'completed'") == count
        await connection.close()
    return Drain(count / window, used / count * 1e6, server / count * 1e6)


async def enqueue_limit(made: Bench, sizes: Sizes) -> tuple[float, float]:
    """Jobs a second: one commit each, and in batches of 1,000 by COPY."""
    async with made.database("template0") as url:
        connection = await asyncpg.connect(url)
        await connection.execute(LIMIT_TABLES)
        began = time.perf_counter()
        for _ in range(sizes.single):
            await connection.fetchval("insert into job (payload) values ($1) returning id", "{}")
        single = sizes.single / (time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(0, sizes.tasks, 1000):
            await connection.copy_records_to_table("job", records=[("{}",)] * 1000, columns=["payload"])
        bulk = sizes.tasks / (time.perf_counter() - began)
        await connection.close()
    return single, bulk


async def enqueue_gristmill(made: Bench, sizes: Sizes) -> tuple[float, float]:
    """Tasks a second: one commit each, and in batches of 1,000."""
    async with made.database() as url:
        connection = await connect(url)
        run_id = await make_run(connection)
        began = time.perf_counter()
        for _ in range(sizes.single):
            await queue.enqueue(connection, [NewTask(run_id, "nothing")])
        single = sizes.single / (time.perf_counter() - began)
        began = time.perf_counter()
        await add_tasks(connection, run_id, sizes.tasks)
        bulk = sizes.tasks / (time.perf_counter() - began)
        await connection.close()
    return single, bulk


async def first_job_limit(made: Bench) -> float:
    async with made.database("template0") as url:
        connection = await asyncpg.connect(url)
        await connection.execute(LIMIT_TABLES)
        await connection.execute("insert into job (payload) values ('{}')")
        began = time.perf_counter()
        worker = made.processes.start("-m", "benchmarks.engine_processes", "limit", url)
        await line_of(worker)
        tell(worker, "go")
        assert await line_of(worker) == "first"
        took = time.perf_counter() - began
        await connection.close()
    return took


async def idle_gristmill(made: Bench, sizes: Sizes) -> dict[str, list[float]]:
    """One worker: start to first task, then idle memory and CPU, then how late single tasks are picked up."""
    found: dict[str, list[float]] = defaultdict(list)
    async with made.database() as url:
        connection = await connect(url)
        run_id = await make_run(connection)
        await queue.enqueue(connection, [NewTask(run_id, "nothing")])
        began = time.perf_counter()
        worker = made.processes.start("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
        assert await line_of(worker) == "first"
        found["first"].append(time.perf_counter() - began)
        await asyncio.sleep(2)
        tree = descendants(worker.pid)
        before = cpu_seconds(tree[:1]), cpu_seconds(tree[1:]), made.server_cpu(without=connection)
        await asyncio.sleep(sizes.idle)
        for name, start, now in zip(
            ("idle worker", "idle beat", "idle server"), before,
            (cpu_seconds(tree[:1]), cpu_seconds(tree[1:]), made.server_cpu(without=connection)), strict=True,
        ):  # fmt: skip
            found[name].append((now - start) / sizes.idle)
        found["worker memory"].append(memory_mib(tree[:1]))
        found["beat memory"].append(memory_mib(tree[1:]))
        for number in range(sizes.latencies):
            await asyncio.sleep(0.05 + number % 7 / 10)
            await queue.enqueue(
                connection, [NewTask(run_id, "nothing", payload=json.dumps({"sent": time.monotonic()}))]
            )
            await queue.hint(connection)
            found["late"].append(float((await line_of(worker)).split()[1]))
        await connection.close()
    return found


async def recovery(made: Bench) -> float | None:
    """As `engine_peers.recoveries`, of ours."""
    async with made.database() as url:
        connection = await connect(url)
        start = ("-m", "benchmarks.engine_processes", "gristmill", url, json.dumps(SETTINGS))
        workers = [made.processes.start(*start) for _ in range(2)]
        await workers_ready(connection, 2)
        run_id = await make_run(connection)
        await queue.enqueue(connection, [NewTask(run_id, "nothing", payload=HOLDS)] * engine_peers.HELD)
        await queue.hint(connection)
        took = await engine_peers.begun_again(made, workers, engine_peers.HELD, 60)
        await connection.close()
    return took


async def measure(sizes: Sizes, peers: str | None) -> str:
    drains: dict[tuple[str, int], list[Drain]] = defaultdict(list)
    enqueued: dict[str, list[tuple[float, float]]] = defaultdict(list)
    peer_rows: dict[str, list[engine_peers.Peer]] = defaultdict(list)
    async with bench() as made:
        for _ in range(sizes.rounds):
            for processes in (1, 2):
                drains["limit", processes].append(await drain_limit(made, processes, sizes.tasks))
                drains["gristmill", processes].append(await drain_gristmill(made, processes, sizes.tasks))
            enqueued["limit"].append(await enqueue_limit(made, sizes))
            enqueued["gristmill"].append(await enqueue_gristmill(made, sizes))
            for name in engine_peers.NAMES if peers else ():
                found = await engine_peers.measure(
                    made, peers or "", name, sizes.tasks // 8, sizes.single // 5, sizes.latencies // 5
                )
                if found is not None:
                    peer_rows[name].append(found)
        first = await first_job_limit(made)
        idle = await idle_gristmill(made, sizes)
        ours = await recovery(made)
        again = await engine_peers.recoveries(made, peers or "", peer_rows)
    parts = [_drain_table(drains), _enqueue_table(enqueued), _idle_text(idle, first, ours)]
    if peer_rows:
        limits = [[drain.per_second for drain in drains["limit", processes]] for processes in (1, 2)]
        parts.append(engine_peers.report(peer_rows, list(zip(*limits, strict=True)), again))
    return "\n\n".join(parts)


def _drain_table(drains: dict[tuple[str, int], list[Drain]]) -> str:
    rows = []
    for (name, processes), found in drains.items():
        limits = drains["limit", processes]

        def ratio(pick: Callable[[Drain], float], found: list[Drain] = found, limits: list[Drain] = limits) -> str:
            return f"{middle(pick(one) / pick(best) for one, best in zip(found, limits, strict=True)):.2f}"

        rows.append([
            name, str(processes), f"{middle(d.per_second for d in found):,.0f}", ratio(lambda d: d.per_second),
            f"{middle(d.worker for d in found):.0f}", f"{middle(d.server for d in found):.0f}",
            f"{middle(d.total for d in found):.0f}", ratio(lambda d: d.total),
        ])  # fmt: skip
    head = ("", "processes", "tasks/s", "of the limit", "CPU us a task, worker", "server", "both", "times the limit")
    return table(head, rows)


def _enqueue_table(enqueued: dict[str, list[tuple[float, float]]]) -> str:
    rows = []
    for name, found in enqueued.items():
        singles = [one[0] / best[0] for one, best in zip(found, enqueued["limit"], strict=True)]
        bulks = [one[1] / best[1] for one, best in zip(found, enqueued["limit"], strict=True)]
        rows.append([
            name, f"{middle(f[0] for f in found):,.0f}", f"{middle(singles):.2f}",
            f"{middle(f[1] for f in found):,.0f}", f"{middle(bulks):.2f}",
        ])  # fmt: skip
    return table(("", "enqueued/s, one a commit", "of the limit", "1,000 a commit", "of the limit (COPY)"), rows)


def _idle_text(idle: dict[str, list[float]], first: float, again: float | None) -> str:
    late = idle["late"]
    rows = [
        ["pickup of a single task, p50 / p99", f"{middle(late) * 1e3:.0f} / {percentile(late, 0.99) * 1e3:.0f} ms"],
        ["start to first task (limit)", f"{idle['first'][0]:.2f} s ({first:.2f} s)"],
        ["memory (PSS), worker + beat", f"{idle['worker memory'][0]:.0f} + {idle['beat memory'][0]:.0f} MiB"],
        [
            "CPU while idle, worker + beat + server",
            " + ".join(f"{idle[f'idle {name}'][0] * 100:.1f}" for name in ("worker", "beat", "server"))
            + " % of a core",
        ],
        ["SIGKILL of one of two to its tasks begun again by the other", engine_peers.said(again)],
    ]
    return table(("one idle worker with 100 slots", ""), rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter with pgqueuer, procrastinate, oban or dbos")
    options = parser.parse_args()
    text = asyncio.run(measure(QUICK if options.quick else FULL, options.peers))
    print(text)
    if options.write:
        flags = (" --quick" if options.quick else "") + (" --peers PYTHON" if options.peers else "")
        publish("engine_peers" if options.peers else "engine", text, f"python -m benchmarks.engine{flags}")


if __name__ == "__main__":
    main()
