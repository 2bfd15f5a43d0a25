"""The clients of benchmarks/models.py, each a process of its own. Imports nothing of ours for the bare ones.

Prints one line: seconds, CPU seconds, peak RSS in MiB, calls without an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

SYSTEM = "You write questions that a passage answers. Answer in JSON."
Call = Callable[[int], Awaitable[None]]


def question(number: int) -> str:
    sentences = " ".join(f"Component {number}-{line} holds {line} units of grain." for line in range(8))
    return f"Write 2 questions.\n<passage>\n{sentences}\n</passage>"


def request_body(number: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question(number)}]
    return {"model": "scripted", "messages": messages}


async def gather(call: Call, options: argparse.Namespace) -> None:
    """All calls, so many at a time; says what they took."""
    numbers = iter(range(options.count))
    lost = 0

    async def lane() -> None:
        nonlocal lost
        for number in numbers:
            try:
                await call(number)
            except Exception:  # whatever it is: a script has no answer then
                lost += 1

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(options.lanes)))
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, time.process_time() - cpu, peak, lost]), flush=True)


async def with_aiohttp(options: argparse.Namespace) -> None:
    import aiohttp  # type: ignore[import-not-found]

    connector = aiohttp.TCPConnector(limit=options.lanes)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def call(number: int) -> None:
            async with session.post(f"{options.base}/chat/completions", json=request_body(number)) as response:
                assert (await response.json())["choices"][0]["message"]["content"]

        await gather(call, options)


async def with_openai(options: argparse.Namespace) -> None:
    """As its documentation shows it, with the retries that it makes by itself."""
    import openai

    async with openai.AsyncOpenAI(base_url=options.base, api_key="none") as client:

        async def call(number: int) -> None:
            answer = await client.chat.completions.create(**request_body(number))
            assert answer.choices[0].message.content

        await gather(call, options)


async def with_pyreqwest(options: argparse.Namespace) -> None:
    from pyreqwest.client import ClientBuilder

    async with ClientBuilder().no_proxy().build() as client:

        async def call(number: int) -> None:
            request = client.post(f"{options.base}/chat/completions").body_json(request_body(number))
            response = await request.build().send()
            assert (await response.json())["choices"][0]["message"]["content"]

        await gather(call, options)


async def asked(options: argparse.Namespace) -> None:
    from pydantic import BaseModel

    from gristmill.db.database import open_pool
    from gristmill.llm.ledger import Ledger
    from gristmill.llm.ledgered import LedgeredModel
    from gristmill.llm.openai import OpenAIModel
    from gristmill.llm.structured import Asker

    class Pair(BaseModel):
        question: str
        answer: str
        quote: str

    pool = await open_pool(options.url, size=6)
    ledger = Ledger(pool, Path(options.spool), worker=uuid.uuid4())
    model = LedgeredModel(OpenAIModel("scripted", base_url=options.base, api_key="none"), ledger, owns_ledger=True)

    async def call(number: int) -> None:
        assert await Asker(model).generate(question(number), list[Pair])

    try:
        await gather(call, options)
    finally:
        await model.close()
        await pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.models_clients", description=__doc__)
    parser.add_argument("role", choices=("aiohttp", "openai", "pyreqwest", "asked"))
    parser.add_argument("--base", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--lanes", type=int, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--spool", required=True)
    options = parser.parse_args()
    run = {"aiohttp": with_aiohttp, "openai": with_openai, "pyreqwest": with_pyreqwest, "asked": asked}
    asyncio.run(run[options.role](options))


if __name__ == "__main__":
    main()
