"""Live updates: one reader of the event table for the whole process, and any number of listeners.

The reader looks 20 times a second, and only while somebody listens. What it finds goes to every listener as one
message; a listener that does not take its messages is dropped, and asks again behind the last one that it has seen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from gristmill.api.frames import OF_RUNS, TOLD, Message, RollUp, compose, reset
from gristmill.api.problems import Refused
from gristmill.app import App
from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.engine import events as recorded
from gristmill.engine import upkeep
from gristmill.engine.events import Event

SQL = statements("api_live")
LOOK = 0.05  # seconds between two looks
ROLL = 0.34  # seconds between two totals of a run: three a second, and one more may come with an event
MOST_A_SECOND = 4  # frames of a run
LINGER = 10.0  # seconds that the reader goes on after the last listener, and that ended runs are shown
MOST_RUNS = 100  # the newest runs whose totals everybody gets
LARGEST = 2**20  # bytes that wait for one listener
log = logging.getLogger("gristmill.api")


class Listener:
    """Messages of one client, in order. `ended` says why there are no more: "slow" or "closing"."""

    def __init__(self, run: int | None, after: int | None) -> None:
        self.run, self.after = run, after
        self.ended = ""
        self.over = asyncio.Event()  # it has ended
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._later: list[Message] | None = []  # what came while it was told what it had missed

    def begin(self, missed: Message) -> None:
        """The first message; what has come meanwhile follows it."""
        later, self._later = self._later or [], None
        if any(frame["kind"] == "reset" for frame in missed.frames):
            self.after = None
        for message in (missed, *later):
            self.offer(message)

    def offer(self, message: Message) -> None:
        """A message for it, if it holds anything that it wants; never waits."""
        if self.ended:
            return
        if self._later is not None:
            self._later.append(message)
            return
        if self.after is not None and message.next <= self.after and not message.frames:
            return
        if self.after is not None and any(frame["seq"] <= self.after for frame in message.frames):
            message = message.behind(self.after)
        if message.only(self.run):
            text = message.text(self.run)
            self._waiting.append(text)
            self._bytes += len(text)
            if self._bytes > LARGEST:
                self.end("slow")
            self._news.set()

    def end(self, why: str) -> None:
        self.ended = self.ended or why
        self._waiting.clear()
        self._news.set()
        self.over.set()

    async def next(self, timeout: float | None = None) -> str | None:
        """The next message as JSON; None after `timeout` seconds without one, and when it has `ended`."""
        while not self._waiting:
            if self.ended:
                return None
            self._news.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                return None
        text = self._waiting.popleft()
        self._bytes -= len(text)
        return text


class Live:
    """The reader and its listeners; starts with the first listener and rests a while after the last."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.seq: int | None = None  # everything up to here was given to the listeners
        self.listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._known: dict[int, RollUp] = {}  # totals as they were last read
        self._told: dict[int, tuple[dict[str, Any], deque[float]]] = {}  # totals as they were last sent, and when
        self._rolled_at = 0.0

    @asynccontextmanager
    async def listening(self, after: int | None, run: int | None) -> AsyncIterator[Listener]:
        """A listener that first gets what it has missed since `after` (None: nothing), then how far runs are, and then
        what comes. Raises `Refused` 503 when the server is about to end, and what the database raises."""
        if self._closing.is_set():
            raise Refused(503, "the server is about to end", code="A503", hint="ask again in a moment")
        if self._task is None:
            self._ready.clear()
            self._task = asyncio.create_task(self._read())
        async with asyncio.timeout(10):
            await self._ready.wait()
        if self.seq is None:
            raise Refused(503, "the server is about to end", code="A503", hint="ask again in a moment")
        listener, behind, known = Listener(run, after), self.seq, list(self._known.values())
        self.listeners.add(listener)
        try:
            listener.begin(await self._missed(after, behind, run, known))
            yield listener
        finally:
            self.listeners.discard(listener)

    async def close(self) -> None:
        """Ends the reader and all listeners."""
        self._closing.set()
        for listener in list(self.listeners):
            listener.end("closing")
        if self._task is not None:
            with suppress(asyncio.CancelledError, TimeoutError):
                async with asyncio.timeout(2):  # in the middle of a statement it is let finish
                    await self._task

    async def _missed(self, after: int | None, behind: int, run: int | None, known: list[RollUp]) -> Message:
        if after is not None and after > behind and after > await self.app.pool.fetchval(recorded.SQL["last_event"]):
            return reset(behind)
        at, missed = after, []
        while at is not None and at < behind:
            found, at = await recorded.after(self.app.pool, at, run_id=run, names=TOLD)
            missed += [event for event in found if event.seq <= behind]
        wanted = {event.run_id for event in missed if event.run_id is not None} | ({run} if run is not None else set())
        lacking = sorted(wanted - {one.run for one in known})
        if lacking:
            rows = await self.app.pool.fetch(SQL["roll_ups"], lacking, 0.0, 0)
            known = [*known, *(RollUp.of(row) for row in rows)]
        return compose(missed, known, behind)

    async def _read(self) -> None:
        quiet_since, delay = time.monotonic(), LOOK
        while not self._closing.is_set() and (self.listeners or time.monotonic() - quiet_since < LINGER):
            began = time.monotonic()
            if self.listeners:
                quiet_since = began
            try:
                async with asyncio.timeout(10):
                    await self._look()
                delay = LOOK
            except (*RECONNECT, *REPEAT) as error:
                log.info("live updates wait for the database: %s", error or type(error).__name__)
                delay = min(2.0, delay * 2)
            except Exception:
                log.exception("live updates go on after a fault")
                delay = 2.0
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.005, delay - (time.monotonic() - began))):
                    await self._closing.wait()
        self._known, self._told = {}, {}
        self.seq, self._task = None, None
        self._ready.set()  # who waits for it now learns that there is nothing to wait for

    async def _look(self) -> None:
        """One look: number and sum what is new, read it, send it."""
        async with self.app.pool.acquire() as connection:
            pulse = await connection.fetchrow(SQL["pulse"])
            assert pulse is not None  # noqa: S101
            head: int = pulse["head"]
            if pulse["waiting"] and await upkeep.fold(connection):
                head = await connection.fetchval(recorded.SQL["last_event"])
            if self.seq is None:
                self.seq = head
            seq, events = self.seq, list[Event]()
            if head > seq:
                events, seq = await recorded.after(connection, seq, names=TOLD)
            of_runs = {event.run_id for event in events if event.run_id is not None and _of_run(event)}
            now = time.monotonic()
            if of_runs or now - self._rolled_at >= ROLL:
                rows = await connection.fetch(SQL["roll_ups"], sorted(of_runs), LINGER, MOST_RUNS)
                self._known = {row["id"]: RollUp.of(row) for row in rows}
                self._rolled_at = now
        self._send(events, of_runs, seq, now)
        self._ready.set()

    def _send(self, events: list[Event], of_runs: set[int], seq: int, now: float) -> None:
        """To all, unless a run has had its frames of this second: then everything waits, and is read again."""
        if any(self._full(run, now) for run in of_runs) and len(events) < recorded.PAGE:
            return
        chosen = [one for run, one in self._known.items() if run in of_runs or self._due(one, now)]
        for one in chosen:
            times = self._told[one.run][1] if one.run in self._told else deque(maxlen=MOST_A_SECOND)
            times.append(now)
            self._told[one.run] = (one.data, times)
        for gone in [run for run in self._told if run not in self._known]:
            del self._told[gone]
        self.seq = seq
        if events or chosen:
            message = compose(events, chosen, seq)
            for listener in list(self.listeners):
                listener.offer(message)

    def _full(self, run: int, now: float) -> bool:
        times = self._told[run][1] if run in self._told else None
        return times is not None and len(times) == MOST_A_SECOND and now - times[0] < 1.0

    def _due(self, one: RollUp, now: float) -> bool:
        """Whether totals have changed, and were not sent just now."""
        if one.run not in self._told:
            return True
        data, times = self._told[one.run]
        return data != one.data and (not times or now - times[-1] >= ROLL)


def _of_run(event: Event) -> bool:
    return event.name.partition(".")[0] in OF_RUNS
