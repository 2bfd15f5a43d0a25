"""Other engines, if they are installed somewhere: the driver's side of benchmarks/engine_peer_processes.py."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from benchmarks.measure import (
    ROOT,
    Bench,
    cpu_seconds,
    descendants,
    line_of,
    memory_mib,
    middle,
    percentile,
    table,
    tell,
    until,
)  # fmt: skip

SLOWER = {"pgqueuer": 1, "oban": 2, "procrastinate": 6, "dbos": 6}  # so they get so many times fewer jobs
NAMES = tuple(SLOWER)
HELD, PATIENCE = 8, 200.0  # jobs under way when a worker is killed; seconds until we no longer wait for them
SCRIPT = str(ROOT / "benchmarks" / "engine_peer_processes.py")


@dataclass(frozen=True)
class Peer:
    """`worker` and `server` are CPU microseconds a job with one worker; rates are jobs a second; `late` seconds until
    single jobs began; `first` seconds from the start of the process to its first job; `memory` MiB, idle."""

    one: float
    two: float
    worker: float
    server: float
    single: float
    bulk: float
    late: list[float]
    first: float
    memory: float


async def measure(made: Bench, python: str, name: str, count: int, single: int, latencies: int) -> Peer | None:
    """None when that interpreter does not have it, or it does not work there."""
    count //= SLOWER[name]
    try:
        rates = await _enqueue(made, python, name, single, count)
        one, worker, server, late, memory = await _drain(made, python, name, count, 1, latencies)
        two = (await _drain(made, python, name, count, 2, 0))[0]
        return Peer(one, two, worker, server, *rates, late, await _first(made, python, name), memory)
    except (RuntimeError, TimeoutError) as error:
        print(f"{name}: {error or type(error).__name__}")
        return None


async def _fill(made: Bench, python: str, name: str, url: str, single: int, count: int) -> tuple[float, float]:
    process = made.processes.start(SCRIPT, name, "enqueue", url, str(single), str(count), python=python)
    _, one, bulk = (await line_of(process, 300)).split()
    made.processes.end(process)
    return float(one), float(bulk)


async def _enqueue(made: Bench, python: str, name: str, single: int, count: int) -> tuple[float, float]:
    async with made.database("template0") as url:
        return await _fill(made, python, name, url, single, count)


async def _start(made: Bench, python: str, name: str, url: str, mode: str = "work") -> subprocess.Popen[str]:
    process = made.processes.start(SCRIPT, name, mode, url, python=python)
    await line_of(process)
    return process


async def _all_begun(workers: Sequence[subprocess.Popen[str]], count: int) -> float:
    """The moment (monotonic) at which the last job began."""
    begun: dict[int, int] = {}
    last = 0.0

    async def listen(worker: subprocess.Popen[str]) -> None:
        nonlocal last
        while sum(begun.values()) < count:
            _, number, when = (await line_of(worker, 600)).split()
            begun[worker.pid], last = int(number), max(last, float(when))

    listening = [asyncio.create_task(listen(worker)) for worker in workers]
    done, pending = await asyncio.wait(listening, timeout=600, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if not done:
        raise TimeoutError("not drained in 600 s")
    for task in done:
        task.result()
    return last


async def _drain(
    made: Bench, python: str, name: str, count: int, processes: int, latencies: int
) -> tuple[float, float, float, list[float], float]:
    async with made.database("template0") as url:
        await _fill(made, python, name, url, 0, count)
        connection = await asyncpg.connect(url)
        workers = [await _start(made, python, name, url) for _ in range(processes)]
        tree = [pid for worker in workers for pid in descendants(worker.pid)]
        before = cpu_seconds(tree), made.server_cpu(without=connection)
        began = time.monotonic()
        for worker in workers:
            tell(worker, "go")
        took = await _all_begun(workers, count) - began
        await asyncio.sleep(1)  # completions are written a little later
        used, server = cpu_seconds(tree) - before[0], made.server_cpu(without=connection) - before[1]
        late, memory = [], memory_mib(descendants(workers[0].pid))
        if latencies:
            tell(workers[0], f"late {latencies}")
            while (words := (await line_of(workers[0], 300)).split())[0] != "late":
                pass
            late = [float(word) for word in words[1:]]
        made.processes.end()
        await connection.close()
    return count / took, used / count * 1e6, server / count * 1e6, late, memory


async def _first(made: Bench, python: str, name: str) -> float:
    async with made.database("template0") as url:
        await _fill(made, python, name, url, 1, 0)
        began = time.monotonic()
        worker = await _start(made, python, name, url)
        tell(worker, "go")
        last = await _all_begun([worker], 1)
        made.processes.end()
    return last - began


async def recoveries(made: Bench, python: str, names: Iterable[str]) -> dict[str, float | None]:
    """Seconds from SIGKILL of one of two live workers, with the peer's defaults, until all its jobs have begun again.
    None: not within `PATIENCE`. All peers at once, each in its own database: nearly all of it is waiting."""

    async def recovery(name: str, url: str) -> float | None:
        workers = [await _start(made, python, name, url, "hold") for _ in range(2)]
        for worker in workers:
            tell(worker, "go")
        await asyncio.sleep(5)
        tell(workers[0], f"add {HELD}")
        return await begun_again(made, workers, HELD, PATIENCE)

    async with contextlib.AsyncExitStack() as databases:
        urls = {name: await databases.enter_async_context(made.database("template0")) for name in names}
        for name, url in urls.items():
            await _fill(made, python, name, url, 0, 0)
        found = await asyncio.gather(*(recovery(name, url) for name, url in urls.items()))
    return dict(zip(urls, found, strict=True))


async def begun_again(
    made: Bench, workers: Sequence[subprocess.Popen[str]], count: int, patience: float
) -> float | None:
    """Waits until `count` jobs run, kills the worker that has most of them, and waits for the others to begin those.

    Workers say `begun N WHEN`: so many so far, the latest at that moment (monotonic). Seconds, or None.
    """
    begun = dict.fromkeys(workers, 0)
    when = dict.fromkeys(workers, 0.0)

    async def listen(worker: subprocess.Popen[str]) -> None:
        with contextlib.suppress(RuntimeError, TimeoutError):
            while True:
                _, number, moment = (await line_of(worker, patience + 60)).split()
                begun[worker], when[worker] = int(number), float(moment)

    async def all_begun() -> bool:
        return sum(begun.values()) >= count

    listening = [asyncio.create_task(listen(worker)) for worker in workers]
    await until(all_begun, 60)
    victim = max(workers, key=lambda worker: begun[worker])
    killed, count = time.monotonic(), count + begun[victim]
    made.processes.end(victim)
    try:
        await until(all_begun, patience)
        return max(when[worker] for worker in workers if worker is not victim) - killed
    except TimeoutError:
        return None
    finally:
        made.processes.end(*(worker for worker in workers if worker is not victim))
        await asyncio.gather(*listening)


def said(seconds: float | None) -> str:
    """A recovery in words."""
    return f"not within {PATIENCE:.0f} s" if seconds is None else f"{seconds:.1f} s"


def report(
    found: dict[str, list[Peer]], limits: Sequence[tuple[float, float]], again: Mapping[str, float | None]
) -> str:
    """`limits`: jobs a second of the limit with one and two workers, of the same rounds. `again`: see `recoveries`."""
    rows = []
    for name, peers in found.items():
        late = [one for peer in peers for one in peer.late]
        shares = [(p.one / limit[0], p.two / limit[1]) for p, limit in zip(peers, limits, strict=False)]
        rows.append([
            name, f"{middle(p.one for p in peers):,.0f} / {middle(p.two for p in peers):,.0f}",
            f"{middle(s[0] for s in shares):.2f} / {middle(s[1] for s in shares):.2f}",
            f"{middle(p.worker for p in peers):.0f} + {middle(p.server for p in peers):.0f}",
            f"{middle(p.single for p in peers):,.0f} / {middle(p.bulk for p in peers):,.0f}",
            f"{middle(late) * 1e3:.1f} / {percentile(late, 0.99) * 1e3:.1f} ms",
            f"{middle(p.first for p in peers):.2f} s", f"{middle(p.memory for p in peers):.0f} MiB",
            said(again.get(name)),
        ])  # fmt: skip
    head = ("peers", "jobs/s, 1 / 2 processes", "of the limit", "CPU us a job, worker + server",
            "enqueued/s one / bulk", "pickup p50 / p99", "start to first job", "memory (PSS)",
            "SIGKILL to its jobs begun again by another")  # fmt: skip
    return table(head, rows)
