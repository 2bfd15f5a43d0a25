"""The supervisor of a crew: fills its places with processes, notices every end at once, and starts again.

It decides nothing from memory: every step is a guarded statement on rows (`places.py`), so that a supervisor may be
killed between any two of them, and the next one goes on. What it keeps in memory are processes it watches and timers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from gristmill.crew import log_files
from gristmill.crew.places import API, SQL, TRANSITIONS, Hold, Place, call_up, places
from gristmill.crew.process import CrewProcess, adopt, spawn
from gristmill.crew.verdict import GOOD, End, after_end
from gristmill.db.database import RECONNECT, REPEAT
from gristmill.engine import processes, queue
from gristmill.engine.heart import BURIED
from gristmill.errors import DatabaseProblem, EnvironmentProblem

log = logging.getLogger("gristmill.crew")
TURN = 0.5  # seconds between two looks at the rows; an end of a process is looked at at once
BEAT = 3.0  # seconds between two renewals of the crew's lease
JOIN = 60.0  # seconds that a process may take until its worker is in the database
LATE = 5.0  # seconds that a beat may be missing behind its lease, seen over an unbroken connection


class Fenced(EnvironmentProblem):
    """Another supervisor has taken the crew over."""

    code = "E125"


@dataclass
class Watched:
    """What a supervisor remembers of a place's process. Times of `time.monotonic`."""

    process: CrewProcess
    nonce: uuid.UUID
    killed: str = ""  # why we killed it
    late_since: float | None = None
    stop_sent: float | None = None
    ending: str = ""  # how it was last told to end


@dataclass(frozen=True)
class Orders:
    """How processes of places are started. `command` and `environment` of a place; `ready` says why a place may
    not start, or None; `grace`: seconds from SIGTERM to SIGKILL."""

    command: Callable[[Place], Sequence[str]]
    environment: Callable[[Place], Mapping[str, str]]
    ready: Callable[[Place], Awaitable[str | None]]
    logs: Path
    grace: float = 35.0


