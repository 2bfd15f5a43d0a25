"""Counting: increments are sums in memory; every few seconds a process appends them to the database as one batch.

The database holds the totals of the whole fleet: they survive every process, and any process can show them
(`gristmill.engine.scrape`). Why: docs/decisions/0007-metrics.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT
from gristmill.db.statements import statements
from gristmill.engine.task import clean_text
from gristmill.errors import UsageError

SQL = statements("metrics")
FOLD_CLASS = 0x6772_6966  # first key of the folders' advisory locks; the second key is 2 here
FLUSH_EVERY = 5.0  # seconds; also how much a killed process may take with it
MOST_SERIES = 1000  # of one process: names of pools and operators come from users
log = logging.getLogger("gristmill.metrics")

# Upper bounds in seconds. Never change those of a name: sums of old and new buckets would mean nothing.
_CLAIM = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STEP = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric: what it says, its labels in order, and for a histogram the upper bounds of its buckets (seconds)."""

    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


COUNTERS = {
    "claim_attempts": Definition("Times a worker asked for tasks.", ("pool",)),
    "claim_success": Definition("Tasks that were claimed.", ("pool",)),
    "claim_idle": Definition("Times a worker asked for tasks and there were none.", ("pool",)),
    "claim_error": Definition("Claims that the database did not answer."),
    "claim_lost_race": Definition("Tasks left to others because their lock was taken at that moment."),
    "step_started": Definition("Attempts that began.", ("kind",)),
    "step_completed": Definition("Tasks whose result was committed.", ("kind",)),
    "step_error": Definition("Attempts that failed and will be tried again.", ("kind",)),
    "step_failed": Definition("Tasks that failed for good.", ("kind",)),
    "step_released": Definition("Attempts given back uncharged: a quota, a lock, a shutdown.", ("kind",)),
    "step_cancelled": Definition("Attempts that were stopped because their task was cancelled."),
    "step_reset_by_reaper": Definition("Running tasks that were taken from dead workers."),
    "lease_lost": Definition("Ends that came too late: the task was in other hands.", ("phase",)),
    "resource_lock_swept": Definition("Expired slots of locks that were swept away."),
    "worker_started": Definition("Workers that registered."),
    "worker_stopped": Definition("Workers that left in order."),
    "worker_lapsed": Definition("Times a worker could not renew its lease in time."),
    "worker_reaped": Definition("Workers that were found dead and buried."),
}
HISTOGRAMS = {
    "claim_duration": Definition("Seconds a claim took, asking and answer.", ("pool",), _CLAIM),
    "step_duration": Definition("Seconds an attempt took, whole operator.", ("kind",), _STEP),
}


class Metrics(Protocol):
    """What the engine tells about itself. Both must return at once: they stand in the hot path."""

    def incr(self, name: str, n: int = 1, **labels: str) -> None:
        """Adds `n` (0 or more) to a counter."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds one value (seconds) to a histogram."""
        ...


