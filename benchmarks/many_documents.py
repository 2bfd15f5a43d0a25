"""Many small documents in one run: does memory stay where it is, how fast is it, and how large is the database?

    python -m benchmarks.many_documents [--files 10000] [--latency 0.02] [--write]

`gristmill run` with workflow qa on a database of its own, against tests/model_server.py in its own process. Memory is
the PSS of the command and each worker, at each tenth of the calls. At the end every file must have rows, and the run
must be `completed`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks.documents import ModelServer, command_line, make_documents, project_environment
from benchmarks.measure import Bench, bench, cpu_seconds, descendants, line_of, memory_mib, publish, table

SIZES = """
select c.relname as name, pg_total_relation_size(c.oid) as bytes from pg_class c
where c.relkind = 'r' and c.relnamespace = 'gristmill'::regnamespace order by bytes desc limit 5"""


async def measure(files: int, latency: float) -> str:
    async with bench() as made, ModelServer.running(latency=latency) as model:
        folder = made.folder / "documents"
        await asyncio.to_thread(make_documents, folder, files=files, sections=1)
        async with made.database() as url:
            return await _run(made, model, url, files)


async def _run(made: Bench, model: ModelServer, url: str, files: int) -> str:
    process = made.processes.start(
        *command_line(made.folder / "documents", "--json"), cwd=made.folder,
        env=project_environment(model, GRISTMILL_DATABASE_URL=url),
    )  # fmt: skip
    database = await asyncpg.connect(url, server_settings={"search_path": "gristmill"})
    began, seen = time.perf_counter(), []
    waiting = asyncio.create_task(line_of(process, 6 * 3600))
    while not waiting.done():
        tree = await asyncio.to_thread(descendants, process.pid)
        calls = (await model.stats())["served"]
        seen.append((calls, memory_mib(tree[:1]), [memory_mib([pid]) for pid in tree[1:]], cpu_seconds(tree)))
        await asyncio.wait([waiting], timeout=1.0)
    seconds, document = time.perf_counter() - began, json.loads(await waiting)
    if document["state"] != "completed":
        raise RuntimeError(f"the run ended {document['state']}")
    rows = [await _figures(database, made, files, seconds, seen)]
    tables = [[row["name"], f"{row['bytes'] / 2**20:.0f}"] for row in await database.fetch(SIZES)]
    await database.close()
    head = ("files", "seconds", "files/s", "calls", "examples", "files without rows", "CPU ms a file, all processes",
            "database, MiB", "and blobs")  # fmt: skip
    largest = table(("largest tables", "MiB with their indexes"), tables)
    return "\n\n".join([table(head, rows), _memory(seen), largest])


async def _figures(
    database: asyncpg.Connection[Any], made: Bench, files: int, seconds: float, seen: Sequence[Any]
) -> list[str]:
    examples = await database.fetchval("select count(*) from record where kind = 'example'")
    with_rows = await database.fetchval(
        "select count(distinct r.item_id) from run_record r join record e on e.id = r.record_id and e.kind = 'example'"
    )
    size = await database.fetchval("select pg_database_size(current_database())")
    blobs = sum(file.stat().st_size for file in made.folder.glob(".gristmill/blobs/**/*") if file.is_file())
    return [
        f"{files:,}", f"{seconds:.0f}", f"{files / seconds:.1f}", f"{seen[-1][0]:,}", f"{examples:,}",
        str(files - with_rows), f"{max(one[3] for one in seen) / files * 1e3:.1f}", f"{size / 2**20:.0f}",
        f"{blobs / 2**20:.1f}",
    ]  # fmt: skip


def _memory(seen: Sequence[Any]) -> str:
    most = seen[-1][0]
    rows = []
    for tenth in (1, 3, 5, 7, 9, 10):
        calls, command, others, _ = next(one for one in seen if one[0] >= most * tenth / 10)
        rows.append([f"{calls:,}", f"{command:.0f}", f"{max(others, default=0):.0f}", f"{sum(others):.0f}"])
    return table(("calls so far", "command, MiB", "largest other process", "all others"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.many_documents", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds of a call")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    text = asyncio.run(measure(options.files, options.latency))
    print(text)
    if options.write:
        publish("many_documents", text, f"python -m benchmarks.many_documents --files {options.files}")


if __name__ == "__main__":
    main()
