"""Locks for everybody who is not a task: a command, a request, a worker, a hook. Tasks get theirs with their claim.

A key has N slots in the table `lock`, numbered from 1. Who inserts the row holds the slot; the primary key decides, not
a look before. A task's slot lives as long as its claim; everybody else's until `expires_at`, so it has to be renewed,
which `hold` (holding.py) does. All names and times: docs/concepts/locks.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import shlex
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import asyncpg

from gristmill.db.database import RECONNECT, REPEAT, transaction
from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.engine.lock_keys import check_key
from gristmill.engine.task import clean_text
from gristmill.errors import LockHeld, LockLost, UsageError

SQL = statements("locks")
TTL = 60.0  # seconds
LONGEST_TTL = 86_400.0
DOOR_TTL = 5.0  # seconds that a place at the door outlives who waits there
KINDS = ("worker", "cli", "api", "hook")
log = logging.getLogger("gristmill.locks")

HolderKind: TypeAlias = Literal["worker", "cli", "api", "hook"]
Database: TypeAlias = "asyncpg.Pool[Any] | asyncpg.Connection[Any]"


@dataclass(slots=True)
class Held:
    """Slots that are ours: `slots[i]` of `keys[i]`, under one `token` and one `fence`.

    `fence` is higher than that of every earlier holder of these keys. `until` is when we stop being sure, on this
    machine's own clock (CLOCK_BOOTTIME, seconds); each renewal moves it.
    """

    keys: tuple[str, ...]
    slots: tuple[int, ...]
    token: uuid.UUID
    fence: int
    ttl: float
    until: float

    @property
    def left(self) -> float:
        """Seconds for which nobody else can have it, whatever the network does. Negative: be gone."""
        return self.until - boottime()

    def check(self) -> None:
        """Raises `LockLost` T310 when it is not certain any more. Call it right before what cannot be undone."""
        if self.left <= 0:
            raise lost(self.keys, "it was not renewed in time")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a slot. `kind` is task, worker, cli, api or hook; `age` is in seconds; a task's slot does not expire.

    `live` False: its time has passed, anybody may take it. Slot 0 is no slot: who has it waits at the door.
    """

    key: str
    slot: int
    kind: str
    who: str
    task_id: int | None
    worker_id: int | None
    token: uuid.UUID
    fence: int
    since: datetime
    expires_at: datetime | None
    live: bool
    age: float
    run_id: int | None
    operator: str | None

    def __str__(self) -> str:
        who = f"{self.kind} {self.who}"
        if self.kind == "task":
            who = f"task {self.task_id} ({self.operator or '?'}, run {self.run_id}) on worker {self.worker_id}"
        since = self.since.astimezone(UTC).isoformat(" ", "seconds").removesuffix("+00:00")
        return f"{who} since {since} UTC ({self.age:.0f} s)"


def boottime() -> float:
    """Seconds that also pass while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Taken(Exception):
    """Undoes an attempt: `key` was not to be had."""

    def __init__(self, key: str) -> None:
        self.key = key


@dataclass(frozen=True, slots=True)
class _Wish:
    keys: tuple[str, ...]  # sorted: whoever takes several goes in one order, so two of them never wait for each other
    slots: int
    kind: str
    who: str
    worker_id: int | None
    token: uuid.UUID
    ttl: float


async def acquire(
    database: Database, key: str | Sequence[str], *, holder_kind: HolderKind, holder: str, slots: int = 1,
    ttl: float = TTL, wait: float | None = None, token: uuid.UUID | None = None, worker_id: int | None = None,
) -> Held:  # fmt: skip
    """Takes one of the `slots` slots of a key, or of every key of a list: all or none.

    `wait` None waits for ever, 0 fails at once, else seconds. `ttl` is seconds until the slot may be taken over if it
    is not renewed. With the `token` of an earlier call it renews instead: the same call may simply be repeated. On a
    connection inside a transaction the lock exists once that commits, and only `wait=0` is possible.
    Raises `LockHeld` T410, which names the holders; `UsageError` U451 to U453 for arguments that make no sense.
    """
    wish = _wish(key, slots, holder_kind, holder, worker_id, token or uuid.uuid4(), ttl, wait)
    riding = isinstance(database, asyncpg.Pool)  # a pool survives a restart of the database, a connection does not
    if wait != 0 and not riding and database.is_in_transaction():
        raise _wrong("waiting for a lock inside a transaction holds up everybody else", "use wait=0", "U453")
    end = math.inf if wait is None else time.monotonic() + wait
    delay = 0.05
    try:
        while True:
            blocked: str | None = None
            try:
                return await _attempt(database, wish)
            except _Taken as taken:
                blocked = taken.key
            except REPEAT:
                blocked = wish.keys[0]
            except RECONNECT:
                if not riding or wait == 0:
                    raise
            if time.monotonic() >= end:
                raise await _held(database, wish, blocked)
            await _stay_at_door(database, wish, blocked)
            await asyncio.sleep(max(0.0, min(delay * random.uniform(0.7, 1.3), end - time.monotonic())))
            delay = min(1.0, delay * 1.6)
    except BaseException:  # cancelled, perhaps between the commit and its reply; or our patience is over
        if wait != 0:
            with contextlib.suppress(*RECONNECT, asyncpg.PostgresError):
                async with asyncio.timeout(2.0):
                    await database.execute(SQL["leave_door"], wish.token, None)
                    if token is None:
                        await database.execute(SQL["release"], wish.token, list(wish.keys))
        raise


async def refresh(database: Database, held: Held) -> bool:
    """Renews it for another `held.ttl` seconds. False: it is lost, stop at once; nothing can bring it back."""
    before = boottime()
    rows = await database.fetch(SQL["refresh"], held.token, list(held.keys), held.ttl)
    if {row["key"] for row in rows} != set(held.keys):
        return False
    held.until = before + sure_for(held.ttl)
    return True


async def release(database: Database, held: Held) -> bool:
    """Gives it back; returns whether it was still ours. What is lost or somebody else's is left alone."""
    rows = await database.fetch(SQL["release"], held.token, list(held.keys))
    held.until = -math.inf
    if rows and isinstance(database, asyncpg.Pool):
        with contextlib.suppress(*RECONNECT, asyncpg.PostgresError):
            await queue.hint(database)  # tasks may have waited behind it
    return bool(rows)


