"""How long does a crew go on unattended? Runs follow each other, while everything around them is killed.

    python -m benchmarks.soak [--minutes 60] [--workers 4] [--every 20] [--seed 1] [--write]

`gristmill up` supervises workers over the embedded database of an empty folder; nobody helps them but what a service
manager does: a supervisor that ended is started again after a second. Every `--every` seconds one thing happens:
SIGKILL or SIGSTOP of a worker, SIGKILL of the supervisor, of both, of all connections, or of the database server, or a
step of the clock of supervisor and workers by up to an hour (where libfaketime is installed). Leases and delays are
those that everybody has. Meanwhile runs are started over fresh documents. At the end every run has to be completed,
with exactly as many rows as an undisturbed run over as many documents has; nobody is blacklisted; and the figures say
how long each hole was. Exit code 1 otherwise. A worker is struck only when it has run well for 30 s since its last
death and died less than 25 times within an hour: who dies more often is blacklisted on purpose. Every five minutes a
line on standard error says how far it is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import publish
from gristmill import App
from gristmill.config import load_settings
from gristmill.crew.places import Place, crews, places
from gristmill.db.database import RECONNECT
from gristmill.engine import processes
from gristmill.errors import GristmillError
from gristmill.run import Run

SETTINGS = """
shutdown = 5
crew_name = "soak"
[workers.mill]
count = {count}
pools = {{parse = 2, model = 8, "*" = 4}}
"""
DOCUMENTS = 12  # of a run
OPEN = 3  # runs at once
STRUCK = ("kill worker", "stop worker", "kill both")  # they need a worker that may die
FAULTS = (*STRUCK, "kill supervisor", "cut connections", "kill database", "step clock")
STEPS = (-3600, -60, -5, 5, 60, 3600)  # seconds that a clock is wrong by
LATEST = 600.0  # seconds that the last runs may take once no new one begins
CLOCK = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
AGAIN = (*RECONNECT, GristmillError)


class Soak:
    """One soak in an empty folder. `holes`: fault -> seconds until all workers worked again."""

    def __init__(self, folder: Path, workers: int, seed: int) -> None:
        self.folder = folder
        self.workers = workers
        self.random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.holes: dict[str, list[float]] = defaultdict(list)
        self.done: list[tuple[str, str, int]] = []
        self.supervisor: subprocess.Popen[bytes] | None = None
        self.begun = 0
        self.trouble: list[str] = []
        self.clock = folder / "clock"
        self.clock.write_text("+0")
        (folder / "gristmill.toml").write_text(SETTINGS.format(count=workers))

    def start_supervisor(self) -> None:
        """As a service manager would."""
        with (self.folder / "supervisor.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "gristmill", "up", "--no-api"], cwd=self.folder, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **self.wrong_clock()},
            )  # fmt: skip

    def wrong_clock(self) -> dict[str, str]:
        """Supervisor and workers go by the clock in a file; the database has the machine's."""
        if CLOCK is None:
            return {}
        told = {"LD_PRELOAD": str(CLOCK), "FAKETIME_TIMESTAMP_FILE": str(self.clock), "FAKETIME_CACHE_DURATION": "1"}
        return {**told, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    async def serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # no process left: tried again
                if self.supervisor is None or self.supervisor.poll() is not None:
                    await asyncio.sleep(1.0)
                    self.start_supervisor()
            await asyncio.sleep(0.1)

    async def works(self, app: App) -> list[Place]:
        """The places, when every one of them is a worker with a beat and the crew is supervised; else nothing."""
        found = [one for one in await places(app.pool, "soak") if one.worker_state == "alive" and not one.late]
        held = any(one.name == "soak" and one.held for one in await crews(app.pool))
        there = not any(gone(one) for one in found)
        return found if len(found) == self.workers and held and there else []

    async def until_all_work(self, app: App, limit: float = 180.0) -> list[Place]:
        async with asyncio.timeout(limit):
            while True:
                with contextlib.suppress(*AGAIN):
                    if found := await self.works(app):
                        return found
                    await asyncio.sleep(0.05)
                    continue
                with contextlib.suppress(*AGAIN):
                    await app.revive()
                await asyncio.sleep(0.05)

    async def strike(self, app: App, fault: str, victim: Place) -> None:
        if fault in ("kill worker", "kill both"):
            os.kill(victim.pid or 0, signal.SIGKILL)
        if fault in ("kill supervisor", "kill both") and self.supervisor is not None:
            self.supervisor.kill()
        if fault == "stop worker":
            os.killpg(victim.pid or 0, signal.SIGSTOP)
        if fault == "cut connections":
            sql = "select pg_terminate_backend(pid) from pg_stat_activity where datname is not null"
            await app.pool.execute(f"{sql} and pid <> pg_backend_pid()")
        if fault == "kill database":
            pid = int((app.settings.home / "postgres/data/postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        if fault == "step clock":
            following = self.clock.with_suffix(".new")
            following.write_text(f"{self.random.choice(STEPS):+d}")
            following.replace(self.clock)
            await asyncio.sleep(1.5)  # until everybody has read it
        await asyncio.sleep(0.3)  # until the kernel is done with it
        if fault == "stop worker":  # its lease has to run out first
            await until(lambda: gone(victim))

    def chosen(self, found: list[Place]) -> tuple[str, Place]:
        """What happens next, and to which worker."""
        mortal = [one for one in found if not one.restarts and one.deaths < 25]
        known = [one for one in FAULTS if (mortal or one not in STRUCK) and (CLOCK or one != "step clock")]
        return self.random.choice(known), self.random.choice(mortal or found)

    async def disturb(self, app: App, every: float) -> None:
        while True:
            await asyncio.sleep(every * self.random.uniform(0.5, 1.5))
            fault, began = "nothing", time.monotonic()
            try:
                fault, victim = self.chosen(await self.until_all_work(app))
                began = time.monotonic()
                await self.strike(app, fault, victim)
                await self.until_all_work(app)
            except TimeoutError:
                self.trouble.append(f"not all worked again {time.monotonic() - began:.0f} s after {fault}")
            except (OSError, ValueError, *AGAIN):
                continue  # whom it was meant for is gone already: another one
            else:
                self.faults[fault] += 1
                self.holes[fault].append(time.monotonic() - began)

    async def tell(self, every: float = 300.0) -> None:
        """One line now and then: a soak that is ended from outside leaves its figures all the same."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(every)
            minutes = (time.monotonic() - began) / 60
            faults = ", ".join(f"{fault} {number}" for fault, number in self.faults.items())
            wrong = sum(one[1:] != self.done[0][1:] for one in self.done)
            told = f"{minutes:.0f} minutes: {len(self.done)} runs, {wrong} wrong; {faults}; {self.trouble}"
            print(told, file=sys.stderr, flush=True)

    async def run_one(self, app: App) -> None:
        self.begun += 1
        name = f"documents-{self.begun:04}"
        folder = self.folder / name
        folder.mkdir()
        for number in range(DOCUMENTS):
            words = (f"Stone {self.begun} of mill {number} holds {line + 3} units of grain." for line in range(30))
            (folder / f"{number}.md").write_text(f"# Mill {number}\n\n" + "\n\n".join(words))
        run = await self.again(lambda: app.start("qa", [folder], model="extractive"), app)
        progress = await self.again(run.wait, app)
        rows = await self.again(lambda: count(run), app)
        self.done.append((name, progress.state, rows))

    async def again(self, ask: Any, app: App) -> Any:
        """Asks until it is answered: the database is killed now and then."""
        while True:
            try:
                return await ask()
            except AGAIN:
                await asyncio.sleep(0.2)
                with contextlib.suppress(*AGAIN):
                    await app.revive()

    async def load(self, app: App, until: float) -> None:
        running: set[asyncio.Task[None]] = set()
        while time.monotonic() < until or running:
            if time.monotonic() > until + LATEST:
                self.trouble.append(f"{len(running)} runs did not end")
                break
            while len(running) < OPEN and time.monotonic() < until:
                running.add(asyncio.create_task(self.run_one(app)))
            ended, running = await asyncio.wait(running, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2400):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise TimeoutError


def gone(victim: Place) -> bool:
    return processes.started(victim.pid or 0) != victim.pid_started


async def count(run: Run) -> int:
    return sum([1 async for _ in run.rows()])


@contextlib.asynccontextmanager
async def supervised(soak: Soak) -> AsyncIterator[App]:
    settings = load_settings(soak.folder, {"HOME": str(soak.folder)}, workers=0).values
    async with App(settings=settings) as app:
        serving = asyncio.create_task(soak.serve()), asyncio.create_task(soak.tell())
        try:
            yield app
        finally:
            for one in serving:
                one.cancel()
            down = [sys.executable, "-m", "gristmill", "down", "--now"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(subprocess.run, down, cwd=soak.folder, check=False, timeout=120)


async def main(minutes: float, workers: int, every: float, seed: int) -> list[str]:
    """The lines of the report; the last one says whether everything was right."""
    with tempfile.TemporaryDirectory(prefix="gristmill-soak-", ignore_cleanup_errors=True) as place:
        soak = Soak(Path(place), workers, seed)
        async with supervised(soak) as app:
            await soak.until_all_work(app)
            await soak.run_one(app)  # undisturbed: what all others are compared with
            disturbing = asyncio.create_task(soak.disturb(app, every))
            await soak.load(app, time.monotonic() + minutes * 60)
            disturbing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await disturbing
            with contextlib.suppress(TimeoutError):  # then the report says who does not work
                await soak.until_all_work(app)
            crew = await places(app.pool, "soak")
            sql = "select name, count(*) from every_event where name like 'crew.%' group by 1 order by 1"
            told = await app.pool.fetch(sql)
            broken = await app.pool.fetchval("select count(*) from task where state in ('failed', 'quarantined')")
    return report(soak, crew, {row["name"]: row["count"] for row in told}, broken, minutes)


def report(soak: Soak, crew: list[Place], told: dict[str, int], broken: int, minutes: float) -> list[str]:
    wrong = [one for one in soak.done if one[1:] != soak.done[0][1:]]
    lines = [
        f"{minutes:.0f} minutes, {soak.workers} workers, {sum(soak.faults.values())} faults,"
        f" {len(soak.done)} runs of {DOCUMENTS} documents", "",
        "| fault | times | all work again after: median, longest |", "|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {fault} | {len(holes)} | {median(holes):.1f} s, {max(holes):.1f} s |"
        for fault in FAULTS
        if (holes := soak.holes[fault])
    ]
    lines += ["", f"events: {', '.join(f'{name} {number}' for name, number in told.items())}"]
    blacklisted = [one.name for one in crew if one.blacklisted]
    good = not (wrong or blacklisted or broken or soak.trouble) and soak.done[0][1] == "completed"
    lines.append(f"runs unlike the undisturbed one: {len(wrong)}; pieces failed: {broken}; blacklisted: {blacklisted}")
    return [*lines, "everything was right" if good else f"WRONG: {wrong[:5]} {blacklisted} {soak.trouble}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    given = parser.parse_args()
    found = asyncio.run(main(given.minutes, given.workers, given.every, given.seed))
    print("\n".join(found))
    if given.write:
        publish("soak", "\n".join(found), f"python -m benchmarks.soak --minutes {given.minutes:g}")
    sys.exit(0 if found[-1] == "everything was right" else 1)
