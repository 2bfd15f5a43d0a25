"""Schedules: rows that make a task at every tick of a cron or an interval, each tick exactly once.

Whoever keeps house looks which are due and, in one transaction, makes the tasks and moves the schedule on. The row is
locked meanwhile, and a task carries a key made of the schedule and the tick: two processes and a crash between any two
statements still give one task per tick. The database's clock decides; see `ticks` for what a tick is.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import queue, workflow
from gristmill.engine.queue import NewTask
from gristmill.engine.standing import standing_run
from gristmill.engine.ticks import Timing, seconds
from gristmill.errors import UsageError

SQL = statements("schedule")
MOST = 1_000  # missed ticks that "all" makes up for; missed ticks are counted up to here as well
GRACE = timedelta(seconds=60)  # how late a tick may be for "none"
RULES = ("all", "last", "none")
RUN = "schedules"  # the standing run that the tasks belong to
RESERVED = "schedule"  # the key of the payload that says which tick it is
LONGEST_NAME = 200
SMALL = 32_767  # the widest number that fits in its column
log = logging.getLogger("gristmill.schedule")


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to add: `cron` (five fields, or six with seconds first) in `timezone`, or `every` so many seconds.

    Each tick makes a task of `kind` in `pool` with `payload` (a JSON object as text). Its key "schedule" is ours:
    {"name", "tick": ISO time, "missed": ticks before it that have no task, counted up to 1,000}. `catch_up` says what
    is done about ticks that were missed while nobody ran or the schedule was paused: "all" (the latest 1,000), the
    "last" one, or "none" that is a minute late or more. The rest is as in `NewTask`.
    """

    name: str
    kind: str
    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"
    catch_up: str = "last"
    project: str = "default"
    pool: str = "*"
    payload: str = "{}"
    max_attempts: int = 5
    max_crashes: int = 3
    priority: int = 0
    timeout: float | None = None
    expires: float | None = None
    lock: str | None = None
    lock_slots: int = 1


