"""W3: processes share a quota that the server enforces in a sliding window. How much do they use, who hears 429?

    python -m benchmarks.models_quota [--quick] [--write]

One, two and eight processes with 32 slots each ask as much as they may for 70 s; 600 requests a minute, calls of 0.2 s.
Each works as a worker does: who is sent away is claimed again when its time has come, and less is claimed of what is
sent away. Counted by the server, from the 20th answer on. `--quick`: 120 in a window of 12 s, for 15 s; there the
margin of half a second weighs five times as much, and 0.96 is all that there is.

Where nothing is limited a permit costs no round trip, only the CPU time in the last table.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import itertools
import json
import random
import sys
import time

from benchmarks.documents import ModelServer
from benchmarks.measure import Bench, bench, line_of, middle, publish, table, until
from gristmill.db.database import open_pool
from gristmill.engine.pacing import Pacing
from gristmill.errors import LimitReached
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Message, Request
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.quota import Quotas
from gristmill.llm.quota_limits import set_limit
from gristmill.llm.quota_settings import LimitSettings

SLOTS, LATENCY, POLL = 32, 0.2, 0.5


class Client:
    """One process: `name` makes its questions its own."""

    def __init__(self, model: LedgeredModel, name: str) -> None:
        self.model, self.name = model, name
        self.fresh = itertools.count()
        self.later: list[tuple[float, int]] = []
        self.pacing = Pacing(SLOTS)
        self.sent_away = self.answered = 0

    def _next(self) -> int | None:
        held_up = not self.pacing.open(["ask"])
        if held_up and not self.pacing.room():
            return None
        if self.later and self.later[0][0] <= time.monotonic():
            return heapq.heappop(self.later)[1]
        return next(self.fresh)

    async def slot(self, end: float) -> None:
        while time.monotonic() < end:
            number = self._next()
            if number is None:
                await asyncio.sleep(0.02)
                continue
            self.pacing.taken("ask")
            away = None
            try:
                await self.model.complete(Request((Message("user", f"{self.name} asks {number}"),)))
                self.answered += 1
            except LimitReached as error:
                away = error.delay
                self.sent_away += 1
                heapq.heappush(self.later, (time.monotonic() + away + random.random() * POLL, number))
            self.pacing.ended("ask", away)


async def client(url: str, base_url: str, name: str, seconds: float) -> None:
    """Prints how it went when its time is over."""
    pool = await open_pool(url, size=4)
    quotas, ledger = Quotas(pool), Ledger(pool)
    openai = OpenAIModel("m", base_url=base_url, limit="shared")
    one = Client(LedgeredModel(openai, ledger, quotas=quotas), name)
    await asyncio.gather(*(one.slot(time.monotonic() + seconds) for _ in range(SLOTS)))
    print(json.dumps({"answered": one.answered, "sent_away": one.sent_away, "late": quotas.late}))
    for opened in (one.model, quotas, ledger, pool):
        await opened.close()


async def share(
    made: Bench, model: ModelServer, processes: int, quota: int, window: float, seconds: float
) -> list[str]:
    """A row: share of the quota, answers 429, how often one was sent away per answer, permits that came too late."""
    async with made.database() as url:
        pool = await open_pool(url, size=1)
        await set_limit(pool, "shared", LimitSettings(requests_per_minute=quota), by="benchmark")
        await pool.execute("update quota set window_seconds = $1, request_tat = 0", window)
        await pool.close()
        await model.control(reset=True)
        await model.control(requests_per_minute=quota, window=window, latency=LATENCY)
        arguments = ("--client", url, model.base_url, str(seconds + 15))
        started = [made.processes.start("-m", "benchmarks.models_quota", *arguments, f"c{n}") for n in range(processes)]

        async def answered() -> int:
            return int((await model.stats())["answered"])

        async def begun() -> bool:
            return await answered() >= 20

        await until(begun)
        began, before = time.monotonic(), await answered()
        await asyncio.sleep(seconds)
        used = (await answered() - before) / ((time.monotonic() - began) * quota / window)
        told = [json.loads(await line_of(one, 120)) for one in started]
        refused = (await model.stats())["by_status"].get("429", 0)
    calls = max(1, sum(one["answered"] for one in told))
    away = sum(one["sent_away"] for one in told) / calls
    return [str(processes), f"{used:.3f}", str(refused), f"{away:.2f}", str(sum(one["late"] for one in told))]


async def price(made: Bench) -> list[str]:
    """CPU in us that a permit costs where nothing is limited: the middle of five rounds of 10,000."""
    found = []
    async with made.database() as url:
        pool = await open_pool(url, size=1)
        quotas = Quotas(pool)
        await quotas.take("nothing")
        for _ in range(5):
            began = time.process_time()
            for _ in range(10_000):
                (await quotas.take("nothing")).spent(0)
            found.append((time.process_time() - began) * 100)
        await quotas.close()
        await pool.close()
    return [f"{middle(found):.1f}"]


async def main(quick: bool, write: bool) -> None:
    quota, window, seconds = (120, 12.0, 15.0) if quick else (600, 60.0, 70.0)
    async with bench() as made, ModelServer.running(latency=LATENCY) as model:
        rows = [await share(made, model, number, quota, window, seconds) for number in (1, 2, 8)]
        cost = await price(made)
    text = table(["processes", "share of the quota", "answers 429", "sent away, per answer", "permits too late"], rows)
    text += "\n\n" + table(["a permit where nothing is limited, CPU us"], [cost])
    print(text)
    if write:
        publish("models_quota", text, "python -m benchmarks.models_quota" + (" --quick" if quick else ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        given = sys.argv[2:]
        asyncio.run(client(given[0], given[1], given[3], float(given[2])))
    else:
        parser = argparse.ArgumentParser(prog="python -m benchmarks.models_quota")
        parser.add_argument("--quick", action="store_true")
        parser.add_argument("--write", action="store_true")
        options = parser.parse_args()
        asyncio.run(main(options.quick, options.write))
