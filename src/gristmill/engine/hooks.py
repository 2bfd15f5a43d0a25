"""Hooks: a task for every event that somebody asked for. It is made in the transaction that numbers the event, so it is
made exactly once; it runs at least once, is retried like any task, and holds up nobody.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import events, queue, standing
from gristmill.engine.lock_keys import check_key
from gristmill.engine.queue import NewTask
from gristmill.errors import UsageError

SQL = statements("hooks")
ATTEMPTS = 20  # with the usual back-off (1, 2, 4 .. 300 s) about an hour: receivers are restarted, certificates run out
POOL = "notify"  # a slow receiver must not take the slots of other work
LONGEST_OPTIONS = 64 * 1024  # bytes of JSON
LONGEST_BODY = 128 * 1024  # characters of an event's body; a longer one is left out, so that the event is still told
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
log = logging.getLogger("gristmill.hooks")


@dataclass(frozen=True, slots=True)
class Hook:
    """`events` are names or patterns; tasks of `kind` in `pool` belong to the run `run_id`; `of_run` None: of all runs.

    `options` go to every task as they are. Some are ours: with "every" (seconds), events of the same name and run share
    one task for each such span of time, which runs at its end; with "lock" (and "lock_slots") a task runs only while it
    holds a slot of that lock, as any other task with a lock does.
    """

    id: int
    project: str
    name: str
    events: tuple[str, ...]
    of_run: int | None
    run_id: int
    kind: str
    pool: str
    options: dict[str, Any]
    created_at: datetime


async def add(
    connection: asyncpg.Connection[Any], name: str, on: Sequence[str], kind: str, *,
    options: Mapping[str, Any] | None = None, pool: str = POOL, project: str = "default", of_run: int | None = None,
) -> Hook:  # fmt: skip
    """Asks for a task of `kind` for every event that fits `on`, from now on. Call it inside a transaction.

    Raises `UsageError` U350 (no such event), U351 (name or options malformed), U352 (the name is taken), U451 (no such
    key of a lock).
    """
    patterns = events.check_patterns(on)
    text = _checked(name, dict(options or {}))
    run_id = await standing.standing_run(connection, f"hook:{name}", project, workflow_name=standing.HOOKS)
    made = await connection.fetchval(SQL["add_hook"], project, name, patterns, of_run, run_id, kind, pool, text)
    if made is None:
        raise UsageError(
            f'there is a hook "{name}" already', code="U352", hint=f"remove it first: gristmill hooks remove {name}",
            safe="it stays as it is",
        )  # fmt: skip
    return next(hook for hook in await listed(connection, project) if hook.id == made)


def _checked(name: str, options: dict[str, Any]) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f'"{name[:100]}" cannot be the name of a hook', code="U351",
            hint="letters, digits, dot, dash and underscore, at most 100, a letter or digit first",
        )  # fmt: skip
    try:
        text = json.dumps(options, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the options of a hook have to be JSON: {error}", code="U351") from None
    if len(text) > LONGEST_OPTIONS or "\\u0000" in text:
        raise UsageError(f"the options of a hook hold at most {LONGEST_OPTIONS} bytes and no NUL", code="U351")
    every = options.get("every", 0)
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every <= 86_400:
        raise UsageError('the option "every" is a number of seconds, 0 to 86400', code="U351")
    lock, slots = options.get("lock"), options.get("lock_slots", 1)
    if type(slots) is not int or not 1 <= slots <= 1000 or not isinstance(lock, str | None):
        raise UsageError('"lock" is the key of a lock, "lock_slots" a number from 1 to 1000', code="U351")
    if lock is not None:
        check_key(lock)
    return text


async def listed(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], project: str = "default"
) -> list[Hook]:  # fmt: skip
    """All hooks of a project by name."""
    return [
        Hook(
            row["id"], row["project"], row["name"], tuple(row["events"]), row["of_run"], row["run_id"], row["kind"],
            row["pool"], json.loads(row["options"]), row["created_at"],
        )
        for row in await connection.fetch(SQL["list_hooks"], project)
    ]  # fmt: skip


async def find(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], name: str, project: str = "default") -> Hook:
    """The hook of that name. Raises `UsageError` U353."""
    known = await listed(connection, project)
    for hook in known:
        if hook.name == name:
            return hook
    raise UsageError(
        f'there is no hook "{name}"', code="U353",
        hint=f"there are: {', '.join(hook.name for hook in known)}" if known else "add one: gristmill hooks add",
    )  # fmt: skip


async def remove(connection: asyncpg.Connection[Any], name: str, project: str = "default") -> int:
    """Takes a hook away and cancels what it still had to do; returns how many tasks that were. Call it inside a
    transaction. Raises `UsageError` U353."""
    await connection.execute(events.SQL["hold_fold"], events.FOLD_CLASS)  # no task of it can come in behind our back
    await find(connection, name, project)
    row = await connection.fetchrow(SQL["remove_hook"], project, name)
    cancelled = await queue.cancel(connection, run_id=row["run_id"])
    await connection.execute(SQL["end_standing"], row["run_id"])
    return len(cancelled)


async def number_events(connection: asyncpg.Connection[Any]) -> int:
    """Numbers up to 5,000 events and makes the tasks of the hooks that asked for them; returns how many tasks.

    Call it inside the folder's transaction. Nothing that a hook says or an event holds can stop the numbering.
    """
    rows = await connection.fetch(events.SQL["number_events"])
    tasks = list({(task.run_id, task.key): task for task in map(_task, rows)}.values())
    try:
        async with connection.transaction():
            return len(await queue.enqueue(connection, tasks))
    except UsageError:  # one of them: find out which, and tell the rest
        return sum([await _one(connection, row) for row in rows])


async def _one(connection: asyncpg.Connection[Any], row: Any) -> int:
    for body in (True, False):
        try:
            async with connection.transaction():
                return len(await queue.enqueue(connection, [_task(row, body=body)]))
        except UsageError as error:
            log.error("hook %s cannot be told of event %d: %s", row["hook"], row["seq"], error)
    return 0


def _task(row: Any, *, body: bool = True) -> NewTask:
    options: dict[str, Any] = json.loads(row["options"])
    fits = body and len(row["body"]) <= LONGEST_BODY
    event = {
        "seq": row["seq"], "name": row["name"], "run_id": row["run_id"], "item_id": row["item_id"],
        "task_id": row["task_id"], "worker_id": row["worker_id"], "at": row["at"].isoformat(),
        "body": json.loads(row["body"]) if fits else {"left_out": len(row["body"])},
    }  # fmt: skip
    payload = {"event": event, "options": options, "hook": {"id": row["hook_id"], "name": row["hook"]}}
    every, run_at = float(options.get("every") or 0), None
    sign = f"hook {row['hook_id']} event {row['seq']}"
    if every:
        # By the time of numbering, not of the event: a late commit must not find its span told already. The second more
        # is for the commit of what is being numbered now.
        span = int(row["numbered_at"].timestamp() // every)
        sign = f"hook {row['hook_id']} name {row['name']} run {row['run_id']} span {every} {span}"
        run_at = datetime.fromtimestamp((span + 1) * every, UTC) + timedelta(seconds=1)
    return NewTask(
        row["own"], row["kind"], row["pool"], json.dumps(payload), max_attempts=ATTEMPTS,
        key=hashlib.sha256(sign.encode()).digest(), run_at=run_at, lock=options.get("lock"),
        lock_slots=options.get("lock_slots", 1),
    )  # fmt: skip
