"""Other engines, if they are installed somewhere: the driver's side. They run in benchmarks/engine_peer_processes.py."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.measure import Bench, table

NAMES = ("pgqueuer", "procrastinate")


@dataclass(frozen=True)
class Peer:
    per_second: float
    worker: float
    server: float
    late: tuple[float, ...]


async def measure(made: Bench, python: str, name: str, count: int, latencies: int) -> Peer | None:
    return None


def report(found: dict[str, list[Peer]]) -> str:
    return table(("peer",), [])
