"""What the soak does to workers and server: a server and worker processes of its own, and faults at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import asyncpg

from benchmarks.chaos_history import Line, Pen, Tail
from benchmarks.measure import Processes, descendants, line_of, tell, until
from gristmill.db import embedded
from gristmill.db.database import RECONNECT, REPEAT, open_pool, reconnecting
from gristmill.errors import DatabaseProblem

EVERY = {  # mean seconds between two faults of a kind
    "kill": 2.5, "stop": 5.0, "drain": 9.0, "server": 17.0, "cut": 1.7, "swallow": 3.1, "net": 8.0, "clock": 11.0,
}  # fmt: skip
IN_TASKS = ("die", "freeze", "block", "poison")  # faults that payloads ask for
KINDS = (*EVERY, *IN_TASKS)
SERVER_ENDS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "killed": signal.SIGKILL}
THAW = 0.3  # seconds from a worker's waking up to its beat's
QUIET = 25.0  # seconds without a claim after which a worker that could work has to say what it is doing
BACKENDS = "select pid from pg_stat_activity where datname = current_database() and application_name like 'gristmill:%'"
STEP_CLOCK = (
    "update worker set lease_until = lease_until - make_interval(secs => $1) where state in ('alive', 'draining')",
    """update task set run_at = run_at - make_interval(secs => $1), crashed_at = crashed_at - make_interval(secs => $1)
       where id in (select id from task where state in ('waiting', 'available') order by id for update)""",
    "update breaker set open_until = open_until - make_interval(secs => $1)",
)
CROWDED = """select lock_key as key, count(*) as holders, max(lock_slots) as slots from task
where state = 'running' and lock_key is not null group by lock_key having count(*) > max(lock_slots)"""


class OwnServer:
    """An embedded server with its normal durable settings, in a folder of the soak, so that kills hit nobody else."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.away_since: float | None = None

    async def open(self) -> None:
        self.server = await embedded.open_server(self.home)

    @property
    def socket(self) -> str:
        return self.server.url.partition("host=")[2].partition("&")[0].replace("%2F", "/") + "/.s.PGSQL.5432"

    def url(self, database: str) -> str:
        return self.server.url.replace("/gristmill?", f"/{database}?")

    async def end(self, how: str, pause: float) -> float:
        """Stops the postmaster, or kills one of its backends, and brings the server back; when it went, as seconds
        since 1970."""
        before, begin = self.server, time.time()
        self.away_since = begin
        if how == "backend":
            victims = [pid for pid in descendants(before.pid)[1:] if _is_backend(pid)]
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(victims[-1], signal.SIGKILL)
        else:
            os.kill(before.pid, SERVER_ENDS[how])
            await until(partial(_gone, before.pid), every=0.01)
            await asyncio.sleep(pause)
            async for _ in reconnecting(0.2, 2.0):
                with contextlib.suppress(DatabaseProblem):  # no process is left on this machine: it passes
                    await self.open()
                    break
            await embedded.close_server(before)
        await self._accepts()
        self.away_since = None
        return begin

    async def _accepts(self) -> None:
        async for _ in reconnecting(0.02, 0.2):
            try:
                connection = await asyncpg.connect(self.server.url, timeout=5)
            except (*RECONNECT, asyncpg.PostgresError):
                continue
            connection.terminate()  # a polite goodbye may find the next outage
            return


def _go_on(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGCONT)


async def _gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")  # noqa: ASYNC240 - that blocks nothing


def _is_backend(pid: int) -> bool:
    try:
        return "gristmill" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


