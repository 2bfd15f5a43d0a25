"""The fleet in the hands of a person: limits and pauses of pools, orders to workers. All of it is told as events."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import queue
from gristmill.errors import UsageError

SQL = statements("fleet")
MOST = 10_000  # waiting tasks of a pool that are counted
LIVE = ("alive", "paused", "draining", "late")
# verb -> (state that follows, states it can be given in)
ORDERS = MappingProxyType({
    "pause": ("paused", ["alive"]),
    "resume": ("alive", ["paused"]),
    "drain": ("draining", ["alive", "paused"]),
})  # fmt: skip
Verb: TypeAlias = Literal["pause", "resume", "drain"]
Database: TypeAlias = "asyncpg.Pool[Any]"


@dataclass(frozen=True, slots=True)
class Pool:
    """`limit`: tasks that may run at once over all workers, None: no limit. `slots` and `workers`: of those that live;
    who is paused counts as a worker without slots. `waiting` tasks are counted up to 10,000."""

    name: str
    limit: int | None
    paused: bool
    changed_at: datetime | None
    workers: int
    slots: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Member:
    """A worker. `state`: alive, paused, draining, late (its lease is over, nobody has buried it yet), stopped or dead.

    `beat_age`: seconds since its latest beat; `tasks` under way; `pools`: its slots in each."""

    id: int
    name: str
    host: str
    pid: int
    pools: dict[str, int]
    version: str
    started_at: datetime
    ended_at: datetime | None
    cause: str | None
    state: str
    beat_age: float
    tasks: int

    @property
    def live(self) -> bool:
        """Whether it can still be given orders."""
        return self.state in LIVE


async def pools(database: Database) -> list[Pool]:
    """All pools that have workers, tasks, a limit or a pause, by name."""
    return [Pool(**row) for row in await database.fetch(SQL["pools"], MOST)]


async def known_pools(database: Database) -> set[str]:
    """Names of pools that somebody has used: workers that run or ran, steps of runs, limits."""
    return {row["name"] for row in await database.fetch(SQL["known_pools"])}


async def limit_pool(database: Database, name: str, slots: int | None, *, by: str) -> bool:
    """At most `slots` tasks of the pool run at once over all workers (0: none); None takes the limit away.

    What runs already goes on. `by` says in the event who wanted it. False when it was so already. Raises `UsageError`
    U360 for what can be no name or no limit.
    """
    if slots is not None and (type(slots) is not int or not 0 <= slots <= 1_000_000):
        raise UsageError(f"{slots!r} is no limit", code="U360", hint="tasks at once: a whole number from 0, or none")
    changed = await database.fetchval(SQL["limit_pool"], _checked(name), slots, by) is not None
    await queue.hint(database)
    return changed


async def pause_pool(database: Database, name: str, *, by: str) -> bool:
    """Nothing more of the pool is claimed, by any worker; what is under way finishes. False when it was so already."""
    return await database.fetchval(SQL["pause_pool"], _checked(name), True, by) is not None


async def resume_pool(database: Database, name: str, *, by: str) -> bool:
    """Goes on after `pause_pool`. False when the pool was not paused."""
    resumed = await database.fetchval(SQL["pause_pool"], _checked(name), False, by) is not None
    await queue.hint(database)
    return resumed


def _checked(name: str) -> str:
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise UsageError(f"{name!r:.80} can be no pool", code="U360", hint="1 to 200 printable characters")
    return name


async def workers(database: Database) -> list[Member]:
    """Workers that live, and those that ended within ten minutes, by id."""
    return [
        Member(**{**row, "pools": json.loads(row["pools"])}) for row in await database.fetch(SQL["workers"])
    ]  # fmt: skip


async def order(database: Database, verb: Verb, ids: Iterable[int], *, by: str) -> list[int]:
    """Tells workers to `pause` (claim nothing more), to `resume`, or to `drain`: finish what is under way and end.

    A pause holds from the next claim on; a worker hears of a drain with its next beat. Returns the ids of those for
    whom this was news, in order; others are as they were.
    """
    state, before = ORDERS[verb]
    told = [
        number for number in sorted(set(ids))
        if await database.fetchval(queue.SQL["order_worker"], number, state, before, verb, by) is not None
    ]  # fmt: skip
    if verb == "resume":
        await queue.hint(database)
    return told


def chosen(members: Sequence[Member], names: Sequence[str]) -> list[Member]:
    """Those live workers that the names mean, each an id or a name (of all workers that bear it).

    Raises `UsageError` U362 for a name that fits none.
    """
    live = [member for member in members if member.live]
    found: dict[int, Member] = {}
    for name in names:
        fits = [member for member in live if name in (str(member.id), member.name)]
        if not fits:
            known = {text for member in live for text in (member.name, str(member.id))}
            gone = next((member for member in members if name in (str(member.id), member.name)), None)
            raise UsageError(
                f'no worker that runs is called "{name}"' + (f": it is {gone.state}" if gone else ""), code="U362",
                hint=nearest(name, known) or "no worker runs now", safe="no worker was told anything",
            )  # fmt: skip
        found |= {member.id: member for member in fits}
    return [found[number] for number in sorted(found)]


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that is most like this one, or all of them; empty when there is none."""
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(sorted(known)[:20])}" if known else ""