async def holders(database: Database, key: str | None = None) -> list[Holder]:
    """Who holds slots of a key, or of any, and who waits at the door (slot 0), by key and slot."""
    return [Holder(**row) for row in await database.fetch(SQL["holders"], key)]


async def force_release(database: Database, key: str, *, by: str, reason: str = "") -> list[Holder]:
    """Takes a key away from whoever holds it, and returns them. The decision is a person's: `by` and `reason` are kept.

    Each one is told as an event `lock.forced` that names it. A task's claim is taken back with the slot, uncharged, so
    whatever it still brings is refused; any other holder finds its next renewal refused. The next holder's fence is
    higher than theirs. `key` may be any text that stands in the table. Given a pool it wakes idle
    workers and tells the task's; on a connection that is the caller's business (`queue.hint` after the commit).
    """
    if not by.strip():
        raise _wrong("a forced release names who decided it", "by='anna@host'")
    for left in reversed(range(5)):
        try:
            async with transaction(database) as connection:
                forced = await _force(connection, key, by, reason)
            break
        except REPEAT:
            if not left:
                raise
    if forced and isinstance(database, asyncpg.Pool):
        if any(one.kind == "task" for one in forced):
            await queue.hint(database, "cancel")
        await queue.hint(database)
    return forced


async def sweep_expired(connection: Database) -> int:
    """Frees slots whose time has passed, and those of tasks that do not run any more; returns how many.

    A duty of upkeep: nothing depends on it, as an expired slot may be taken anyhow. Safe when several do it at once.
    """
    rows = await connection.fetch(SQL["sweep"])
    for row in rows:
        if row["slot"]:
            log.warning(
                "lock %s: %s %s, since %s, did not give it back", row["key"], row["kind"], row["who"], row["since"]
            )
    return sum(row["slot"] > 0 for row in rows)


def held_by(key: str, found: Sequence[Holder], slots: int = 1) -> LockHeld:
    """The error of somebody who comes too late: names every holder, since when, and how to take it away."""
    names = "; ".join(f"{one} waits for it" if one.slot == 0 else str(one) for one in found)
    return LockHeld(
        f"the lock {key}{f' ({slots} slots)' if slots > 1 else ''} is held by {names or 'somebody who is just coming'}",
        holders=found, hint=f"wait for it, or take it away: gristmill locks release {shlex.quote(key)} --force",
        safe="nothing was changed; reading needs no lock",
    )  # fmt: skip


def lost(keys: Sequence[str], why: str) -> LockLost:
    """The error of a holder that is none any more."""
    return LockLost(
        f"the lock {', '.join(keys)} was lost: {why}",
        hint="who holds it now: gristmill locks; who forced it: events lock.forced",
        safe="what was committed before stays; a store that checks fences refuses what comes later",
    )


def sure_for(ttl: float) -> float:
    """Seconds after asking for a lock of `ttl` seconds for which its holder may be sure of it."""
    return ttl - min(1.0, ttl / 4)