TASK_FIELDS = (
    "kind", "pool", "payload", "max_attempts", "max_crashes", "priority", "timeout", "expires", "lock", "lock_slots",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands; times are aware, `now` is the database's.

    `outcome` is the state of the latest tick's task (None: it had none), `message` why an attempt of it failed.
    `timing` None: the row cannot be read (somebody wrote into it by hand), and `message` says why.
    """

    id: int
    project: str
    name: str
    timing: Timing | None
    catch_up: str
    task: dict[str, Any]
    run_id: int
    paused: bool
    next_at: datetime
    last_at: datetime | None
    now: datetime
    outcome: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did: "made", "changed", or "kept" when the same schedule was there already."""

    id: int
    what: Literal["made", "changed", "kept"]
    next_at: datetime


async def add(connection: asyncpg.Connection[Any], new: NewSchedule) -> Added:
    """Adds a schedule, or changes the one of that name and project; call it inside a transaction.

    The same definition again is left alone, with its next tick. Changed times begin anew from now on; a changed task or
    catch-up rule holds from the next tick on. Raises `UsageError` U330 to U335.
    """
    every = None if new.every is None else seconds(new.every)
    timing = Timing(new.cron, every, new.timezone)
    task = _checked(new)
    now = await connection.fetchval(SQL["clock"])
    next_at = timing.following(now)
    run_id = await standing_run(connection, RUN, new.project)
    row = (new.cron, every, new.timezone, new.catch_up)
    made = await connection.fetchval(SQL["create"], new.project, new.name, *row, run_id, task, next_at)
    if made is not None:
        await _tell(connection, "changed", new.name, run_id, what="added")
        return Added(made, "made", next_at)
    found = await connection.fetchrow(SQL["lock_named"], new.project, new.name)
    if found is None:  # removed between our two statements: its name is free now
        return await add(connection, new)
    same_times = (found["cron"], found["every"], found["timezone"]) == row[:3]
    if same_times and (found["catch_up"], found["task"]) == (new.catch_up, task):
        return Added(found["id"], "kept", found["next_at"])
    next_at = found["next_at"] if same_times else next_at
    await connection.execute(SQL["change"], found["id"], *row, task, next_at)
    await _tell(connection, "changed", new.name, run_id, what="changed")
    return Added(found["id"], "changed", next_at)


async def pause(connection: asyncpg.Connection[Any], name: str, project: str = "default") -> bool:
    """No more ticks until `resume`; False when it was paused already. Call it inside a transaction. Raises U336."""
    return await _set_paused(connection, name, project, True)


async def resume(connection: asyncpg.Connection[Any], name: str, project: str = "default") -> bool:
    """Goes on; ticks of the pause count as missed (the catch-up rule). False when it was not paused. Raises U336."""
    return await _set_paused(connection, name, project, False)


async def remove(connection: asyncpg.Connection[Any], name: str, project: str = "default") -> None:
    """Takes a schedule away; tasks that it has made stay. Call it inside a transaction. Raises U336."""
    run_id = await connection.fetchval(SQL["remove"], project, name)
    if run_id is None:
        raise await _unknown(connection, name, project)
    await _tell(connection, "changed", name, run_id, what="removed")


async def listed(connection: asyncpg.Connection[Any], project: str = "default") -> list[Schedule]:
    """All schedules of a project by name, with what became of their latest tick."""
    rows = await connection.fetch(SQL["listed"], project)
    ticked = [row for row in rows if row["last_at"] is not None]
    keys = [tick_key(row["id"], row["last_at"]) for row in ticked]
    ends = await connection.fetch(SQL["outcomes"], [row["run_id"] for row in ticked], keys)
    by_key = {bytes(end["key"]): end for end in ends}
    return [_schedule(row, by_key.get(tick_key(row["id"], row["last_at"] or row["now"]))) for row in rows]


async def find(connection: asyncpg.Connection[Any], name: str, project: str = "default") -> Schedule:
    """The schedule of that name, without its outcome. Raises `UsageError` U336 with near names."""
    row = await connection.fetchrow(SQL["find"], project, name)
    if row is None:
        raise await _unknown(connection, name, project)
    return _schedule(row, None)


def upcoming(schedule: Schedule, n: int) -> list[datetime]:
    """The next `n` ticks in UTC; the first is late when nobody has run since. Raises U334 for one without timing."""
    if schedule.timing is None:
        raise UsageError(
            f'schedule "{schedule.name}" cannot be read: {schedule.message}', code="U334",
            hint="add it again with its right times, then resume it",
        )  # fmt: skip
    ticks = [schedule.next_at]
    while len(ticks) < n:
        ticks.append(schedule.timing.following(ticks[-1], ticks[-1]))
    return ticks[:n]


async def due(connection: asyncpg.Connection[Any]) -> int:
    """A duty of upkeep: makes the tasks of every tick that has come; returns how many.

    One schedule, one transaction: what is wrong with one does not hold up others. One that cannot be read is paused.
    """
    made = 0
    for row in await connection.fetch(SQL["due"]):
        try:
            async with connection.transaction():
                made += await _fire(connection, row["id"])
        except UsageError as error:
            await _break(connection, row["id"], error)
    if made:
        await queue.hint(connection)
    return made


def tick_key(schedule_id: int, tick: datetime) -> bytes:
    """What makes a tick's task unique (32 bytes)."""
    return hashlib.sha256(f"schedule:{schedule_id}:{tick.astimezone(UTC).isoformat()}".encode()).digest()


async def _fire(connection: asyncpg.Connection[Any], schedule_id: int) -> int:
    row = await connection.fetchrow(SQL["lock_due"], schedule_id)
    if row is None:  # another process is at it, or has just done it
        return 0
    timing, now = _timing(row), row["now"]
    if row["next_at"] > now:
        log.warning('schedule "%s": the clock of the database was set back; ticks begin anew from now', row["name"])
        await connection.execute(SQL["advance"], row["id"], timing.following(now, row["next_at"]), now, None)
        return 0
    ticks, next_at = timing.passed(row["next_at"], now, 2 * MOST)
    chosen, missed = choose(row["catch_up"], ticks, now)
    run_id = await standing_run(connection, RUN, row["project"])  # the former one may have been cancelled
    made = await _make(connection, row, run_id, chosen, missed)
    await connection.execute(SQL["advance"], row["id"], next_at, ticks[-1], run_id)
    if made:
        tick = timing.local(chosen[-1])
        await _tell(connection, "fired", row["name"], run_id, tick=tick, tasks=made, missed=missed)
    elif missed:
        await _tell(connection, "missed", row["name"], run_id, missed=missed)
    if missed:
        log.warning('schedule "%s": %d ticks were missed and get no task (%s)', row["name"], missed, row["catch_up"])
    return made


def choose(catch_up: str, ticks: Sequence[datetime], now: datetime) -> tuple[list[datetime], int]:
    """The catch-up rule: which of the ticks up to `now` (oldest first) get a task, and how many do not."""
    if catch_up == "last":
        chosen = list(ticks[-1:])
    elif catch_up == "all":
        chosen = list(ticks[-MOST:])
    else:
        chosen = [tick for tick in ticks if now - tick < GRACE][-MOST:]
    return chosen, min(len(ticks) - len(chosen), MOST)


async def _make(
    connection: asyncpg.Connection[Any], row: asyncpg.Record, run_id: int, ticks: Sequence[datetime], missed: int
) -> int:
    """Enqueues a task for each tick that has none; the first says how many were missed before it."""
    (definition, payload), timing = _task(row), _timing(row)
    keys = [tick_key(row["id"], tick) for tick in ticks]
    known = {bytes(found["key"]) for found in await connection.fetch(SQL["known_keys"], run_id, keys)}
    tasks = []
    for place, (tick, key) in enumerate(zip(ticks, keys, strict=True)):
        about = {"name": row["name"], "tick": timing.local(tick), "missed": 0 if place else missed}
        text = json.dumps({**payload, RESERVED: about}, ensure_ascii=False)
        if key not in known:
            tasks.append(NewTask(run_id, **{**definition, "payload": text}, key=key))
    await queue.enqueue(connection, tasks)
    return len(tasks)


async def _break(connection: asyncpg.Connection[Any], schedule_id: int, error: UsageError) -> None:
    """Paused instead of tried again four times a second; nothing is lost, for `resume` makes up for missed ticks."""
    async with connection.transaction():
        row = await connection.fetchrow(SQL["break"], schedule_id)
        if row is not None:
            log.error('schedule "%s" is paused: %s', row["name"], error.message)
            await _tell(connection, "broken", row["name"], row["run_id"], message=error.message)


def _checked(new: NewSchedule) -> str:
    """The task of a schedule as JSON text, if it may stand in a row."""
    if not new.name or len(new.name) > LONGEST_NAME or not new.name.isprintable():
        raise UsageError(f"{new.name!r} is no name for a schedule", code="U334", hint="1 to 200 printable characters")
    if new.catch_up not in RULES:
        hint = f"one of: {', '.join(RULES)}"
        raise UsageError(f'there is no catch-up rule "{new.catch_up}"', code="U335", hint=hint)
    definition = {field: getattr(new, field) for field in TASK_FIELDS}
    _payload(new.name, definition)
    return json.dumps(definition, ensure_ascii=False)


def _payload(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    """The payload of a task that the queue will take. Raises `UsageError` U334, or U400 from the queue itself."""
    small = [definition[field] for field in ("max_attempts", "max_crashes", "priority", "lock_slots")]
    if any(type(number) is not int or abs(number) > SMALL for number in small):
        raise UsageError(f'schedule "{name}": attempts, crashes, priority and slots are small integers', code="U334")
    NewTask(0, **definition).check()
    payload = json.loads(definition["payload"])
    if not isinstance(payload, dict) or RESERVED in payload:
        raise UsageError(
            f'schedule "{name}": the payload has to be a JSON object without the key "{RESERVED}"', code="U334",
            hint='for example {"folder": "docs"}; the tick is put under that key',
        )  # fmt: skip
    return payload


def _task(row: asyncpg.Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task of a row and its payload. Raises `UsageError` when somebody has written nonsense into it by hand."""
    try:
        definition = {field: json.loads(row["task"])[field] for field in TASK_FIELDS}
        return definition, _payload(row["name"], definition)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(f'schedule "{row["name"]}": its task cannot be read: {error!r}', code="U334") from None


def _timing(row: asyncpg.Record) -> Timing:
    return Timing(row["cron"], row["every"], row["timezone"])


def _schedule(row: asyncpg.Record, end: asyncpg.Record | None) -> Schedule:
    state, message = (end["state"], end["message"]) if end is not None else (None, None)
    timing: Timing | None = None
    task: dict[str, Any] = {}
    try:
        timing, (task, _) = _timing(row), _task(row)
    except UsageError as error:
        timing, message = None, error.message
    return Schedule(
        row["id"], row["project"], row["name"], timing, row["catch_up"], task, row["run_id"], row["paused"],
        row["next_at"], row["last_at"], row["now"], state, message,
    )  # fmt: skip


async def _set_paused(connection: asyncpg.Connection[Any], name: str, project: str, paused: bool) -> bool:
    run_id = await connection.fetchval(SQL["set_paused"], project, name, paused)
    if run_id is None:
        await find(connection, name, project)  # raises for one that does not exist
        return False
    await _tell(connection, "changed", name, run_id, what="paused" if paused else "resumed")
    return True


async def _unknown(connection: asyncpg.Connection[Any], name: str, project: str) -> UsageError:
    names = [row["name"] for row in await connection.fetch(SQL["names"], project)]
    near = difflib.get_close_matches(name, names, 1)
    return UsageError(
        f'there is no schedule "{name}"', code="U336",
        hint=f'did you mean "{near[0]}"?' if near else "list them: gristmill schedule list",
    )  # fmt: skip


async def _tell(connection: asyncpg.Connection[Any], event: str, name: str, run_id: int, **body: Any) -> None:
    await workflow.tell(connection, f"schedule.{event}", run_id, {"schedule": name, **body})