@dataclass
class Supervisor:
    """Looks after one crew until `stop` was called, or it was asked to in the database, and everything has ended.

    `revive` is called while the database is away. `tell` hears one line for each thing that a person may want to know.
    """

    database: asyncpg.Pool[Any]
    hold: Hold
    orders: Orders
    tell: Callable[[str], None] = lambda _: None
    revive: Callable[[], Awaitable[None]] | None = None
    follow: Callable[[Mapping[str, int]], Awaitable[None]] | None = None  # before every turn, with the counts of people
    watched: dict[str, Watched] = field(default_factory=dict)
    stopping: str | None = None  # 'stop' or 'now'

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._renewed = 0.0
        self.scale = self.hold.scale

    def stop(self, *, at_once: bool = False) -> None:
        """Ends all processes in order, and then `run`. With `at_once` work under way is given back, not finished."""
        self.stopping = "now" if at_once or self.stopping == "now" else "stop"
        self._wake.set()

    async def run(self) -> None:
        """Returns when everything has ended after `stop`. Raises `Fenced` E125, leaving all processes alone."""
        try:
            while not await self._patiently_turn():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TURN):  # wait_for of Python 3.11 may swallow a cancellation
                        await self._wake.wait()
                self._wake.clear()
            await self.database.execute(SQL["leave_crew"], self.hold.crew, self.hold.fence, "it was told to stop")
        finally:
            for watched in self.watched.values():
                watched.process.forget()

    async def _patiently_turn(self) -> bool:
        """One turn; while the database is away processes go on and nothing is judged. Whether everything has ended."""
        try:
            return await self._turn()
        except (*RECONNECT, *REPEAT, DatabaseProblem) as error:
            if not isinstance(error, REPEAT):
                log.warning("the database is away: %s", error or type(error).__name__)
                for watched in self.watched.values():
                    watched.late_since = None  # no lease could be renewed meanwhile: nobody is late yet
                with contextlib.suppress(*RECONNECT, DatabaseProblem):
                    if self.revive is not None:
                        await self.revive()
            return False

    async def _turn(self) -> bool:
        await self._renew()
        if self.follow is not None and self.stopping is None:
            await self.follow(self.scale)
        rows = await places(self.database, self.hold.crew)
        ends = 0
        for place in rows:
            ends += await self._look_at(place)
        if ends:  # what the dead held is handed on now, and not when the next worker looks
            async with self.database.acquire() as connection:
                await queue.rescue(connection, 0, certain_only=True)
        return self.stopping is not None and not any(place.nonce for place in rows)

    async def _renew(self) -> None:
        due = time.monotonic() - self._renewed > BEAT
        what = "renew_crew" if due else "look_at_crew"
        rows = await self.database.fetch(SQL[what], self.hold.crew, self.hold.fence)
        if not rows:
            raise Fenced(
                f'crew "{self.hold.crew}" has another supervisor now', hint="gristmill worker list",
                safe="its workers go on; this process ends and touches none of them",
            )  # fmt: skip
        if (asked := rows[0]["asked"]) is not None and self.stopping != "now":
            self.stop(at_once=asked == "now")
        self.scale = json.loads(rows[0]["scale"])
        if self.stopping is not None and rows[0]["state"] != "stopping":
            await self.database.execute(SQL["stopping_crew"], self.hold.crew, self.hold.fence)
        if due:
            self._renewed = time.monotonic()

    async def _look_at(self, place: Place) -> int:
        """Does what is due for one place. 1 when its process has ended."""
        watched = self.watched.get(place.name)
        if watched is not None and watched.nonce != place.nonce:  # of a start that is over
            del self.watched[place.name]
            watched = None
        match place.state:
            case "idle" if place.dropped:
                await self._do("forget_place", place)
            case "idle" if place.should_run and self.stopping is None:
                if not await call_up(self.database, self.hold, place):
                    self.tell(f"{place.name} is not started: the crew is full")
                else:
                    self._wake.set()
            case "due" if self.stopping is not None or not place.should_run:
                await self._do("call_off", place)
            case "due" if not place.due_in:
                await self._start(place)
            case "starting":  # ours are started within one turn; what was left behind is begun again
                if await self._do("start_again", place, place.nonce):
                    self._wake.set()
            case "running" | "stopping":
                return await self._look_after(place, watched)
        return 0

    async def _do(self, statement: str, place: Place, *arguments: Any) -> Any:
        return await self.database.fetchval(
            SQL[statement], self.hold.crew, self.hold.fence, place.name, *arguments
        )  # fmt: skip

    async def _start(self, place: Place) -> None:
        if (reason := await self.orders.ready(place)) is not None:
            await self._do("refuse", place, reason, "due")
            self.tell(f"{place.name} is not started: {reason}")
            return
        nonce = uuid.uuid4()
        if await self._do("begin_start", place, nonce) is None:
            return
        file = self.orders.logs / f"{place.name}.log"
        own = {"GRISTMILL_CREW_NONCE": str(nonce), "GRISTMILL_LOG_FILE": str(file)}
        environment = {**os.environ, **self.orders.environment(place), **own}
        try:
            process = spawn(self.orders.command(place), file, environment, self._wake.set)
        except OSError as error:  # no process, file or memory left: it passes
            await self._record_end(place, nonce, End(f"cannot be started: {error.strerror}", died=True, age=0.0))
            return
        try:
            known = await self._do("record_start", place, nonce, processes.machine(), process.pid, process.since)
        except BaseException:
            process.shut_gate()
            raise
        if known is None:
            process.shut_gate()
            return
        self.watched[place.name] = Watched(process, nonce)
        process.open_gate()
        log.info("%s runs as process %d", place.name, process.pid)

    async def _look_after(self, place: Place, watched: Watched | None) -> int:
        assert place.nonce is not None and place.pid is not None  # noqa: S101
        if watched is None:
            if place.machine != processes.machine():
                return await self._elsewhere(place)
            process = adopt(place.pid, place.pid_started or 0, self._wake.set)
            if process is None:
                end = End("ended while nobody watched", died=place.worker_state != "stopped", age=0.0)
                await self._record_end(place, place.nonce, end)
                return 1
            watched = self.watched[place.name] = Watched(process, place.nonce)
            self.tell(f"{place.name} goes on as process {place.pid}")
        if watched.process.ended:
            await self._record_end(place, place.nonce, self._how(place, watched))
            return 1
        await self._steer(place, watched)
        return 0

    async def _elsewhere(self, place: Place) -> int:
        """A process of another boot, or of a container whose pids we cannot see: its worker alone tells of it."""
        assert place.nonce is not None  # noqa: S101
        if place.worker_state in ("alive", "paused", "draining") and not place.late:
            return 0
        await self._record_end(place, place.nonce, End("the machine or its container began anew", died=False, age=0.0))
        return 1

    async def _steer(self, place: Place, watched: Watched) -> None:
        """Stops what is not wanted any more, kills what is stuck, and forgets the restarts of what runs well."""
        process = watched.process
        if place.state == "running" and (self.stopping or place.again or not place.should_run):
            if self._is_waited_for(place):
                return
            await self._do("begin_stop", place, place.nonce)
            self._wake.set()
        elif place.state == "stopping":
            self._hurry(place, watched)
        elif why := self._stuck(place, watched):
            self.tell(f"{place.name} is killed: {why}")
            watched.killed = why
            process.kill()
        elif place.restarts and process.age > GOOD:
            await self._do("good_running", place, place.nonce)

    def _is_waited_for(self, place: Place) -> bool:
        """The API stays until the last worker has ended: who watches a shutdown sees all of it."""
        others = (name for name in self.watched if name != API)
        return self.stopping is not None and place.kind == API and any(others)

    def _hurry(self, place: Place, watched: Watched) -> None:
        """Tells it to end in the way that is wanted now, and kills it when its time is over."""
        now = time.monotonic()
        ending = self.stopping or place.ending or "stop"
        if ending == "drain" and place.kind != API:
            if not watched.ending:
                watched.process.drain()
                watched.ending = ending
            return
        if watched.stop_sent is None:
            watched.stop_sent, watched.ending = now, "stop"
            watched.process.terminate()
        elif ending == "now" and watched.ending != "now" and now - watched.stop_sent > TURN / 2:
            watched.ending = ending
            watched.process.terminate()  # the second one gives everything back at once
        if now - watched.stop_sent > self.orders.grace and not watched.killed:
            watched.killed = f"did not end within {self.orders.grace:.0f} s"
            self.tell(f"{place.name} is killed: it {watched.killed}")
            watched.process.kill()

    def _stuck(self, place: Place, watched: Watched) -> str:
        """Why a process that exists does not work; "" when it does. Its own beat process looks whether it answers."""
        if place.kind == API or watched.killed:
            return ""
        if place.worker_id is None:
            return f"did not begin its work within {JOIN:.0f} s" if watched.process.age > JOIN else ""
        if place.worker_state in ("alive", "paused", "draining") and not place.late:
            watched.late_since = None
            return ""
        now = time.monotonic()
        watched.late_since = watched.late_since or now
        return "stuck: its beat is missing" if now - watched.late_since > LATE else ""

    def _how(self, place: Place, watched: Watched) -> End:
        code, process = watched.process.code, watched.process
        in_order = code == 0 or (code is None and place.worker_state == "stopped")
        if watched.killed:
            cause = watched.killed
        elif code is None:
            cause = "ended in order" if in_order else "died"
        else:
            cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        if (
            not in_order
            and not watched.killed
            and code != 0
            and (said := _last_words(self.orders.logs / f"{place.name}.log"))
        ):
            cause = f"{cause}: {said}"
        buried = code == BURIED and not watched.killed
        return End(cause, died=not in_order, age=process.age, killed=bool(watched.killed), buried=buried)

    async def _record_end(self, place: Place, nonce: uuid.UUID, end: End) -> None:
        recent = await self.database.fetchval(SQL["recent_deaths"], self.hold.crew, place.name)
        then = after_end(place, end, recent, stopping=self.stopping is not None)
        assert then.state in TRANSITIONS["running"]  # noqa: S101
        recorded = await self._do(
            "record_end", place, nonce, then.state, then.delay, then.restarts, then.cause, then.died, then.blacklisted,
            then.wanted,
        )  # fmt: skip
        self.watched.pop(place.name, None)
        if recorded is not None:
            (self.tell if then.died else log.info)(f"{place.name} {then.text}")
        self._wake.set()


def _last_words(file: Path, most: int = 300) -> str:
    """What a process has said at its end: its last error, or its last line, shortened."""
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - 8192))
            text = lines.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    ends = text.splitlines()[-4:]
    told = next((line for line in reversed(ends) if line.startswith("error[")), ends[-1] if ends else "")
    return str(log_files.parsed(told)["event"]).strip()[:most]
