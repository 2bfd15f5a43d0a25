"""Chaos: does the engine keep its promises while everything around it breaks?

    python -m benchmarks.chaos [--minutes 10] [--workers 6] [--seed 1] [--faults kill,stop,...] [--mutant token]
                               [--json FILE] [--write]
    python -m benchmarks.chaos --judge FOLDER

Worker processes of the bare engine work on a server of their own, and both are killed, frozen, cut off and restarted.
Every actor writes down what it does (chaos_history.py); at the end all faults go off, everything has to finish, every
worker has to answer a roll call, and a checker judges the history (chaos_checker.py). Exit code 0 when every promise
held, 1 when one was broken. `--mutant` takes one check out of the SQL of the workers: then a broken promise is what
has to be found, the run stops at the first, and the exit codes change places. `--judge` makes the report of a soak
again from its folder, which stays when a promise was broken or the soak itself failed.

Faults: kill (SIGKILL), stop (SIGSTOP of worker and beat, up to two leases), drain (SIGTERM), server (fast, immediate,
SIGKILL, SIGKILL of a backend), cut (connections reset or terminated), swallow (replies lost), net (the worker's network
namespace loses its interface), clock (a step of the server's clock), and in the tasks themselves: die (SIGKILL after
the claim, before, inside and after the settling transaction), freeze (right before the terminal write, until the lease
is over), block (event loop and GIL held), poison (segfault, endless loop, memory, NUL bytes, 50 MB).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.chaos_checker import Violation, check
from benchmarks.chaos_faults import KINDS, OwnServer, Siege
from benchmarks.chaos_history import RESULT_TABLE, read
from benchmarks.chaos_report import Report, report
from benchmarks.chaos_work import LARGE
from benchmarks.chaos_worker import MUTANTS
from benchmarks.measure import publish, until
from gristmill.db import embedded
from gristmill.db.database import RECONNECT, REPEAT, connect, reconnecting, transaction
from gristmill.db.migrate import migrate
from gristmill.engine import feed, queue, workflow
from gristmill.engine.queue import NewTask
from gristmill.engine.workflow import NewRun, Step
from gristmill.errors import UsageError

SETTINGS = {
    "pools": {"*": 4}, "lease": 4.0, "beat": 1.0, "stall_after": 2.0, "probe": 0.15, "confirm": 0.3, "poll": 0.3,
    "shutdown": 2.0, "suspect_slots": 4, "settle_batch": 20,
}  # fmt: skip
BACKLOG = 3  # tasks open for each slot; more would keep what is rescued from being claimed at once
PER_RUN = 25
LIMIT = 120.0  # seconds after the last fault by which everything has to be over
ROLL_CALL = 30.0  # seconds in which every worker has to claim something, at the very end
OPEN = "select count(*) from task where state in ('waiting', 'available', 'running')"
TOLD = """select (select count(*) from event where name = 'run.end') as told,
    exists (select 1 from event_inbox where name = 'run.end') as waiting"""
RUNS_OPEN = "select count(*) from run where state in ('waiting', 'running', 'paused')"


@dataclass(frozen=True)
class Plan:
    """What is asked for. `minutes` is the time with faults; `pace` is the time between faults, times the usual."""

    minutes: float = 10.0
    workers: int = 6
    seed: int = 1
    faults: tuple[str, ...] = KINDS
    mutant: str = ""
    pace: float = 1.0

    def __post_init__(self) -> None:
        unknown = set(self.faults) - set(KINDS)
        if unknown or (self.mutant and self.mutant not in MUTANTS) or self.workers < 2 or not 0 < self.minutes <= 1440:
            raise UsageError(
                f"no such soak: {self}", hint=f"faults: {','.join(KINDS)}; mutants: {','.join(MUTANTS)}; from 2 workers"
            )


class Feeder:
    """Enqueues runs of tasks, the same for a seed, so that a few are always open; writes down what was answered."""

    def __init__(self, siege: Siege, plan: Plan) -> None:
        self.siege = siege
        self.plan = plan
        self.number = 0

    async def feed(self) -> None:
        most = self.plan.workers * 4 * BACKLOG
        while self.siege.raging:
            if await self.siege.ask("fetchval", OPEN) > most:
                await asyncio.sleep(0.05)
                continue
            await self.add([self._task(random.Random(f"{self.plan.seed} {self.number} {n}")) for n in range(PER_RUN)])

    async def add(self, wishes: list[dict[str, Any]]) -> None:
        """One run of these tasks, made once however often the reply is lost."""
        self.number += 1
        key = hashlib.sha256(f"run {self.number}".encode()).digest()
        async for _ in reconnecting(0.05, 0.5):
            try:
                async with asyncio.timeout(20), transaction(self.siege.pool) as connection:
                    new = NewRun(f"soak-{self.number}", "soak", (Step("one", "chaos"),), {}, key=key, detail=0)
                    run_id, _ = await workflow.find_or_create(connection, new)
                    ids = await queue.enqueue(connection, [self._new(run_id, n, w) for n, w in enumerate(wishes)])
                    await connection.execute(workflow.SQL["seal"], run_id, "[]")
            except (*RECONNECT, *REPEAT):
                continue
            self.siege.pen.write("enqueued", run=run_id, tasks=ids)
            return

    def _new(self, run_id: int, number: int, wish: dict[str, Any]) -> NewTask:
        lock = wish.get("lock")
        poison = bool(wish.get("poison"))
        return NewTask(
            run_id, "chaos_poison" if poison else "chaos", payload=json.dumps(wish), max_attempts=2 if poison else 50,
            timeout=2.0 if poison else None, key=hashlib.sha256(f"task {number}".encode()).digest(),
            lock=lock, lock_slots=1 + int(lock[-1]) % 2 if lock else 1,
        )  # fmt: skip

    def _task(self, mine: random.Random) -> dict[str, Any]:
        wish: dict[str, Any] = {"do": "sleep", "seconds": round(mine.uniform(0.005, 0.05), 3)}
        roll, rare = mine.random(), mine.random() * self.plan.pace
        if roll < 0.05:
            wish["seconds"] = round(mine.uniform(1.0, 3.0), 3)  # longer than it takes to notice a death
        elif roll < 0.15:
            wish |= {"lock": f"lock-{mine.randrange(4)}", "seconds": round(mine.uniform(0.02, 0.3), 3)}
        elif roll < 0.20:
            wish["do"] = mine.choice(["flaky", "busy"])
        if rare < 0.001:
            wish["do"] = "huge"
        elif rare < 0.003 and "block" in self.plan.faults:
            wish |= {"do": "block", "hold": round(mine.uniform(0.5, 4.0), 3)}
        elif rare < 0.006 and "poison" in self.plan.faults:
            return {"do": mine.choice(["segfault", "loop", "memory", "nul", "large"]), "poison": True}
        elif rare < 0.014 and "die" in self.plan.faults:
            wish["die"] = mine.choice(["claim", "before", "during", "after"])
        elif rare < 0.018 and "freeze" in self.plan.faults:
            wish |= {"freeze": True, "again": round(mine.uniform(2.0, 5.0), 3)}
        if mine.random() < 0.2:
            wish["children"] = mine.randint(1, 2)
        return wish


async def listen(siege: Siege) -> None:
    """Writes down every end of a run that it hears of."""
    async for event in feed.events(siege.pool, 0, names=("run.end",)):
        body = dict(event.body)
        siege.pen.write("heard", seq=event.seq, run=event.run_id, state=body["state"], epoch=body["epoch"])


async def prepare(server: OwnServer) -> None:
    """The database with the schema of the product and the table of results; bad bodies must be refused."""
    await server.open()
    control = await asyncpg.connect(server.server.url)
    await control.execute("create database chaos")
    await control.close()
    connection = await connect(server.url("chaos"))
    await migrate(connection)
    await connection.execute(RESULT_TABLE)
    for body in (json.dumps("x" * LARGE), json.dumps("\0")):
        try:
            await queue.enqueue(connection, [NewTask(1, "chaos", payload=body)])
        except UsageError:
            continue
        raise AssertionError("a payload of 50 MB, or with a NUL byte, was taken")
    await connection.close()


async def soak(plan: Plan, folder: Path) -> Report:
    """One soak from beginning to end in an empty folder; the server is stopped, the files stay. Never raises for a
    broken promise: those are in the report."""
    server = OwnServer(folder / "home")
    await prepare(server)
    order = {"settings": SETTINGS, "mutant": plan.mutant}
    siege = Siege(folder, server, plan.faults, plan.seed, plan.workers, order, plan.pace)
    try:
        await siege.open()
        feeder = Feeder(siege, plan)
        hearing = asyncio.create_task(listen(siege))
        feeding = asyncio.create_task(feeder.feed())
        siege.pen.write("soak", seed=plan.seed, minutes=plan.minutes, faults=plan.faults)
        caught = await _rage(siege, plan)
        if not caught:
            await _finish(siege, feeder, feeding)
        feeding.cancel()
        hearing.cancel()
        siege.pen.write("impossible", reasons=siege.impossible)
        made = await _judged(siege.history, siege.pool)
    finally:
        await siege.close()
        await embedded.close_server(server.server)
        await embedded.stop_server(server.home)
    return made


async def judge(folder: Path) -> Report:
    """The report of a soak that is over, from its folder: the server is started for it, and stopped."""
    if not (folder / "history.jsonl").is_file():
        raise UsageError(f"no soak in {folder}", hint="give the folder that a soak named at its end, or --keep")
    server = OwnServer(folder / "home")
    await server.open()
    try:
        async with asyncpg.create_pool(server.url("chaos"), min_size=1, max_size=1) as pool:
            return await _judged(folder / "history.jsonl", pool)
    finally:
        await embedded.close_server(server.server)
        await embedded.stop_server(server.home)


async def _judged(path: Path, pool: asyncpg.Pool[Any]) -> Report:
    history = await read(path, pool)
    notes = [reason for line in history.of("impossible") for reason in line["reasons"]]
    if "clock" in history.of("soak")[0]["faults"]:
        notes.append(CLOCK_NOTE)
    return report(history, check(history, over=bool(history.of("calm"))), notes=notes)


CLOCK_NOTE = "Clock steps are emulated: what is compared with the server's clock is moved by as much the other way."


async def _rage(siege: Siege, plan: Plan) -> bool:
    """The time with faults. With a mutant it is over at the first broken promise; returns whether there was one."""
    end = time.monotonic() + plan.minutes * 60
    while time.monotonic() < end:
        await asyncio.sleep(max(0.0, min(2.0, end - time.monotonic())))
        with contextlib.suppress(*RECONNECT, *REPEAT):
            if plan.mutant and check(await read(siege.history, siege.pool), over=False):
                return True
    return False


async def _finish(siege: Siege, feeder: Feeder, feeding: asyncio.Task[None]) -> None:
    """All faults off, until everything is over. Then every worker has to answer."""
    siege.pen.write("calm")
    await siege.calm()
    await feeding
    over = await _everything_over(siege)
    siege.pen.write("over")
    if over:
        await _roll_call(siege, feeder)
        await _everything_over(siege)
    await _heard_of_all(siege)


async def _everything_over(siege: Siege) -> bool:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        await siege.ask("execute", "delete from breaker")  # kinds that rest because of the poisons
        if not await siege.ask("fetchval", OPEN) and not await siege.ask("fetchval", RUNS_OPEN):
            return True
        await asyncio.sleep(0.1)
    return False


async def _roll_call(siege: Siege, feeder: Feeder) -> None:
    """Every worker process claims something, as long as there is something; who does not is reported as silent."""
    began, end = time.time(), time.monotonic() + ROLL_CALL
    while time.monotonic() < end:
        missing = [p for p in siege.places if siege.claimed_since.get(p.pid if p.process else 0, 0.0) < began]
        if not missing:
            return
        if await siege.ask("fetchval", OPEN) < 4 * len(siege.places):
            await feeder.add([{"do": "sleep", "seconds": 0.2}] * (4 * len(siege.places)))
        await asyncio.sleep(0.1)
    for place in missing:
        siege.pen.write("silent", worker_pid=place.pid if place.process else 0, seconds=ROLL_CALL)


async def _heard_of_all(siege: Siege) -> None:
    """The listener is a moment behind; what it has not heard by then was never told."""

    async def heard() -> bool:
        row = await siege.ask("fetchrow", TOLD)
        return not row["waiting"] and siege.history.read_bytes().count(b'"what": "heard"') >= row["told"]

    with contextlib.suppress(TimeoutError):
        await until(heard, limit=10, every=0.2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="time with faults (10)")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(KINDS), help="some of: %(default)s")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS], help="take a check out of the SQL")
    parser.add_argument("--pace", type=float, default=1.0, help="time between faults, times the usual")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures, for programs")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep history and logs in this new folder")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="only make the report of a soak that is over")
    options = parser.parse_args()
    plan = Plan(options.minutes, options.workers, options.seed, tuple(options.faults.split(",")), options.mutant,
                options.pace)  # fmt: skip
    folder = options.judge or options.keep or Path(tempfile.mkdtemp(prefix="gristmill-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("asyncpg").setLevel(logging.ERROR)  # that connections break is no news here
    made = asyncio.run(judge(folder) if options.judge else soak(plan, folder))
    print(made.text())
    if options.json:
        options.json.write_text(json.dumps(made.as_json(), indent=1) + "\n")
    if options.write:
        publish("chaos", made.text(), f"python -m benchmarks.chaos --minutes {made.minutes:g} --seed {made.seed}")
    broken = bool(made.violations)
    if broken and not plan.mutant:
        print(f"history, logs and database are kept in {folder}", file=sys.stderr)
    elif folder not in (options.keep, options.judge):
        shutil.rmtree(folder, ignore_errors=True)
    raise SystemExit(broken != bool(plan.mutant))


__all__ = ["Plan", "Report", "Violation", "judge", "soak"]

if __name__ == "__main__":
    main()
