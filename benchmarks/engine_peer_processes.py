"""Another engine, for the interpreter that has it. Imports nothing of ours.

engine_peer_processes.py NAME enqueue URL SINGLE BULK   makes its tables, enqueues SINGLE jobs one a commit, then BULK
                                                        in batches of 1,000; says `enqueued ONE_A_SECOND BULK_A_SECOND`
engine_peer_processes.py NAME work URL                  a worker with 100 jobs at once: says `ready`, works after a
                                                        line, says `begun N WHEN` (monotonic) as jobs begin; after the
                                                        line `late N` it enqueues N single jobs, one after the other,
                                                        and says `late` with the seconds until each began
engine_peer_processes.py NAME hold URL                  the same worker, whose jobs do not end; after the line `add N`
                                                        it enqueues N of them
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

AT_ONCE = 100


class Begun:
    """What every engine reports to: how many jobs have begun, and when."""

    def __init__(self, lasts: float = 0.0) -> None:
        self.lasts = lasts  # seconds that a job takes
        self.count = 0
        self.last = 0.0
        self.single: asyncio.Future[float] | None = None

    async def job(self) -> None:
        self.count += 1
        self.last = time.monotonic()
        if self.single is not None and not self.single.done():
            self.single.set_result(self.last)
        if self.lasts:
            await asyncio.sleep(self.lasts)


@dataclass
class Peer:
    """`enqueue(n)` adds n jobs in one go; `work()` runs a worker until it is cancelled."""

    enqueue: Callable[[int], Awaitable[None]]
    work: Callable[[], Awaitable[Any]]


@asynccontextmanager
async def pgqueuer(url: str, begun: Begun, install: bool) -> AsyncIterator[Peer]:
    import asyncpg  # type: ignore[import-untyped,unused-ignore]
    from pgqueuer import PgQueuer, Queries  # type: ignore[import-not-found]

    own, other = await asyncpg.connect(url), await asyncpg.connect(url)
    queries = Queries.from_asyncpg_connection(other)
    if install:
        await queries.install()
    engine = PgQueuer.from_asyncpg_connection(own)

    @engine.entrypoint("nothing")  # type: ignore[untyped-decorator,unused-ignore]
    async def nothing(job: object) -> None:
        await begun.job()

    async def enqueue(number: int) -> None:
        await queries.enqueue(["nothing"] * number, [None] * number, [0] * number)

    yield Peer(enqueue, lambda: engine.run(batch_size=AT_ONCE))


@asynccontextmanager
async def procrastinate(url: str, begun: Begun, install: bool) -> AsyncIterator[Peer]:
    from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]

    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")  # type: ignore[untyped-decorator,unused-ignore]
    async def nothing() -> None:
        await begun.job()

    async def enqueue(number: int) -> None:
        if number == 1:
            await nothing.defer_async()
        else:
            await nothing.batch_defer_async(*({} for _ in range(number)))

    async with app.open_async():
        if install:
            await app.schema_manager.apply_schema_async()
        yield Peer(enqueue, lambda: app.run_worker_async(concurrency=AT_ONCE, install_signal_handlers=False))


@asynccontextmanager
async def oban(url: str, begun: Begun, install: bool) -> AsyncIterator[Peer]:
    from oban import Oban, worker  # type: ignore[import-not-found]
    from oban.schema import install as make_tables  # type: ignore[import-not-found]

    @worker(queue="default")  # type: ignore[untyped-decorator,unused-ignore]
    class Nothing:
        async def process(self, job: object) -> None:
            await begun.job()

    pool = await Oban.create_pool(url)
    if install:
        await make_tables(pool)
    engine = Oban(pool=pool, queues={"default": AT_ONCE})

    async def enqueue(number: int) -> None:
        if number == 1:
            await engine.enqueue(Nothing.new({}))
        else:
            await engine.enqueue_many([Nothing.new({}) for _ in range(number)])

    async def work() -> None:
        async with engine:
            await asyncio.Event().wait()

    yield Peer(enqueue, work)
    await pool.close()


@asynccontextmanager
async def dbos(url: str, begun: Begun, install: bool) -> AsyncIterator[Peer]:
    from dbos import DBOS  # type: ignore[import-not-found]

    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    @DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
    async def nothing() -> None:
        await begun.job()

    async def start() -> None:
        DBOS.launch()
        await DBOS.register_queue_async("nothing", worker_concurrency=AT_ONCE)

    async def enqueue(number: int) -> None:
        for _ in range(number):
            await DBOS.enqueue_workflow_async("nothing", nothing)

    async def work() -> None:
        if not install:
            await start()
        await asyncio.Event().wait()

    if install:
        DBOS.listen_queues([])
        await start()
    yield Peer(enqueue, work)


PEERS = {"pgqueuer": pgqueuer, "procrastinate": procrastinate, "oban": oban, "dbos": dbos}


async def enqueue(name: str, url: str, single: str, bulk: str) -> None:
    async with PEERS[name](url, Begun(), True) as peer:
        rates = []
        for count, batch in ((int(single), 1), (int(bulk), 1000)):
            began = time.perf_counter()
            for _ in range(0, count, batch):
                await peer.enqueue(min(batch, count))
            rates.append(count / (time.perf_counter() - began))
        print("enqueued", *rates, flush=True)


async def tell_begun(begun: Begun) -> None:
    told = 0
    while True:
        if begun.count > told:
            told = begun.count
            print("begun", told, begun.last, flush=True)
        await asyncio.sleep(0.05)


async def work(name: str, url: str) -> None:
    begun = Begun()
    async with PEERS[name](url, begun, False) as peer:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        working, telling = asyncio.ensure_future(peer.work()), asyncio.ensure_future(tell_begun(begun))
        number = int((await asyncio.to_thread(sys.stdin.readline)).split()[1])
        telling.cancel()
        late = []
        for each in range(number):
            await asyncio.sleep(0.05 + each % 7 / 10)
            begun.single = asyncio.get_running_loop().create_future()
            sent = time.monotonic()
            await peer.enqueue(1)
            late.append(await begun.single - sent)
        print("late", *late, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


async def hold(name: str, url: str) -> None:
    begun = Begun(lasts=3600.0)
    async with PEERS[name](url, begun, False) as peer:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        both = asyncio.gather(peer.work(), tell_begun(begun))
        while (line := await asyncio.to_thread(sys.stdin.readline)).startswith("add"):
            await peer.enqueue(int(line.split()[1]))
        both.cancel()


def main() -> None:
    name, mode, *arguments = sys.argv[1:]
    if mode == "enqueue":
        asyncio.run(enqueue(name, *arguments))
    else:
        asyncio.run((work if mode == "work" else hold)(name, *arguments))


if __name__ == "__main__":
    main()
