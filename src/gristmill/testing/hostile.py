"""Worker processes that are killed, stopped and starved while your own functions and operators run in them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.db.database import open_pool
from gristmill.db.statements import statements

SQL = statements("testing")
LEASE = 3.0  # seconds; of the workers of a hostile run, so that a stopped one is over soon
MOST_SHOWN = 10
MOST_HITS = 3  # attempts of a task that are interrupted from outside; then it is left in peace


@dataclass(frozen=True, slots=True)
class Faults:
    """What is done to the workers. Shares are of tasks (0 to 1), times are seconds; one `seed` hits the same tasks.

    `kill_after`: the process is killed (SIGKILL) when the function has returned and its result is not recorded yet: the
    worst moment there is. `kill_every`, `stop_every`: about that often a worker that has work is killed, or stopped
    (SIGSTOP) until its lease is over, and let go again. `starve`: before the function begins, event loop and GIL are
    held for `starve_for`; more than 2 s, and the beat process takes the worker for dead and kills it.
    """

    kill_after: float = 0.3
    kill_every: float | None = None
    stop_every: float | None = None
    starve: float = 0.0
    starve_for: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TaskStory:
    """One task. `begun` counts the times it was begun; `outcomes` how those ended that came to an end on record."""

    id: int
    kind: str
    arguments: Mapping[str, Any]
    state: str
    begun: int
    outcomes: tuple[str, ...]
    message: str | None = None

    def __str__(self) -> str:
        text = (
            f"task {self.id} ({self.kind} {json.dumps(self.arguments)[:200]}): {self.state}, begun {self.begun} times"
        )
        return f"{text}: {', '.join(self.outcomes)}" if self.outcomes else text


@dataclass(frozen=True, slots=True)
class HostileReport:
    """What happened. `killed`, `stopped` and `started` count processes."""

    tasks: tuple[TaskStory, ...]
    killed: int
    stopped: int
    started: int
    seconds: float

    @property
    def repeated(self) -> tuple[TaskStory, ...]:
        """Tasks whose function was begun more than once: what it does to the world it has done more than once."""
        return tuple(task for task in self.tasks if task.begun > 1)

    def assert_once(self, effects: Iterable[Hashable]) -> None:
        """Fails when anything is in `effects` (lines of a file, rows, sent letters) more than once.

        A task is recorded once, but its function may be begun again after a death. What it does outside has to bear
        that: look first, or use `TaskContext.idempotency_key`.
        """
        twice = [(effect, times) for effect, times in Counter(effects).items() if times > 1]
        if not twice:
            return
        lines = [f"  {effect!r:.200} happened {times} times" for effect, times in twice[:MOST_SHOWN]]
        stories = [f"  {story}" for story in self.repeated[:MOST_SHOWN]]
        raise AssertionError(
            "\n".join(
                [
                    f"{len(twice)} effects happened more than once:",
                    *lines,
                    "these functions were begun again:",
                    *stories,
                ]
            )
        )


class HostileWorkers:
    """Runs worker processes on a database and treats them badly. The fixture `hostile_workers` makes one."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    async def run(
        self, target: str, faults: Faults = Faults(), *, workers: int = 2, limit: float = 90.0,
        pools: Mapping[str, int] | None = None, home: Path | None = None,
    ) -> HostileReport:  # fmt: skip
        """Performs all open tasks of the database while `workers` processes are killed, stopped and starved.

        `target` is "module:engine", where `engine` is an `Engine` with registered functions; or "module", whose
        operators are run as the workers of an `App` would (`home` is its folder). `pools` is slots of each worker.

        Raises `AssertionError` when a task failed, was recorded twice or not within `limit` seconds, and also when no
        worker was hurt: such a test proves nothing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        async with _Siege(self, target, faults, pools, home) as siege:
            return await siege.run(workers, limit)


@dataclass
class _Siege:
    """One run: the processes, and what was done to them."""

    place: HostileWorkers
    target: str
    faults: Faults
    pools: Mapping[str, int] | None
    home: Path | None
    live: list[subprocess.Popen[bytes]] = field(default_factory=list)
    frozen: dict[int, float] = field(default_factory=dict)
    killed: int = 0
    stopped: int = 0
    started: int = 0

    async def __aenter__(self) -> _Siege:
        self.random = random.Random(self.faults.seed)
        self.log = self.place.folder / "hostile-workers.log"
        self.pool = await open_pool(self.place.url, size=2)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.live:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        await self.pool.close()

    async def run(self, workers: int, limit: float) -> HostileReport:
        since = await self.pool.fetchval(SQL["clock"])
        before = time.monotonic()
        kill_at, stop_at = self._next(self.faults.kill_every), self._next(self.faults.stop_every)
        while await self._prepare():
            self._keep_up(workers)
            if time.monotonic() >= kill_at and await self._hit(signal.SIGKILL):
                kill_at = self._next(self.faults.kill_every)
            if time.monotonic() >= stop_at and await self._hit(signal.SIGSTOP):
                stop_at = self._next(self.faults.stop_every)
            await self._thaw()
            if time.monotonic() - before > limit:
                raise AssertionError(await self._late(since, limit))
            await asyncio.sleep(0.05)
        while self.frozen:  # what they still bring has to be refused
            await self._thaw()
            await asyncio.sleep(0.05)
        report = HostileReport(
            await self._stories(since), self.killed, self.stopped, self.started, time.monotonic() - before
        )
        self._judge(report)
        return report

    async def _prepare(self) -> bool:
        """Whether there still is work; deaths that we cause must not count against the tasks and their operators."""
        await self.pool.execute(SQL["endure"])
        await self.pool.execute(SQL["no_rest"])
        return bool(await self.pool.fetchval(SQL["open_soon"]))

    def _keep_up(self, workers: int) -> None:
        for process in list(self.live):
            if process.poll() is not None:
                self.live.remove(process)
                self.frozen.pop(process.pid, None)
                self.killed += process.returncode == -signal.SIGKILL
        for _ in range(workers - len(self.live)):
            self._start()

    def _start(self) -> None:
        order = {
            "target": self.target, "url": self.place.url, "faults": asdict(self.faults), "pools": self.pools,
            "home": str(self.home) if self.home else None, "path": sys.path, "lease": LEASE,
        }  # fmt: skip
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "gristmill.testing.hostile_worker", json.dumps(order)],
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.live.append(process)
        self.started += 1

    async def _hit(self, number: signal.Signals) -> bool:
        """Hits a worker that has work; of those that are stopped, one is always left to go on."""
        busy = {row["pid"] for row in await self.pool.fetch(SQL["busy_workers"], MOST_HITS)}
        victims = [process for process in self.live if process.pid in busy and process.pid not in self.frozen]
        if not victims or (number == signal.SIGSTOP and len(self.live) - len(self.frozen) < 2):
            return False
        victim = self.random.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGSTOP:
                os.killpg(victim.pid, number)  # its beat too: otherwise that would end what does not answer it
                self.frozen[victim.pid] = time.monotonic()
                self.stopped += 1
            else:
                victim.kill()
        return True

    async def _thaw(self) -> None:
        for pid, since in list(self.frozen.items()):
            over = await self.pool.fetchval(SQL["worker_is_over"], pid)
            if over or time.monotonic() - since > 3 * LEASE:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGCONT)
                del self.frozen[pid]

    def _next(self, every: float | None) -> float:
        return time.monotonic() + every * self.random.uniform(0.5, 1.5) if every else float("inf")

    async def _stories(self, since: datetime) -> tuple[TaskStory, ...]:
        rows: list[asyncpg.Record] = await self.pool.fetch(SQL["stories"], since)
        return tuple(
            TaskStory(row["id"], row["kind"], json.loads(row["payload"]), row["state"], row["begun"],
                      tuple(row["outcomes"]), row["message"])
            for row in rows
        )  # fmt: skip

    def _judge(self, report: HostileReport) -> None:
        problems = [story for story in report.tasks if story.state in ("failed", "quarantined")]
        if problems:
            raise AssertionError(f"{len(problems)} tasks failed:\n{_lines(problems)}\n{self._said()}")
        twice = [s for s in report.tasks if s.state == "completed" and s.outcomes.count("completed") != 1]
        if twice:
            raise AssertionError(f"{len(twice)} tasks were not recorded exactly once:\n{_lines(twice)}")
        if not report.tasks:
            raise AssertionError("there was no task to perform: enqueue some before hostile_workers.run")
        if not (report.killed or report.stopped or self.faults.starve):
            raise AssertionError(
                "no worker was hurt, so nothing is proved: use more or longer tasks, or a larger kill_after"
            )

    async def _late(self, since: datetime, limit: float) -> str:
        still = [story for story in await self._stories(since) if story.state in ("waiting", "available", "running")]
        return f"not done after {limit:.0f} s; {len(still)} tasks are open:\n{_lines(still)}\n{self._said()}"

    def _said(self) -> str:
        return f"the workers said:\n{self.log.read_text('utf-8', 'replace')[-3000:]}"


def _lines(stories: Iterable[TaskStory]) -> str:
    return "\n".join(f"  {story}; {story.message or ''}" for story in list(stories)[:MOST_SHOWN])
