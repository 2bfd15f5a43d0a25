"""Starts worker processes on this machine, starts them again when they die, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gristmill.crew.verdict import DELAYS, GOOD
from gristmill.engine.heart import BURIED

log = logging.getLogger("gristmill.crew")


@dataclass
class Place:
    """One place in the crew and the process that fills it."""

    number: int
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    started: float = 0.0
    given_up: bool = False
    watching: asyncio.Task[None] | None = field(default=None, repr=False)


class Crew:
    """`count` worker processes. They stop when this process ends, whichever way it ends."""

    def __init__(
        self, arguments: Sequence[str], count: int, logs: Path, on_event: Callable[[str], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.environment = {**os.environ, **(environment or {})}
        self.arguments = tuple(arguments)
        self.places = [Place(number) for number in range(count)]
        self.logs = logs
        self.on_event = on_event
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        return [p.process.pid for p in self.places if p.process is not None and p.process.returncode is None]

    @property
    def lost(self) -> bool:
        """Whether every place was given up."""
        return bool(self.places) and all(place.given_up for place in self.places)

    async def start(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        for place in self.places:
            await self._fill(place)
            place.watching = asyncio.create_task(self._watch(place))

    async def stop(self, grace: float = 35.0) -> None:
        """SIGTERM, `grace` seconds to drain, then SIGKILL to the whole process group."""
        self._stopping = True
        self.signal(signal.SIGTERM)
        watching = [place.watching for place in self.places if place.watching is not None]
        if watching:
            _, late = await asyncio.wait(watching, timeout=grace)
            if late:
                await self.kill()
                await asyncio.wait(late, timeout=5)

    async def kill(self) -> None:
        """At once: leases are given back by the rescue of whoever comes next."""
        self._stopping = True
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(pid, number)
                else:
                    os.kill(pid, number)

    async def _fill(self, place: Place) -> None:
        file = self.logs / f"worker-{place.number + 1}.log"
        with file.open("ab") as output:
            # The pipe on standard input is the crew's promise: when its end closes, the worker drains and stops.
            place.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gristmill", "worker", "--supervised", *self.arguments,
                stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
                env={**self.environment, "GRISTMILL_LOG_FILE": str(file)},
            )  # fmt: skip
        place.started = time.monotonic()

    async def _watch(self, place: Place) -> None:
        while place.process is not None:
            code = await place.process.wait()
            if self._stopping:
                return
            if code == 0:  # `gristmill workers stop`, or a signal of somebody else
                place.given_up = True
                self.on_event(f"worker {place.number + 1} was told to stop, and is not started again")
                return
            if time.monotonic() - place.started > GOOD:
                place.restarts = 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            buried = code == BURIED  # for no fault of its own
            if place.restarts >= len(DELAYS) and not buried:
                place.given_up = True
                self.on_event(f"worker {place.number + 1} died ({how}) too often; see {self.logs}")
                return
            self.on_event(f"worker {place.number + 1} died ({how}); its tasks are handed on and it is started again")
            await asyncio.sleep(DELAYS[1] if buried else DELAYS[place.restarts])
            place.restarts += not buried
            if self._stopping:
                return
            try:
                await self._fill(place)
            except OSError as error:  # no process, file or memory left
                place.given_up = True
                self.on_event(f"worker {place.number + 1} cannot be started again: {error}")
                return
