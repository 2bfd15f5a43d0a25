"""A person in a process of its own: `python -m tests.review.reviewing_process URL RUN NAME LEASE`.

Takes three pieces, prints their records, and accepts those whose numbers it reads, one a line.
"""

from __future__ import annotations

import asyncio
import sys

from gristmill.db.database import open_pool
from gristmill.review.decisions import decide
from gristmill.review.queues import Review
from tests.review.conftest import STEPS


async def review(url: str, run_id: int, name: str, lease: float) -> None:
    pool = await open_pool(url, size=2)
    pieces = await Review(pool, run_id, STEPS).claim(name, 3, lease=lease)
    print(*(piece.record_id for piece in pieces), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await decide(pool, int(line), "accept", name)
        print("decided", flush=True)


if __name__ == "__main__":
    asyncio.run(review(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