@dataclass
class Place:
    """A place for one worker process after the other, and the network that it has."""

    url: str
    relay: Popen[str] | None = None
    namespace: str = ""
    process: Popen[str] | None = None
    thaw_at: float | None = None  # monotonic; it is frozen until then
    down: bool = False
    leaving: bool = False
    active: float = 0.0  # monotonic: its start, its last claim, or the end of what kept it from claiming

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Siege:
    """The workers, the server, and what is done to them. `faults` are names of `KINDS`."""

    folder: Path
    server: OwnServer
    faults: Sequence[str]
    seed: int
    workers: int
    order: dict[str, Any]  # settings and mutant of the workers
    pace: float = 1.0  # times the seconds of EVERY
    places: list[Place] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)
    raging: bool = True

    def __post_init__(self) -> None:
        self.history = self.folder / "history.jsonl"
        self.pen = Pen(self.history)
        self.tail = Tail(self.history)
        self.log = (self.folder / "workers.log").open("w")
        self.processes = Processes()
        self.random = random.Random(f"{self.seed} siege")
        self.claimed_since: dict[int, float] = {}

    @property
    def lease(self) -> float:
        return float(self.order["settings"]["lease"])

    async def open(self) -> None:
        self.pool = await open_pool(self.server.url("chaos"), size=4, name="soak")
        for number in range(self.workers):
            self.places.append(await self._place(with_relay=number % 2 == 0))
        self.tasks = [asyncio.create_task(self._keep())]
        self.tasks += [asyncio.create_task(self._rage(name, EVERY[name])) for name in self.faults if name in EVERY]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.processes.end()
        self.pool.terminate()
        self.log.close()

    async def ask(self, method: str, sql: str, *arguments: Any) -> Any:
        """One statement, sent again until the server answers."""
        async for _ in reconnecting(0.05, 0.3):
            with contextlib.suppress(*RECONNECT, *REPEAT):
                return await getattr(self.pool, method)(sql, *arguments, timeout=20)
        raise AssertionError

    async def calm(self) -> None:
        """All faults off: who is frozen goes on, every network is up, the server is there."""
        self.raging = False
        await asyncio.gather(*self.tasks[1:])
        for place in self.places:
            if place.thaw_at is not None:
                place.thaw_at = 0.0

    async def _place(self, *, with_relay: bool) -> Place:
        if not with_relay or not {"net", "cut", "swallow"} & set(self.faults):
            return Place(self.server.url("chaos"))
        for own in (["own"], []):
            arguments = ("-m", "benchmarks.chaos_relay", self.server.socket, *own)
            relay = self.processes.start(*arguments, log=self.log.fileno())
            try:
                port = await line_of(relay)
            except RuntimeError:
                reason = (
                    "not possible here: a network namespace needs root; a relay that forwards nothing stands for it"
                )
                if reason not in self.impossible:
                    self.impossible.append(reason)
                continue
            url = f"postgresql://gristmill@127.0.0.1:{port}/chaos?sslmode=disable"
            return Place(url, relay, f"/proc/{relay.pid}/ns/net" if own else "")
        raise RuntimeError("the relay does not start; see workers.log")

    async def _keep(self) -> None:
        """Starts workers again, lets frozen ones go on, reads what all of them write."""
        looked = 0.0
        while True:
            for line in self.tail.new():
                self._hear(line)
            for place in self.places:
                self._keep_up(place)
            if time.monotonic() - looked > 0.5:
                looked = time.monotonic()
                for row in await self.ask("fetch", CROWDED):
                    self.pen.write("crowded", **dict(row))
            await asyncio.sleep(0.03)

    def _hear(self, line: Line) -> None:
        place = next((place for place in self.places if place.process and place.pid == line["pid"]), None)
        if place is None:
            return
        if line["what"] == "freezes":
            seconds = self.lease + self.random.uniform(0.3, 3.0)
            place.thaw_at = time.monotonic() + seconds
            self.pen.write("fault", kind="freeze", victim=place.pid, hit_at=line["at"], seconds=seconds)
        if line["what"] == "claimed":
            place.active = time.monotonic()
            self.claimed_since[place.pid] = line["at"]

    def _keep_up(self, place: Place) -> None:
        now = time.monotonic()
        if place.process is not None and not place.alive:
            self.pen.write("exit", code=place.process.returncode)
            self.processes.end(place.process)
            place.process, place.thaw_at, place.leaving = None, None, False
        if place.process is None and self.server.away_since is None and not place.down:
            order = {
                **self.order,
                "url": place.url,
                "namespace": place.namespace,
                "history": str(self.history),
                "parent": os.getpid(),
            }
            place.process = self.processes.start(
                "-m", "benchmarks.chaos_worker", json.dumps(order), log=self.log.fileno()
            )
            place.active = now
        if place.thaw_at is not None and now > place.thaw_at:
            place.thaw_at, place.active = None, now
            # The worker first: its beat, which would tell it that it was buried, has no right to come in between.
            with contextlib.suppress(ProcessLookupError):
                os.kill(place.pid, signal.SIGCONT)
            asyncio.get_running_loop().call_later(THAW, _go_on, place.pid)
        if self.server.away_since is not None or place.down or place.thaw_at is not None or place.leaving:
            place.active = now
        elif self.raging and place.alive and now - place.active > QUIET:
            place.active = now
            self.pen.write("quiet", worker_pid=place.pid)
            for number in (signal.SIGUSR1, signal.SIGUSR2):  # its stacks go into workers.log
                os.kill(place.pid, number)

    async def _rage(self, name: str, every: float) -> None:
        mine = random.Random(f"{self.seed} {name}")
        fault: Callable[[random.Random], Awaitable[dict[str, Any] | None]] = getattr(self, f"_{name}")
        due = time.monotonic()
        while self.raging:
            due += every * self.pace * mine.uniform(0.5, 1.5)
            await self._until(due)
            if self.raging and self.server.away_since is None and (done := await fault(mine)) is not None:
                self.pen.write("fault", kind=name, **done)

    async def _until(self, end: float) -> None:
        while self.raging and time.monotonic() < end:  # noqa: ASYNC110 - two conditions
            await asyncio.sleep(0.05)

    def _victim(self, mine: random.Random, *, relayed: bool = False) -> Place | None:
        """A worker that nothing is being done to; None when only one of them is left."""
        free = [p for p in self.places if p.alive and p.thaw_at is None and not p.down and not p.leaving]
        fit = [place for place in free if place.relay is not None or not relayed]
        return mine.choice(fit) if fit and len(free) > 1 else None

    async def _kill(self, mine: random.Random) -> dict[str, Any] | None:
        if (place := self._victim(mine)) is None:
            return None
        at = time.time()
        os.kill(place.pid, signal.SIGKILL)
        return {"victim": place.pid, "hit_at": at}

    async def _stop(self, mine: random.Random) -> dict[str, Any] | None:
        if (place := self._victim(mine)) is None:
            return None
        seconds = mine.uniform(0.3, 2.0 * self.lease)
        at, place.thaw_at = time.time(), time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(place.pid, signal.SIGSTOP)
        return {"victim": place.pid, "seconds": seconds, "hit_at": at}

    async def _drain(self, mine: random.Random) -> dict[str, Any] | None:
        if (place := self._victim(mine)) is None:
            return None
        place.leaving = True
        os.kill(place.pid, signal.SIGTERM)
        return {"victim": place.pid}

    async def _server(self, mine: random.Random) -> dict[str, Any] | None:
        how = mine.choice([*SERVER_ENDS, "backend"])
        self.pen.write("outage", begin=await self.server.end(how, mine.uniform(0.0, 2.0)))
        return {"how": how}

    async def _cut(self, mine: random.Random) -> dict[str, Any] | None:
        """Resets all connections of a worker, or ends one of them at the server."""
        place = self._victim(mine, relayed=True) if mine.random() < 0.5 else None
        if place is not None and place.relay is not None:
            tell(place.relay, "cut")
            return {"victim": place.pid, "how": "reset"}
        with contextlib.suppress(*RECONNECT, IndexError, asyncpg.PostgresError):
            pid = mine.choice([row["pid"] for row in await self.pool.fetch(BACKENDS, timeout=5)])
            await self.pool.execute("select pg_terminate_backend($1)", pid, timeout=5)
            return {"how": "terminated"}
        return None

    async def _swallow(self, mine: random.Random) -> dict[str, Any] | None:
        place = self._victim(mine, relayed=True)
        if place is None or place.relay is None:
            return None
        tell(place.relay, "swallow")
        return {"victim": place.pid}

    async def _net(self, mine: random.Random) -> dict[str, Any] | None:
        place = self._victim(mine, relayed=True)
        if place is None or place.relay is None:
            return None
        seconds = mine.uniform(0.5, 2.0 * self.lease)
        self.pen.write("parted", victim=place.pid, seconds=seconds)
        place.down = True
        tell(place.relay, "down")
        end = time.monotonic() + seconds
        await self._until(end)
        tell(place.relay, "up")
        place.down = False
        return {"victim": place.pid if place.process else 0, "seconds": seconds}

    async def _clock(self, mine: random.Random) -> dict[str, Any] | None:
        """A step of the server's clock, seen from the rows: what is compared with the clock moves the other way."""
        seconds = mine.choice([mine.uniform(0.5, 3 * self.lease), 3600.0]) * mine.choice([1, -1])
        for sql in STEP_CLOCK:
            with contextlib.suppress(*RECONNECT, *REPEAT):
                await self.pool.execute(sql, seconds, timeout=10)
        if seconds < 0:  # nobody waits an hour for a back-off
            await self.ask("execute", "update task set run_at = clock_timestamp() where state = 'available' and "
                           "run_at > clock_timestamp() + interval '10 s'")  # fmt: skip
        return {"seconds": seconds}
