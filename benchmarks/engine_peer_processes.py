"""One worker of another engine, for the interpreter that has it: `engine_peer_processes.py NAME URL COUNT LATENCIES`.

Says `ready` when COUNT jobs are enqueued; after a line it works them off and says `drained SECONDS`; after another line
it enqueues LATENCIES single jobs, one at a time, and says `late` with the seconds until each began. Imports nothing of
ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable


class Counted:
    """What both engines report to: how many jobs have begun, and when."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.begun = 0
        self.drained = asyncio.Event()
        self.single: asyncio.Future[float] | None = None

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.count:
            self.drained.set()
        if self.single is not None and not self.single.done():
            self.single.set_result(time.perf_counter())


async def drive(
    counted: Counted, work: Callable[[], Awaitable[None]], enqueue: Callable[[int], Awaitable[None]], latencies: int
) -> None:
    for _ in range(0, counted.count, 1000):
        await enqueue(1000)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.perf_counter()
    working = asyncio.ensure_future(work())
    await counted.drained.wait()
    await asyncio.sleep(1)  # completions are written a little later
    print("drained", time.perf_counter() - began - 1, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    late = []
    for number in range(latencies):
        await asyncio.sleep(0.05 + number % 7 / 10)
        counted.single = asyncio.get_running_loop().create_future()
        sent = time.perf_counter()
        await enqueue(1)
        late.append(await counted.single - sent)
    print("late", *late, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def pgqueuer(url: str, count: int, latencies: int) -> None:
    import asyncpg  # type: ignore[import-untyped,unused-ignore]
    from pgqueuer import PgQueuer, Queries  # type: ignore[import-not-found]

    counted = Counted(count)
    own, other = await asyncpg.connect(url), await asyncpg.connect(url)
    queries = Queries.from_asyncpg_connection(other)
    await queries.install()
    engine = PgQueuer.from_asyncpg_connection(own)

    @engine.entrypoint("nothing")  # type: ignore[untyped-decorator,unused-ignore]
    async def nothing(job: object) -> None:
        counted.begin()

    async def enqueue(number: int) -> None:
        await queries.enqueue(["nothing"] * number, [None] * number, [0] * number)

    await drive(counted, lambda: engine.run(batch_size=100), enqueue, latencies)


async def procrastinate(url: str, count: int, latencies: int) -> None:
    from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]

    counted = Counted(count)
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")  # type: ignore[untyped-decorator,unused-ignore]
    async def nothing() -> None:
        counted.begin()

    async def enqueue(number: int) -> None:
        await nothing.batch_defer_async(*({} for _ in range(number)))

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await drive(
            counted, lambda: app.run_worker_async(concurrency=100, install_signal_handlers=False), enqueue, latencies
        )


def main() -> None:
    name, url, count, latencies = sys.argv[1:]
    run = {"pgqueuer": pgqueuer, "procrastinate": procrastinate}[name]
    asyncio.run(run(url, int(count), int(latencies)))


if __name__ == "__main__":
    main()
