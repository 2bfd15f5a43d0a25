"""The beat process of a worker: it beats, holds the liveness lock and keeps house, and no operator can starve it.

It talks with its worker in lines of text over its standard input and output:

    worker -> beat   first line: settings as JSON; then `pong` for every `ping`
    beat -> worker   `ready`, `ping`, `lapsed` / `renewed` (our own view of the lease), `fenced`, `draining`, `wake` (a
                     rescue), `promoted` (another server has taken over)

Neither outlives the other: the kernel kills this process with its worker (PDEATHSIG, and the pipe's end), and it kills
a worker that does not answer pings, or that was buried. Why two processes: docs/decisions/0004-worker-shape.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
import uuid
from typing import Any, NoReturn

import asyncpg

from gristmill.db.database import RECONNECT, connect, pooled, reconnecting
from gristmill.db.moving import moved_away
from gristmill.db.statements import statements
from gristmill.engine.metrics import DatabaseMetrics
from gristmill.engine.queue import LOCK_CLASS
from gristmill.engine.server_clock import ServerClock
from gristmill.engine.upkeep import Duty, Housekeeping
from gristmill.errors import DatabaseProblem
from gristmill.logs import bind, set_up_when_used

SQL = statements("queue")
log = logging.getLogger("gristmill.beat")


class Beat:
    """One worker's beat. `lease`, `every`, `stall_after`, `probe` and `confirm` are seconds."""

    def __init__(self, settings: dict[str, Any], parent: int) -> None:
        self.url: str = settings["url"]
        self.worker_id: int = settings["worker_id"]
        self.nonce = uuid.UUID(settings["nonce"])
        self.lease: float = settings["lease"]
        self.every: float = settings["beat"]
        self.stall_after: float = settings["stall_after"]
        self.housekeeping = Housekeeping(
            self.worker_id, probe=settings["probe"], confirm=settings["confirm"], metrics=DatabaseMetrics(),
            grace=max(2 * self.every, settings["confirm"] + 2.0), on_rescue=lambda: _say("wake"),
            keep_finished=settings["keep_finished"], keep_history=settings["keep_history"],
        )  # fmt: skip
        self.clock = ServerClock()
        self.housekeeping.duties += (Duty("clock", settings["probe"], self.clock.make_due),)
        self.parent = parent
        self.pong_at = time.monotonic()
        self.margin = _boottime() + self.lease - 1.0
        self.lapsed = False
        self.draining = False
        self.timeline: str | None = None

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Ends when the worker closes its side, or together with the worker."""
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._forever(self._hold_lock)),
                tasks.create_task(self._forever(self._beats)),
                tasks.create_task(self._forever(self._upkeep)),
                tasks.create_task(self._pings()),
                tasks.create_task(self._watch_lease()),
            ]
            while line := await reader.readline():
                if line.strip() == b"pong":
                    self.pong_at = time.monotonic()
            for task in background:
                task.cancel()

    async def _forever(self, duty: Any) -> None:
        async for _ in reconnecting():
            try:
                await duty()
            except (*RECONNECT, DatabaseProblem, asyncpg.PostgresError) as error:
                if moved := moved_away(error):  # while we slept
                    await self._fenced(moved.message)
                log.info("%s: the database is away (%s)", duty.__name__, error)

    async def _hold_lock(self) -> None:
        connection = await connect(
            self.url, application_name=f"gristmill:live:{self.worker_id}", idle_session_timeout="0",
            client_connection_check_interval="500ms",
        )  # fmt: skip
        if pooled(self.url):  # no session is ours there: the lease is the only notice of our death
            connection.terminate()
            _say("ready")
            await asyncio.Event().wait()
        try:
            await connection.execute("select pg_advisory_lock($1, $2)", LOCK_CLASS, _lock_key(self.worker_id))
            await connection.execute(SQL["announce_lock"], self.worker_id, self.nonce, True)
            _say("ready")
            while True:
                await asyncio.sleep(5)
                await connection.execute("select 1")
        finally:
            connection.terminate()

    async def _beats(self) -> None:
        connection = await connect(self.url, application_name=f"gristmill:beat:{self.worker_id}")
        try:
            await self._compare_timeline(connection)
            while True:
                before = _boottime()
                row = await connection.fetchrow(SQL["beat"], self.worker_id, self.nonce, timeout=self.lease / 3)
                if row is None:
                    await self._last_look(connection)
                    await self._fenced("it was buried, and did not stop by itself")
                self.clock.look(row["now"], before, _boottime())
                if row["state"] == "draining" and not self.draining:
                    self.draining = True
                    _say("draining")
                self.margin = before + self.lease - 1.0
                await asyncio.sleep(self.every)
        finally:
            connection.terminate()

    async def _last_look(self, connection: asyncpg.Connection[Any]) -> None:
        """We may have been buried because the clock was set back; who begins after us has not seen it before."""
        before = _boottime()
        now = await connection.fetchval("select clock_timestamp()", timeout=self.lease / 3)
        self.clock.look(now, before, _boottime())
        await self.clock.make_due(connection)

    async def _compare_timeline(self, connection: asyncpg.Connection[Any]) -> None:
        """Another server may know less than the one before: then what our worker remembers is of no use."""
        before = self.timeline
        with contextlib.suppress(asyncpg.PostgresError):  # not everybody may ask, and not every service answers
            self.timeline = await connection.fetchval(SQL["timeline"]) or before
        if before not in (None, self.timeline):
            _say("promoted")

    async def _upkeep(self) -> None:
        connection = await connect(self.url, application_name=f"gristmill:upkeep:{self.worker_id}")
        try:
            await self.housekeeping.run(connection)
        finally:
            connection.terminate()

    async def _pings(self) -> None:
        while True:
            _say("ping")
            before = time.monotonic()
            await asyncio.sleep(1)
            if time.monotonic() - before > 3:  # we were frozen ourselves, and probably the worker with us
                self.pong_at = time.monotonic()
            if time.monotonic() - self.pong_at > self.stall_after:
                self._kill(f"it did not answer for {self.stall_after:.0f} s")

    async def _watch_lease(self) -> None:
        while True:
            lapsed = _boottime() > self.margin
            if lapsed != self.lapsed:
                self.lapsed = lapsed
                _say("lapsed" if lapsed else "renewed")
            await asyncio.sleep(0.2)

    async def _fenced(self, why: str) -> NoReturn:
        _say("fenced")
        await asyncio.sleep(1)
        self._kill(why)

    def _kill(self, why: str) -> NoReturn:
        log.error("killing worker process %d: %s", self.parent, why)
        if os.getppid() == self.parent:
            os.kill(self.parent, signal.SIGKILL)
        os._exit(3)


def _lock_key(worker_id: int) -> int:
    return worker_id % 2**31


def _boottime() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _say(line: str) -> None:
    try:
        os.write(1, line.encode() + b"\n")
    except BrokenPipeError:
        os._exit(0)


def die_with(parent: int) -> None:
    """Asks the kernel to kill this process when the thread that started it ends; exits if that has already happened."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _first_line() -> bytes:
    """Read byte by byte: what follows belongs to the event loop's reader."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            os._exit(0)
        line += piece
    return line


async def _main(settings: dict[str, Any], parent: int) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await Beat(settings, parent).run(reader)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the worker; we end when it does
        signal.signal(number, signal.SIG_IGN)
    settings = json.loads(_first_line())
    die_with(settings["pid"])
    set_up_when_used()
    bind(worker=settings["name"])
    asyncio.run(_main(settings, settings["pid"]))


if __name__ == "__main__":
    main()
