"""What do counting and looking cost?

    python -m benchmarks.metrics [--quick] [--write]

An increment: ours (a sum in memory), `prometheus_client` in memory, and with its files.
A flush of what a busy worker counts, every fiftieth followed by a fold, and a scrape of a large database. "Snapshot"
means that another transaction holds an old snapshot while flushes and folds go on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import timeit

from benchmarks.measure import bench, percentile, publish, table
from gristmill.db.database import connect
from gristmill.engine import metrics, scrape
from gristmill.engine.metrics import DatabaseMetrics

THEIRS = """
import timeit
from prometheus_client import CollectorRegistry, Counter, Histogram
registry = CollectorRegistry()
counter = Counter("a", "a", ["pool"], registry=registry)
histogram = Histogram("b", "b", ["kind"], registry=registry)
for statement in ("counter.labels(pool='*').inc()", "histogram.labels(kind='ask').observe(0.3)"):
    print(min(timeit.repeat(statement, globals=globals(), number=20000, repeat=15)) / 20000 * 1e6)
"""


def ours() -> list[float]:
    """Microseconds of one increment and of one observation."""
    counting = DatabaseMetrics()
    calls = (lambda: counting.incr("claim_idle", pool="*"), lambda: counting.observe("step_duration", 0.3, kind="ask"))
    return [min(timeit.repeat(call, number=20_000, repeat=15)) / 20_000 * 1e6 for call in calls]


def theirs(*, files: bool) -> list[float]:
    """The same of `prometheus_client`."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **({"PROMETHEUS_MULTIPROC_DIR": folder} if files else {})}
        done = subprocess.run(
            [sys.executable, "-c", THEIRS], env=environment, capture_output=True, text=True, check=True
        )
    return [float(line) for line in done.stdout.split()]


def busy(counting: DatabaseMetrics) -> None:
    """What a worker with two pools and three operators counts between two flushes."""
    for pool in ("*", "gpu"):
        for name in ("claim_attempts", "claim_success", "claim_idle"):
            counting.incr(name, pool=pool)
        counting.observe("claim_duration", 0.004, pool=pool)
    for kind in ("parse", "split", "ask"):
        for name in ("step_started", "step_completed", "step_released"):
            counting.incr(name, kind=kind)
        counting.observe("step_duration", 0.4, kind=kind)


async def flushes(url: str, n: int) -> list[float]:
    """Milliseconds of each of `n` flushes, every fiftieth followed by a fold."""
    connection = await connect(url)
    sources = [DatabaseMetrics() for _ in range(20)]
    took = []
    for number in range(n):
        busy(sources[number % 20])
        began = time.perf_counter()
        await sources[number % 20].flush(connection)
        took.append((time.perf_counter() - began) * 1e3)
        if number % 50 == 49:
            await metrics.fold(connection, older_than=0.0)
    await connection.close()
    return took


async def fill(url: str, tasks: int, runs: int) -> None:
    """Open runs with five steps and their counters, and available tasks in the first hundred of them."""
    connection = await connect(url, statement_timeout="0")
    await connection.execute(
        f"""
        insert into run (name, workflow, definition) select 'r' || i, 'w', '{{}}' from generate_series(1, {runs}) i;
        insert into step (run_id, ordinal, name, kind, pool)
            select r.id, s, 's' || s, 'k' || s, 'p' || s from run r, generate_series(0, 4) s;
        insert into counter (run_id, step, name, n)
            select s.run_id, s.ordinal, counted, 100 from step s,
                unnest('{{available,running,completed,failed,empty}}'::text[]) counted;
        insert into task (run_id, step, kind, pool, priority)
            select 1 + i % 100, i % 5, 'k' || i % 5, 'p' || i % 5, -(i % 5) from generate_series(1, {tasks}) i;
        """
    )
    await connection.execute("vacuum analyze")
    await connection.close()


async def scrapes(url: str, n: int) -> list[float]:
    """Milliseconds of each of `n` scrapes, text and all."""
    connection = await connect(url)
    took = []
    for _ in range(n):
        began = time.perf_counter()
        await scrape.text(connection)
        took.append((time.perf_counter() - began) * 1e3)
    await connection.close()
    return took


async def measure(n: int, tasks: int, runs: int) -> str:
    figures = [("ours", ours()), ("prometheus_client, in memory", theirs(files=False)),
               ("prometheus_client, multiprocess files", theirs(files=True))]  # fmt: skip
    counted = table(
        ("", "increment, us", "observation, us"), [[name, f"{a:.2f}", f"{b:.2f}"] for name, (a, b) in figures]
    )
    rows = []
    async with bench() as server, server.database() as url:
        plain = await flushes(url, n)
        rows.append(["flush of 20 series", f"{percentile(plain, 0.5):.1f}", f"{percentile(plain, 0.99):.1f}"])
        other = await connect(url, idle_in_transaction_session_timeout="0")
        async with other.transaction(isolation="repeatable_read"):
            await other.fetchval("select count(*) from run")
            held = (await flushes(url, n))[-n // 10 :]
        rows.append(
            [
                f"the last tenth of {n:,} flushes under a snapshot",
                f"{percentile(held, 0.5):.1f}",
                f"{percentile(held, 0.99):.1f}",
            ]
        )
        await other.close()
        small = await scrapes(url, 30)
        rows.append(["scrape of a small database", *(f"{percentile(small, p):.0f}" for p in (0.5, 0.99))])
        await fill(url, tasks, runs)
        large = await scrapes(url, 30)
        rows.append([f"scrape with {runs:,} open runs and {tasks:,} available tasks",
                     *(f"{percentile(large, p):.0f}" for p in (0.5, 0.99))])  # fmt: skip
    return counted + "\n\n" + table(("", "p50, ms", "p99, ms"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.metrics", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    text = asyncio.run(measure(1_000, 20_000, 500) if options.quick else measure(5_000, 300_000, 5_000))
    print(text)
    if options.write:
        publish("metrics", text, f"python -m benchmarks.metrics{' --quick' if options.quick else ''}")


if __name__ == "__main__":
    main()
