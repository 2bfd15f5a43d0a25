"""A worker process whose tasks ask a model: `python -m tests.llm.asking_worker DATABASE BASE_URL SLOTS`.

Until it gets SIGTERM. Every answer becomes a row of the table `done`; a task that asks nothing new is answered by the
ledger. All calls count under the limit "test".
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg

from gristmill.db.database import open_pool
from gristmill.engine.queue import NewTask, Task
from gristmill.engine.retry import Policy
from gristmill.engine.worker import Outcome, Worker, WorkerSettings
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.quota import Quotas


class Asking:
    """Asks what the payload says."""

    kinds: Sequence[str] = ("bare",)
    isolates = False

    def __init__(self, model: LedgeredModel) -> None:
        self._model = model

    async def policy(self, task: Task) -> Policy:
        return Policy()

    async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
        answer = await self._model.complete(Request((Message("user", json.loads(task.payload)["ask"]),), task=task.id))
        return Outcome("ok", answer.text)

    async def save(
        self, connection: asyncpg.Connection[Any], finished: Sequence[tuple[Task, Outcome]]
    ) -> Sequence[NewTask]:
        await connection.executemany(
            "insert into done (task_id, fence, worker) values ($1, $2, 0)", [(t.id, t.fence) for t, _ in finished]
        )
        return []

    async def close(self) -> None:
        return None


async def main(database: str, base_url: str, slots: int) -> None:
    pool = await open_pool(database, size=6)
    nonce = uuid.uuid4()
    quotas, ledger = Quotas(pool, worker=nonce), Ledger(pool, worker=nonce)
    model = LedgeredModel(OpenAIModel("scripted", base_url=base_url, limit="test"), ledger, quotas=quotas)
    settings = WorkerSettings(pools={"*": slots}, beat=1.0, lease=5.0, poll=0.3)
    worker = Worker(database, Asking(model), settings, nonce)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run(pool)
    await model.close()
    await quotas.close()
    await ledger.close()
    await pool.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