async def _attempt(database: Database, wish: _Wish) -> Held:
    before = boottime()
    async with transaction(database) as connection:
        if isinstance(database, asyncpg.Pool):  # a transaction of our own: whoever comes or goes now is waited for
            await connection.execute(SQL["patience"])
        rows = await connection.fetch(SQL["refresh"], wish.token, list(wish.keys), wish.ttl)
        mine = {row["key"] for row in rows}
        for key in wish.keys:
            if key not in mine:
                await _take(connection, wish, key)
        if len(mine) < len(wish.keys):
            rows = await connection.fetch(SQL["number"], wish.token, list(wish.keys), wish.ttl)
            await connection.execute(SQL["leave_door"], wish.token, None)
    slots = {row["key"]: row["slot"] for row in rows}
    return Held(
        wish.keys, tuple(slots[key] for key in wish.keys), wish.token, max(row["fence"] for row in rows), wish.ttl,
        before + sure_for(wish.ttl),
    )  # fmt: skip


async def _take(connection: asyncpg.Connection[Any], wish: _Wish, key: str) -> None:
    while True:
        row = await connection.fetchrow(
            SQL["take"], key, wish.slots, wish.kind, wish.who, wish.worker_id, wish.token, wish.ttl
        )
        assert row is not None  # noqa: S101
        if row["slot"] is not None:
            return
        if row["tried"] is None:
            raise _Taken(key)


async def _stay_at_door(database: Database, wish: _Wish, key: str | None) -> None:
    """Only at the door that we were stopped at: who waits at two could wait for one that waits for him."""
    if key is None:
        return
    with contextlib.suppress(*RECONNECT, asyncpg.PostgresError):
        await database.execute(SQL["leave_door"], wish.token, key)
        await database.execute(SQL["wait_turn"], key, wish.kind, wish.who, wish.worker_id, wish.token, DOOR_TTL)


async def _held(database: Database, wish: _Wish, key: str | None) -> LockHeld | TimeoutError:
    if key is None:
        return TimeoutError(f"no database for as long as the lock {wish.keys[0]} was waited for")
    found = [one for one in await holders(database, key) if one.live and one.token != wish.token]
    return held_by(key, found, wish.slots)


async def _force(connection: asyncpg.Connection[Any], key: str, by: str, reason: str) -> list[Holder]:
    forced = []
    found = [one for one in await holders(connection, key) if one.slot > 0]
    for one in sorted(found, key=lambda holder: (holder.task_id or 0, holder.slot)):  # task rows come first, by id
        text = clean_text(f"its lock was forced by {by}: {reason or 'no reason given'}", 200)
        taken = None
        if one.kind == "task" and one.task_id is not None:
            taken = await queue.take_back(connection, one.task_id, one.token, text)
        if taken or await connection.fetchval(SQL["drop"], key, one.slot, one.token) is not None:
            await connection.execute(
                SQL["tell_forced"], one.run_id, one.task_id, one.worker_id, key, one.slot, one.kind, one.who, one.since,
                one.fence, clean_text(by, 200), clean_text(reason, 2000),
            )  # fmt: skip
            forced.append(one)
    return forced


def _wish(
    key: str | Sequence[str], slots: int, kind: str, who: str, worker_id: int | None, token: uuid.UUID, ttl: float,
    wait: float | None,
) -> _Wish:  # fmt: skip
    keys = tuple(sorted({check_key(one) for one in ([key] if isinstance(key, str) else key)}))
    if not keys:
        raise _wrong("a lock needs a key", "make one with lock_key(kind, name)", "U451")
    if not 1 <= slots <= 10_000:
        raise _wrong(f"slots = {slots}: a lock has 1 to 10,000", "everybody has to name the same number for a key")
    if kind not in KINDS:
        raise _wrong(
            f"{kind!r} cannot hold a lock here", f"one of {', '.join(KINDS)}; a task gets its lock by its claim"
        )
    if not who.strip():
        raise _wrong("a lock needs the name of its holder", "for people: who is asked when it stands in the way?")
    if not 0.1 <= ttl <= LONGEST_TTL:
        raise _wrong(f"ttl = {ttl}: a lock is taken for 0.1 s to a day", "it can be renewed; 60 s is a good choice")
    if wait is not None and not wait >= 0:
        raise _wrong(f"wait = {wait}", "None waits for ever, 0 fails at once, else seconds")
    return _Wish(keys, slots, kind, clean_text(who, 200), worker_id, token, ttl)


def _wrong(message: str, hint: str, code: str = "U452") -> UsageError:
    return UsageError(message, code=code, hint=hint, safe="no lock was touched")
