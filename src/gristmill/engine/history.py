"""History: what has ended leaves the hot tables for partitions by week, and old weeks are dropped as a whole."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from gristmill.db.database import REPEAT
from gristmill.db.statements import statements

SQL = statements("history")
WALK_CLASS = 0x6772_6968  # first key of the advisory lock of the one who walks; the second key is 1
PAGES = 128  # of a table, looked at in one step: about 4,000 tasks
EVENTS = 5_000  # moved in one step
REST = 300.0  # seconds between two rounds through the tables
PAUSE = 0.25  # seconds between two steps at least
log = logging.getLogger("gristmill.history")


@dataclass(slots=True)
class Moved:
    """What one step, or a whole prune, has done. `round_over`: it came to the end of the tables.

    `tasks` and `events` left for the history; `forgotten` tasks and `results` were older than all history and are gone;
    `dropped` are partitions.
    """

    tasks: int = 0
    events: int = 0
    forgotten: int = 0
    results: int = 0
    dropped: list[str] = field(default_factory=list)
    round_over: bool = False

    def add(self, other: Moved) -> None:
        self.tasks += other.tasks
        self.events += other.events
        self.forgotten += other.forgotten
        self.results += other.results
        self.round_over = other.round_over


async def archive(connection: asyncpg.Connection[Any], keep_finished: float, keep_history: float) -> Moved | None:
    """One step of the walk that moves what has ended, if one is due and nobody else is at it; None if not.

    Call it as often as you like, from as many processes as you like, outside of a transaction: when nothing is due it
    reads one row. `keep_finished` and `keep_history` are seconds, the latter 0 for ever. Raises what the database
    raises; everything that a step does is one transaction.
    """
    if not await connection.fetchval(SQL["due"]):
        return None
    async with connection.transaction():
        if not await connection.fetchval(SQL["try_walk"], WALK_CLASS):
            return None
        place = await connection.fetchrow(SQL["place"])
        if not place["due"]:
            return None
        moved = await _step(connection, place, place["page"], keep_finished, keep_history)
    if moved.round_over:
        moved.dropped = await drop_weeks(connection, keep_history)
    return moved


async def prune(connection: asyncpg.Connection[Any], keep_finished: float, keep_history: float) -> Moved:
    """A whole round at once: everything that may go now is gone afterwards. Workers may go on meanwhile."""
    total = Moved()
    page = 0
    while not total.round_over:
        async with connection.transaction():
            await connection.execute(SQL["wait_for_walk"], WALK_CLASS)
            place = await connection.fetchrow(SQL["place"])
            total.add(await _step(connection, place, page, keep_finished, keep_history, prune=True))
        page += PAGES
    total.dropped = await drop_weeks(connection, keep_history)
    return total


async def count_due(connection: asyncpg.Connection[Any], keep_finished: float, keep_history: float) -> Moved:
    """What `prune` would do; changes nothing. Events are counted up to `EVENTS` only, results not at all."""
    place = await connection.fetchrow(SQL["place"])
    total = Moved()
    for page in range(0, place["pages"] + 1, PAGES):
        found = await connection.fetch(SQL["look"], page, page + PAGES, keep_finished, keep_history)
        total.tasks += sum(row["goes"] == "history" for row in found)
        total.forgotten += sum(row["goes"] == "away" for row in found)
    seen = place["event_seq"]
    while events := await connection.fetch(SQL["look_events"], seen, EVENTS, keep_finished, keep_history):
        total.events += len(events)
        seen = events[-1]["seq"]
    if keep_history:
        total.dropped = [row["name"] for row in await connection.fetch(SQL["old_weeks"], keep_history)]
    return total


async def states(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], ids: Sequence[int]) -> dict[int, str]:
    """Those of these tasks that are history, with the state they ended in (completed or cancelled)."""
    return {row["id"]: row["state"] for row in await connection.fetch(SQL["states"], list(ids))}


async def drop_weeks(connection: asyncpg.Connection[Any], keep_history: float) -> list[str]:
    """Drops every partition that is older than all history; one that somebody reads is left for the next round."""
    dropped: list[str] = []
    while keep_history:
        try:
            async with connection.transaction():
                await connection.execute(SQL["short_lock_wait"])
                name = await connection.fetchval(SQL["drop_week"], keep_history)
        except REPEAT as error:
            log.debug("a week of history is dropped later: %s", error)
            break
        if name is None:
            break
        dropped.append(name)
        log.info("dropped %s, which is older than keep_history", name)
    return dropped


async def _step(
    connection: asyncpg.Connection[Any], place: Any, page: int, keep_finished: float, keep_history: float,
    *, prune: bool = False,
) -> Moved:  # fmt: skip
    """One step inside the caller's transaction: the pages from `page` on, and the oldest events.

    The duty keeps its place for the next step and rests after the last page; a `prune` leaves the duty's place alone.
    """
    await connection.execute(SQL["by_keys"])
    moved = Moved()
    last = place["event_seq"]
    found = await connection.fetch(SQL["look"], page, page + PAGES, keep_finished, keep_history)
    events = await connection.fetch(SQL["look_events"], last, EVENTS, keep_finished, keep_history)
    weeks = {row["week"] for row in found if row["goes"] == "history"}
    for monday in sorted(weeks | {row["week"] for row in events if not row["away"]}):
        await connection.execute(SQL["make_week"], monday)
    if going := [row["id"] for row in found if row["goes"] == "history"]:
        moved.tasks = await connection.fetchval(SQL["move"], going)
    if old := [row["id"] for row in found if row["goes"] == "away"]:
        moved.forgotten = await connection.fetchval(SQL["forget"], old)
    if events:
        moved.events = await connection.fetchval(SQL["move_events"], last, events[-1]["seq"], keep_history)
        last = events[-1]["seq"]
    if keep_history:
        moved.results = await connection.fetchval(SQL["forget_results"], page, page + PAGES, keep_history)
    moved.round_over = page + PAGES >= place["pages"] and len(events) < EVENTS
    following = place["page"] if prune else 0 if moved.round_over else page + PAGES
    await connection.execute(SQL["go_on"], following, last, REST if moved.round_over else PAUSE)
    return moved
