"""Your own functions as durable tasks: python own_functions.py

Kill it while it works and start it again: what was enqueued is finished, and nothing twice.
"""

from __future__ import annotations

import asyncio
import zlib

from gristmill.engine import Engine, TaskContext

engine = Engine()  # GRISTMILL_DATABASE_URL, or else a database of its own in ./.gristmill


@engine.task("fetch", pool="web", attempts=3, timeout=30, retry={"ConnectionError": "snooze", "backoff": 2})
async def fetch(page: int, context: TaskContext) -> int:
    """Pretends to fetch a page; what follows from it is enqueued with its result, or not at all."""
    await asyncio.sleep(0.05)
    context.enqueue(measure, page=page, text=f"page {page} " * 100)
    return page


@engine.task("measure", process=True)
def measure(page: int, text: str) -> dict[str, int]:
    """Keeps a core busy, so it has a process of its own."""
    return {"page": page, "checksum": zlib.crc32(text.encode())}


async def main() -> None:
    async with engine, engine.working({"web": 8, "*": 2}):
        async with engine.batch("pages") as pages:
            pages.enqueue_many(fetch, [{"page": number} for number in range(20)])
        progress = await pages.wait()
        print(f"{progress.state}: {progress.counts['completed']} tasks")


if __name__ == "__main__":
    asyncio.run(main())
