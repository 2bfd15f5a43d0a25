"""Other engines, if they are installed somewhere: the driver's side of benchmarks/engine_peer_processes.py."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from benchmarks.measure import ROOT, Bench, cpu_seconds, line_of, middle, percentile, table, tell

NAMES = ("pgqueuer", "procrastinate")


@dataclass(frozen=True)
class Peer:
    """`worker` and `server` are CPU microseconds a job; `late` the seconds until single jobs began."""

    per_second: float
    worker: float
    server: float
    late: list[float]


async def measure(made: Bench, python: str, name: str, count: int, latencies: int) -> Peer | None:
    """One worker process with 100 jobs at once; None when that interpreter does not have it."""
    count = count // 1000 * 1000
    async with made.database("template0") as url:
        connection = await asyncpg.connect(url)
        script = str(ROOT / "benchmarks" / "engine_peer_processes.py")
        worker = made.processes.start(script, name, url, str(count), str(latencies), python=python)
        try:
            await line_of(worker)
        except RuntimeError:
            await connection.close()
            return None
        before = cpu_seconds([worker.pid]), made.server_cpu(without=connection)
        tell(worker, "go")
        seconds = float((await line_of(worker, 300)).split()[1])
        used, server = cpu_seconds([worker.pid]) - before[0], made.server_cpu(without=connection) - before[1]
        tell(worker, "go on")
        late = [float(word) for word in (await line_of(worker, 300)).split()[1:]]
        await connection.close()
    return Peer(count / seconds, used / count * 1e6, server / count * 1e6, late)


def report(found: dict[str, list[Peer]]) -> str:
    rows = []
    for name, peers in found.items():
        late = [one for peer in peers for one in peer.late]
        rows.append([
            name, f"{middle(p.per_second for p in peers):,.0f}", f"{middle(p.worker for p in peers):.0f}",
            f"{middle(p.server for p in peers):.0f}",
            f"{middle(late) * 1e3:.1f} / {percentile(late, 0.99) * 1e3:.1f} ms",
        ])  # fmt: skip
    head = ("peers, one process", "jobs/s", "CPU us a job, worker", "server", "pickup p50 / p99")
    return table(head, rows)
