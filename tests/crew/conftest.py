"""A supervisor in this process over small real processes, which say in a file that they have begun."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.crew.places import CrewRow, Hold, Place, Wanted, crews, places, plan, take_crew
from gristmill.crew.supervisor import Orders, Supervisor
from gristmill.engine import processes

WORK = "import os, sys, time\nopen(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
SLEEP = WORK + "time.sleep(600)"
DIE = WORK + "print('the mill is broken', flush=True)\nsys.exit(7)"
STUBBORN = WORK + (
    "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, 1); time.sleep(600)'])\n"
    "open(sys.argv[1] + '.child', 'w').write(str(child.pid))\ntime.sleep(600)"
)


async def until(condition: Callable[[], Any], limit: float = 40.0) -> Any:
    """Waits for a condition, of a coroutine or not, and returns its value; fails after `limit` seconds."""
    async with asyncio.timeout(limit):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


class Mill:
    """A crew called "mill" and its supervisor. `program[spec]` is what its processes run."""

    def __init__(self, pool: asyncpg.Pool[Any], folder: Path) -> None:
        self.pool = pool
        self.folder = folder
        self.told: list[str] = []
        self.program: dict[str, str] = {}
        self.reason: dict[str, str] = {}
        self.grace = 5.0
        self.hold: Hold
        self.supervisor: Supervisor
        self.running: asyncio.Task[None]

    def orders(self) -> Orders:
        def command(place: Place) -> list[str]:
            return [sys.executable, "-S", "-c", self.program.get(place.spec, SLEEP), str(self.folder / place.name)]

        async def ready(place: Place) -> str | None:
            return self.reason.get(place.name)

        return Orders(command, lambda _: {}, ready, self.folder, self.grace)

    async def begin(self, *specs: str, most: int = 10, fresh: bool = True) -> None:
        """Takes the crew and supervises one place for each name: "parse-1" is of kind "parse"."""
        self.hold = await take_crew(self.pool, "mill", self.folder)
        await self.plan(*specs, most=most, fresh=fresh)
        self.supervise()

    def supervise(self) -> None:
        self.supervisor = Supervisor(self.pool, self.hold, self.orders(), self.told.append)
        self.running = asyncio.create_task(self.supervisor.run())

    async def plan(self, *specs: str, most: int = 10, fresh: bool = False, enabled: bool = True) -> None:
        parts = [(name, *name.rsplit("-", 1)) for name in specs]
        wanted = [Wanted(name, "worker", spec, int(number), {}, enabled) for name, spec, number in parts]
        await plan(self.pool, self.hold, wanted, most, fresh=fresh)

    async def place(self, name: str) -> Place:
        return next(place for place in await places(self.pool, "mill") if place.name == name)

    async def crew(self) -> CrewRow:
        return next(crew for crew in await crews(self.pool) if crew.name == "mill")

    async def stands(self, name: str, standing: str) -> Place:
        """Waits until a place stands so: "starting" is one whose process runs, but is no worker of the database."""

        async def looks() -> Place | None:
            place = await self.place(name)
            return place if place.standing == standing and (standing != "starting" or place.pid) else None

        found = await until(looks)
        assert isinstance(found, Place)
        return found

    def begun(self, name: str) -> list[int]:
        """Pids of the processes of a place that have begun their work."""
        file = self.folder / name
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    async def end(self) -> None:
        while not self.running.done():
            self.running.cancel()
            await asyncio.wait([self.running], timeout=1)
        for place in await places(self.pool, "mill"):
            if place.pid and processes.started(place.pid) == place.pid_started:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(place.pid, signal.SIGKILL)


@pytest.fixture
async def mill(pool: asyncpg.Pool[Any], tmp_path: Path) -> AsyncIterator[Mill]:
    made = Mill(pool, tmp_path)
    yield made
    await made.end()


PARTS = ("sieve", "stone", "wheel", "hopper", "shaft", "door", "roof", "cellar", "scale", "lamp", "ladder", "bell")


def make_documents(folder: Path, count: int) -> None:
    """So many small documents, each good for one row of the model "extractive"; at most twelve."""
    folder.mkdir()
    for number, part in enumerate(PARTS[:count]):
        text = f"A {part} is a part of the mill that holds {number + 3} {part} nails of brass.\n"
        (folder / f"{number}.md").write_text(text)