class LoggingMetrics:
    """Writes every call to the log `gristmill.metrics` at DEBUG and keeps nothing."""

    def incr(self, name: str, n: int = 1, **labels: str) -> None:
        log.debug("%s +%d %s", name, n, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        log.debug("%s %.6f %s", name, value, labels)


Key = tuple[Any, ...]  # name, then (label, value) pairs as they were given


class DatabaseMetrics:
    """Sums in memory, flushed to the database in batches that count once. For one event loop, not for threads.

    Raises `UsageError` U140 at the first use of a name or label that is not defined above.
    """

    def __init__(self, every: float = FLUSH_EVERY) -> None:
        self.source = uuid.uuid4()
        self.every = every
        self._counts: dict[Key, float] = {}
        self._histograms: dict[Key, tuple[tuple[float, ...], list[float]]] = {}
        self._defined: set[Key] = set()
        self._batch = 0
        self._sending: tuple[list[str], list[str], list[str]] | None = None
        self._due = time.monotonic() + every

    def incr(self, name: str, n: int = 1, **labels: str) -> None:
        """Adds `n` to the counter. Raises `UsageError` U140 for an unknown name or label, U141 for a negative `n`."""
        key = (name, *labels.items()) if labels else (name,)
        if n < 0:
            raise UsageError(f"counter {name}: {n} is negative", code="U141", hint="a counter never goes down")
        try:
            self._counts[key] += n
        except KeyError:
            key = self._define(key, COUNTERS)
            self._counts[key] = self._counts.get(key, 0) + n

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds `value` seconds. Raises `UsageError` U140 (unknown name or label), U141 (negative or not finite)."""
        key = (name, *labels.items()) if labels else (name,)
        if not 0 <= value < math.inf:
            raise UsageError(f"histogram {name}: {value} seconds", code="U141", hint="give 0 or more, and finite")
        try:
            bounds, row = self._histograms[key]
        except KeyError:
            key = self._define(key, HISTOGRAMS)
            bounds = HISTOGRAMS[name].bounds
            row = self._histograms.setdefault(key, (bounds, [0.0] * (len(bounds) + 2)))[1]
        row[bisect_left(bounds, value)] += 1
        row[-1] += value

    def _define(self, key: Key, known: dict[str, Definition]) -> Key:
        """The key to count under: `key`, or one whose labels say "other" when there are too many series already."""
        if key in self._defined:
            return key
        name, labels = key[0], dict(key[1:])
        if name not in known or sorted(labels) != sorted(known[name].labels):
            wanted = (
                f"{name}({', '.join(known[name].labels)})" if name in known else "a name of docs/reference/metrics.md"
            )
            raise UsageError(
                f"no metric {name}({', '.join(labels)})", code="U140", hint=f"use {wanted}", safe="nothing was counted"
            )
        if len(self._defined) >= MOST_SERIES:
            return (name, *((label, "other") for label, _ in key[1:]))
        self._defined.add(key)
        return key

    def _take(self) -> tuple[list[str], list[str], list[str]]:
        """Everything since the last batch as columns: names, labels as JSON, values as array literals."""
        rows = [(key, [n]) for key, n in self._counts.items()]
        rows += [(key, row) for key, (_, row) in self._histograms.items()]
        self._counts, self._histograms = {}, {}
        names, labels, values = [], [], []
        for key, row in rows:
            names.append(key[0])
            labels.append(json.dumps({name: clean_text(str(value), 200) for name, value in sorted(key[1:])}))
            values.append("{" + ",".join(map(repr, row)) + "}")
        return names, labels, values

    async def flush(self, connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> bool:
        """Sends what was counted, if anything; returns whether it did. After an error the same batch goes again, and is
        counted once even when the first was committed. One call at a time."""
        if self._sending is None:
            if not self._counts and not self._histograms:
                return False
            self._sending = self._take()
            self._batch += 1
        await connection.execute(SQL["flush"], self.source, self._batch, *self._sending, timeout=5)
        self._sending = None
        return True

    async def upkeep(self, connection: asyncpg.Connection[Any]) -> None:
        """A duty for whoever keeps house: flushes its own sums and folds everybody's, every few seconds."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.every * random.uniform(0.8, 1.2)
        await self.flush(connection)
        await fold(connection, older_than=self.every)

    @asynccontextmanager
    async def flushing(self, pool: asyncpg.Pool[Any]) -> AsyncIterator[None]:
        """Flushes every few seconds while inside, and once more at the end, for which it takes 2 seconds at most."""
        task = asyncio.create_task(self._forever(pool))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            with suppress(*RECONNECT, *REPEAT, asyncpg.PostgresError):
                async with asyncio.timeout(2):
                    while await self.flush(pool):
                        pass

    async def _forever(self, pool: asyncpg.Pool[Any]) -> None:
        while True:
            await asyncio.sleep(self.every * random.uniform(0.8, 1.2))
            try:
                await self.flush(pool)
            except (*RECONNECT, *REPEAT) as error:
                log.debug("counted on, sent later: %s", error or type(error).__name__)
            except asyncpg.PostgresError as error:
                log.warning("the counters cannot be written: %s", error)


@asynccontextmanager
async def flushing(metrics: Metrics, pool: asyncpg.Pool[Any]) -> AsyncIterator[None]:
    """`metrics.flushing(pool)` for those that have it, nothing for all others."""
    if isinstance(metrics, DatabaseMetrics):
        async with metrics.flushing(pool):
            yield
    else:
        yield


async def fold(connection: asyncpg.Connection[Any], older_than: float = FLUSH_EVERY) -> int:
    """Adds the deltas to the totals when one is older than `older_than` seconds; returns how many it took.

    Any process may call it at any time: one at a time does it, the others return 0.
    """
    return int(await connection.fetchval(SQL["fold"], FOLD_CLASS, older_than))
