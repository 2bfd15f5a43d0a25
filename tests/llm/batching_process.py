"""One process that sends a batch: `python -m tests.llm.batching_process DATABASE BASE_URL PROVIDER`.

It begins when it reads a line, asks one question and stays until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid

from gristmill.db.database import open_pool
from gristmill.errors import Busy
from gristmill.llm.batch_jobs import Gathering
from gristmill.llm.batched import BatchedModel
from gristmill.llm.ledger import Ledger
from gristmill.llm.model import Message, Request
from gristmill.llm.providers import protocol_class


async def main(database: str, base_url: str, provider: str) -> None:
    pool = await open_pool(database, size=4)
    ledger = Ledger(pool, worker=uuid.uuid4())
    remote = protocol_class(provider)("scripted", provider=provider, base_url=base_url)
    model = BatchedModel(remote, ledger, gathering=Gathering(wait=0.0, beat=0.02, lease=1.0, settle=0.0))
    await asyncio.to_thread(sys.stdin.readline)
    with contextlib.suppress(Busy):
        await model.complete(Request((Message("user", "hello"),)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
