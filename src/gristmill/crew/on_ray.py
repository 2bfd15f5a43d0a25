"""Workers as long-lived actors on a Ray cluster that exists already. Nothing durable lives in Ray.

`keep` (in `gristmill up --on ray`) -> a driver process -> one actor for each worker -> `gristmill worker --supervised`

An actor that is lost with its node is started elsewhere by Ray; a driver that is lost with the head is started again
here, as often as it takes, and makes its actors anew. Workers end with their actors, since their standard input closes;
what they held is taken over by their leases, as everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gristmill.crew.launch import Crew
from gristmill.errors import UsageError

LOOK = 2.0  # seconds between two looks at the actors
LOST = 10  # looks without a single worker after which the driver gives up: its cluster is not there any more
AGAIN = (1.0, 2.0, 5.0, 10.0)  # seconds until a driver that ended is started again


@dataclass(frozen=True, slots=True)
class Wish:
    """`workers` actors with `cpus` each on the cluster at `address` ("auto": the one of this machine). `environment` is
    that of the workers: the database's URL, and the keys that they need."""

    workers: int
    address: str = "auto"
    cpus: float = 1.0
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 35.0


async def keep(wish: Wish, told: Callable[[str], None], stopping: asyncio.Event) -> None:
    """Keeps those workers alive until `stopping` is set; then they finish what is under way. Raises `UsageError` U396
    where Ray is not installed."""
    try:
        import ray  # noqa: F401 - an extra
    except ImportError as error:
        raise UsageError("Ray is not installed", code="U396", hint='pip install "gristmill[ray]"') from error
    failures = 0
    ends = asyncio.create_task(stopping.wait())
    while not stopping.is_set():
        driver = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gristmill.crew.on_ray", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert driver.stdin is not None  # noqa: S101 - it was asked for
        driver.stdin.write(json.dumps(asdict(wish)).encode() + b"\n")
        reading = asyncio.create_task(_listen(driver, told))
        await asyncio.wait([reading, ends], return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            driver.stdin.close()  # it hands the word on, and ends when all workers have
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(driver.wait(), wish.grace + 10)
        failures = 0 if await reading else failures + 1
        if driver.returncode is None:
            os.killpg(driver.pid, signal.SIGKILL)
            await driver.wait()
        if not stopping.is_set():
            delay = AGAIN[min(failures, len(AGAIN) - 1)]
            told(f"Ray is gone; trying again in {delay:.0f} s")
            await asyncio.wait([ends], timeout=delay)
    ends.cancel()


async def _listen(driver: asyncio.subprocess.Process, told: Callable[[str], None]) -> bool:
    """Hands on what the driver says, until it ends; whether it ever had its workers."""
    assert driver.stdout is not None  # noqa: S101 - it was asked for
    had = False
    async for line in driver.stdout:
        had = True
        told(line.decode(errors="replace").strip())
    return had


class Seat:
    """What runs in an actor: one worker process, started again here when it dies, and elsewhere when this is lost."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gristmill-seat-"))
        home = {"GRISTMILL_HOME": str(self._folder)}
        self._crew = Crew(arguments, 1, self._folder / "logs", environment={**home, **environment})

    async def look(self) -> tuple[str, int | None]:
        """The host, and the number of the worker's process there; starts it the first time."""
        if self._crew.places[0].watching is None:
            await self._crew.start()
        return os.uname().nodename, next(iter(self._crew.pids), None)

    async def stop(self, grace: float) -> None:
        await self._crew.stop(grace)


def main() -> None:
    """The driver: reads its wish from standard input, and stops everything when that closes."""
    wish = json.loads(sys.stdin.readline())
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is talk
    import ray

    ray.init(address=wish["address"], namespace="gristmill", log_to_driver=False)
    seat = ray.remote(num_cpus=wish["cpus"], max_restarts=-1, max_task_retries=0)(Seat)
    seats = [seat.remote(wish["arguments"], wish["environment"]) for _ in range(wish["workers"])]
    asyncio.run(_drive(ray, seats, wish, lambda line: print(line, file=out, flush=True)))


async def _drive(ray: Any, seats: list[Any], wish: Mapping[str, Any], say: Callable[[str], None]) -> None:
    closing = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    before, in_vain = "", 0
    while not closing.done():
        ready, _ = await asyncio.to_thread(
            ray.wait, [one.look.remote() for one in seats], num_returns=len(seats), timeout=LOOK * 2
        )
        found = []
        for reference in ready:
            with contextlib.suppress(ray.exceptions.RayError):
                found.append(ray.get(reference))
        hosts = ", ".join(sorted({host for host, _ in found}))
        now = f"{sum(pid is not None for _, pid in found)} of {len(seats)} workers run on Ray" + (
            f": {hosts}" if hosts else ""
        )
        if now != before:
            say(now)
            before = now
        in_vain = 0 if found else in_vain + 1
        if in_vain >= LOST:
            os._exit(1)  # a new driver asks the cluster that may be there by then
        await asyncio.wait([closing], timeout=LOOK)
    await asyncio.gather(*(_end(one, wish["grace"]) for one in seats))
    ray.shutdown()


async def _end(seat: Any, grace: float) -> None:
    with contextlib.suppress(Exception):  # it is lost: its worker has ended with it
        await asyncio.wait_for(asyncio.wrap_future(seat.stop.remote(grace).future()), grace + 5)


if __name__ == "__main__":
    main()
