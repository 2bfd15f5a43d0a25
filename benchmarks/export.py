"""Exports of a large run: rows a second, and that the memory of the process does not grow with the rows."""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import bench, publish, table
from gristmill.data.dataset import Steps, rows_of_run
from gristmill.data.exports import Options, export
from gristmill.db.database import connect, open_pool

STEPS = Steps(making=(3,), marking=(4,), scoring=(5,))

FORMATS = (
    ("jsonl", "rows.jsonl", Options()),
    ("messages", "rows.jsonl", Options(where="score >= 2", split={"train": 0.9, "test": 0.1})),
    ("parquet", "rows.parquet", Options()),
    ("huggingface", "folder", Options(split={"train": 0.9, "test": 0.1})),
)

# Documents, chunks, questions, examples, each with an evaluation; one example of a hundred is marked as a duplicate.
FILL = (
    "insert into record overriding system value select n, 'document', '', int8send(n), 0, "
    "json_build_object('text_blob', md5(n::text), 'characters', 9, 'media_type', 'text/plain', 'title', 'D' || "
    "n) from generate_series(1, $1::bigint / 1000) n",
    "insert into record overriding system value select 10000000 + n, 'chunk', '', int8send(10000000 + n), 0, "
    "json_build_object('text', repeat('word ' || n || ' ', 80)) from generate_series(0, $1::bigint / 10) n",
    "insert into record overriding system value select 20000000 + n, 'question', '', int8send(20000000 + n), "
    "0, json_build_object('text', 'What about ' || n || '?') from generate_series(1, $1::bigint) n",
    "insert into record overriding system value select 30000000 + n, 'example', '', int8send(30000000 + n), 0, "
    "json_build_object('question', 'What about ' || n || '?', 'answer', repeat('It is ' || n || '. ', 8)) from "
    "generate_series(1, $1::bigint) n",
    "insert into record overriding system value select 40000000 + n, 'evaluation', '', int8send(40000000 + n), "
    "0, json_build_object('rubric', 'r', 'overall', n % 5) from generate_series(1, $1::bigint) n",
    "insert into record overriding system value select 50000000 + n, 'duplicate', '', int8send(50000000 + n), "
    "0, '{}' from generate_series(1, $1::bigint / 100) n",
    "insert into lineage select 10000000 + n, 1 + n / 100, 0 from generate_series(0, $1::bigint / 10) n",
    "insert into lineage select 20000000 + n, 10000000 + n / 10, 0 from generate_series(1, $1::bigint) n",
    "insert into lineage select 30000000 + n, 20000000 + n, 0 from generate_series(1, $1::bigint) n",
    "insert into lineage select 40000000 + n, 30000000 + n, 0 from generate_series(1, $1::bigint) n",
    "insert into lineage select 50000000 + n, 30000000 + n * 100, 0 from generate_series(1, $1::bigint / 100) n",
    "insert into run_record select 1, 3, 30000000 + n, 0, null, array[n] from generate_series(1, $1::bigint) n",
    "insert into run_record select 1, 4, 50000000 + n, 0, null, '{}' from generate_series(1, $1::bigint / 100) n",
    "insert into run_record select 1, 5, 40000000 + n, 0, null, array[n] from generate_series(1, $1::bigint) n",
)


async def fill(url: str, rows: int) -> None:
    connection = await connect(url)
    await connection.execute("set statement_timeout = 0")
    await connection.execute("set synchronous_commit = off")
    for statement in FILL:
        await connection.execute(statement, rows, timeout=3600)
    await connection.execute("analyze", timeout=3600)
    await connection.close()


async def child(url: str, number: int, folder: Path) -> None:
    """One export, in a process that has done nothing else."""
    format, name, options = FORMATS[number]
    pool = await open_pool(url, size=2)
    started, used = time.perf_counter(), time.process_time()
    manifest = await export(rows_of_run(pool, 1, "bench", STEPS), folder / name, format, options)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": manifest.rows, "bytes": manifest.bytes, "seconds": seconds, "cpu": used, "peak": peak}))
    await pool.close()


async def measure(sizes: tuple[int, ...], formats: tuple[tuple[str, str, Options], ...] = FORMATS) -> str:
    found = []
    for size in sizes:
        async with bench() as server, server.database() as url:
            await fill(url, size)
            for asked in formats:
                format, _, options = asked
                with tempfile.TemporaryDirectory() as folder:
                    process = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "benchmarks.export", "--child", url, str(FORMATS.index(asked)), folder,
                        stdout=asyncio.subprocess.PIPE,
                    )  # fmt: skip
                    said = json.loads((await process.communicate())[0])
                chosen = ", a filter and two splits" if options.where else ", two splits" if options.split else ""
                found.append([
                    f"{format}{chosen}", f"{said['rows']:,} of {size:,}", f"{said['bytes'] / 1e6:,.0f}",
                    f"{said['rows'] / said['seconds']:,.0f}", f"{said['cpu'] / said['rows'] * 1e6:.0f}",
                    f"{said['peak']:.0f}",
                ])  # fmt: skip
                print(found[-1], file=sys.stderr, flush=True)
    head = ("export", "rows", "MB", "rows a second", "CPU us a row", "peak memory, MiB")
    return table(head, found)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.export", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="about a minute")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(child(options.child[0], int(options.child[1]), Path(options.child[2])))
        return
    text = asyncio.run(measure((20_000, 60_000) if options.quick else (100_000, 1_000_000)))
    print(text)
    if options.write:
        publish("export", text, f"python -m benchmarks.export{' --quick' if options.quick else ''}")


if __name__ == "__main__":
    main()
