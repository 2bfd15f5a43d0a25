"""One conversation in a process of its own: `python -m tests.talking_process DATABASE BASE_URL`. It prints it."""

from __future__ import annotations

import asyncio
import sys

from gristmill.data.kinds import Chunk, Conversation, Question
from gristmill.db.database import open_pool
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.openai import OpenAIModel
from gristmill.operators import conversation
from gristmill.testing import perform

CHUNK = Chunk(text="A mill has two stones of granite. The lower one lies still. The upper one turns.")


async def talk(database: str, base_url: str) -> Conversation:
    pool = await open_pool(database, size=3)
    ledger = Ledger(pool, lease=1.0)  # seconds that a killed process's call in flight holds the next one up
    model = LedgeredModel(OpenAIModel("scripted", base_url=base_url), ledger)
    try:
        (made,) = await perform(conversation, Question(text="How many stones are there?"), CHUNK, model=model)
    finally:
        await model.close()
        await ledger.close()
        await pool.close()
    assert isinstance(made, Conversation)
    return made


if __name__ == "__main__":
    print(asyncio.run(talk(*sys.argv[1:])).model_dump_json())
