"""Events: the envelope, the catalogue of every name with its body, and reading them in order by cursor.

An event is appended to `event_inbox` in the transaction that makes it true (`workflow.tell`, or the SQL itself), and
`upkeep.fold` numbers it afterwards, in the order in which commits became visible. So who remembers the last `seq` that
he has seen misses nothing and sees nothing twice, whatever dies in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.errors import UsageError

SQL = statements("upkeep")
FOLD_CLASS = 0x6772_6966  # key of the advisory lock that whoever numbers events holds
PAGE = 500  # events that are read at once
_PATTERN = re.compile(r"\*|[a-z_]+(\.[a-z_]+)*(\.\*)?")


@dataclass(frozen=True, slots=True)
class Event:
    """A committed fact. `seq` grows with every event of the database; `at` is ISO 8601 with its offset (UTC)."""

    seq: int
    name: str
    run_id: int | None
    item_id: int | None
    task_id: int | None
    worker_id: int | None
    body: dict[str, Any]
    at: str

    @classmethod
    def from_row(cls, row: Any) -> Event:
        """From a row with these columns, `body` as JSON text."""
        return cls(
            row["seq"], row["name"], row["run_id"], row["item_id"], row["task_id"], row["worker_id"],
            json.loads(row["body"]), row["at"].isoformat(),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EventKind:
    """What an event means. `body` names the fields that are always there, `sometimes` those that may be.

    `ids` are the ids of the envelope that are always there. `detail` is the level of `run.detail` from which on a run
    tells it: 0 the run, 1 its items, 2 every task.
    """

    meaning: str
    body: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    detail: int = 0
    sometimes: tuple[str, ...] = ()


_RUN = ("run_id",)
_ITEM = ("run_id", "item_id")
_TASK = ("run_id", "task_id", "worker_id")
_WORKER = ("worker_id",)
_LOCK = ("key", "slot", "holder_kind", "holder", "since", "fence", "next_fence", "by", "reason")
CATALOGUE: MappingProxyType[str, EventKind] = MappingProxyType({
    "run.start": EventKind("a run was made, or one that waited for other runs begins", (), _RUN),
    "run.pause": EventKind("nothing more of the run is claimed", (), _RUN),
    "run.resume": EventKind("the run goes on", (), _RUN),
    "budget.spent": EventKind(
        "the next call of the run could have passed a [budget](../guides/costs.md) (`scope`: run, day or project), so"
        " the run is paused; amounts are text",
        ("scope", "cap", "spent", "currency", "next_call"), _RUN,
    ),
    "run.retry": EventKind("failed tasks begin anew, in a new epoch", ("tasks",), _RUN),
    "run.end": EventKind(
        "the run ended: completed, partial, failed or cancelled; once per epoch", ("state", "epoch"), _RUN
    ),
    "item.start": EventKind("the first task of an input was claimed", (), (*_ITEM, "task_id", "worker_id"), 1),
    "item.end": EventKind(
        "everything of an input has ended: completed or cancelled", ("name", "outcome", "epoch"), _ITEM, 1
    ),
    "item.failed": EventKind(
        "an input has ended with failures, or cannot be read (then with code and message)",
        ("name", "outcome", "epoch"), _ITEM, 1, ("code", "message"),
    ),
    "item.pause": EventKind("nothing more of an input is claimed", ("name",), _ITEM, 1),
    "item.resume": EventKind("an input goes on", ("name",), _ITEM, 1),
    "step.start": EventKind("an attempt at a task begins", ("step", "attempt"), _TASK, 2),
    "step.end": EventKind("a task was finished", ("step", "attempt", "outcome"), _TASK, 2),
    "step.failed": EventKind(
        "a task failed for good: its attempts are spent, or its deadline has passed (then without worker)",
        ("step", "code", "message"), ("run_id", "task_id"),
    ),
    "step.quarantined": EventKind("a task died with its process too often", ("step", "message"), _TASK),
    "worker.started": EventKind("a worker process began", ("name", "host", "pid"), _WORKER),
    "worker.pause": EventKind("a person (`by`) told a worker to claim nothing more", ("by",), _WORKER),
    "worker.resume": EventKind("a person told a paused worker to go on", ("by",), _WORKER),
    "worker.drain": EventKind("a person told a worker to finish what is under way and to end", ("by",), _WORKER),
    "worker.stopped": EventKind("a worker left in order", ("cause",), _WORKER),
    "worker.died": EventKind("a worker was buried and its tasks were handed on", ("cause", "tasks"), _WORKER),
    "crew.up": EventKind("a [supervisor](../guides/crew.md) began to look after a crew", ("crew", "host", "pid")),
    "crew.down": EventKind("a supervisor left in order, and all of its workers with it", ("crew", "pid", "cause")),
    "crew.restart": EventKind(
        "a process of a crew died and is started again in `delay` seconds, for the `restarts`th time in a row",
        ("crew", "place", "cause", "restarts", "delay"),
    ),
    "crew.blacklisted": EventKind(
        "a process of a crew died too often and is not started again until somebody resets it",
        ("crew", "place", "cause", "restarts", "delay"),
    ),
    "crew.refused": EventKind(
        "a worker was not started: the crew is full, or a model or its key is missing", ("crew", "place", "reason")
    ),
    "crew.order": EventKind(
        "a person (`by`) gave an order to a worker, or set how many of a kind there are (`count`)",
        ("crew", "place", "order", "by"), (), 0, ("count",),
    ),
    "schedule.fired": EventKind(
        "a tick of a [schedule](../guides/schedules.md) made its task (or several, after a time without workers)",
        ("schedule", "tick", "tasks", "missed"), _RUN,
    ),
    "schedule.missed": EventKind("ticks passed that get no task, by the catch-up rule", ("schedule", "missed"), _RUN),
    "schedule.changed": EventKind(
        "a schedule was added, changed, paused, resumed or removed (`what`)", ("schedule", "what"), _RUN
    ),
    "schedule.broken": EventKind("a schedule cannot be read and was paused", ("schedule", "message"), _RUN),
    "pool.changed": EventKind(
        "a person (`by`) changed a pool (`what`: limit, pause or resume); `slots` is its limit from then on",
        ("pool", "what", "slots", "by"),
    ),
    "limit.changed": EventKind(
        "a person or the settings (`by`) set or removed a [limit](../guides/quotas.md); null is not limited",
        ("limit", "requests_per_minute", "tokens_per_minute", "requests_per_day", "zone", "burst", "concurrency", "by"),
    ),
    "limit.spent": EventKind(
        "a provider's quota of the day, or an account, is used up (`why`); its tasks wait. Once, not for every task",
        ("limit", "why", "until"),
    ),
    "review.decided": EventKind(
        "a person (`reviewer`) decided about a [record](../guides/review.md); with `opinion` as the second one, with"
        " `disputed` otherwise than the first",
        ("record", "decision", "before", "after", "reviewer", "revision", "decision_id", "opinion", "disputed"),
    ),
    "review.undone": EventKind(
        "a person took a decision back",
        ("record", "decision", "before", "after", "reviewer", "revision", "decision_id"),
    ),
    "review.assigned": EventKind(
        "pieces were given to people (`pieces`: how many to whom), or taken from them (below 0)", ("pieces", "overlap"),
        _RUN,
    ),
    "lock.forced": EventKind("a person took a [lock](../concepts/locks.md) away from its holder", _LOCK),
})  # fmt: skip


def check_patterns(patterns: Sequence[str]) -> list[str]:
    """Names of events, or their beginning with a star ("run.end", "item.*", "*"), as given, each once.

    Raises `UsageError` U350 for none at all and for a pattern that fits no event of the catalogue.
    """
    import difflib

    if not patterns:
        raise UsageError("say which events: none was named", code="U350", hint='for example "run.end" or "item.*"')
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, name) for name in CATALOGUE):
            near = difflib.get_close_matches(pattern, CATALOGUE, 1)
            raise UsageError(
                f'no event is called "{pattern}"', code="U350",
                hint=f'did you mean "{near[0]}"?' if near else f"known: {', '.join(CATALOGUE)}",
            )  # fmt: skip
    return list(dict.fromkeys(patterns))


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern fits a name; the SQL of `number_events` and `events_after` says the same."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


async def after(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any], seq: int, *, run_id: int | None = None,
    names: Sequence[str] = ("*",), limit: int = PAGE,
) -> tuple[list[Event], int]:  # fmt: skip
    """Numbered events behind `seq`, in order, and the cursor for the next call.

    `run_id` limits them to one run and to what belongs to no run (workers); `names` are patterns. The cursor also
    steps over what did not fit, so that nobody reads that again and again.
    """
    head: int = await connection.fetchval(SQL["last_event"])  # first: what comes in later is for the next call
    rows = await connection.fetch(SQL["events_after"], seq, run_id, limit, list(names))
    found = [Event.from_row(row) for row in rows]
    if len(found) == limit:
        return found, found[-1].seq
    return found, max(seq, head, *(event.seq for event in found))


async def unnumbered(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> bool:
    """Whether events wait for their number: somebody should fold."""
    waiting: bool = await connection.fetchval(SQL["unnumbered"])
    return waiting
