"""The queue: the only module that writes task state. Every finishing write names the token of its claim."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from gristmill.db.statements import statements
from gristmill.engine import processes

SQL = statements("queue")
WAKE_CHANNEL = "gristmill_wake"
LONGEST_DELAY = 86_400.0  # seconds; what asks for more, or for nonsense, is tried again the next day
LOCK_CLASS = 0x6772_6973  # first key of the advisory lock that a worker's liveness session holds; second key: worker id


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to enqueue. `payload` is JSON text of at most 256 KiB; `delay` is in seconds; lower `priority` first."""

    run_id: int
    kind: str
    pool: str = "*"
    payload: str = "{}"
    item_id: int | None = None
    step: int = 0
    delay: float = 0.0
    max_attempts: int = 5
    max_crashes: int = 3
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A claimed task. `token` is the right to finish it; `fence` grows with every claim of the whole database."""

    id: int
    run_id: int
    item_id: int | None
    step: int
    kind: str
    pool: str
    seq: int
    payload: str
    attempt: int
    failures: int
    crashes: int
    token: uuid.UUID
    fence: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `retry` False gives up at once; `backoff` and `longest` are seconds."""

    code: str
    error: str
    message: str
    retry: bool
    backoff: float = 1.0
    longest: float = 300.0

    @property
    def cause(self) -> bytes:
        """Failures with the same cause differ in numbers, quoted values and paths only (32 bytes)."""
        plain = re.sub(r"""\d+|"[^"]*"|'[^']*'|\S*/\S*""", "#", clean_text(self.message))
        return hashlib.sha256(f"{self.code}:{self.error}:{plain[:500]}".encode()).digest()


def clean_text(text: str, limit: int = 8000) -> str:
    """Text that PostgreSQL takes: no NUL, no lone surrogate, bounded."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")[:limit]


async def enqueue(connection: asyncpg.Connection[Any], tasks: Sequence[NewTask]) -> list[int]:
    """Makes tasks inside the caller's transaction and returns their ids."""
    if not tasks:
        return []
    rows = await connection.fetch(
        SQL["enqueue"],
        [t.run_id for t in tasks], [t.item_id for t in tasks], [t.step for t in tasks], [t.kind for t in tasks],
        [t.pool for t in tasks], [t.payload for t in tasks], [t.delay for t in tasks],
        [t.max_attempts for t in tasks], [t.max_crashes for t in tasks], [t.priority for t in tasks],
    )  # fmt: skip
    return [row["id"] for row in rows]


async def hint(connection: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> None:
    """Tells idle workers to look now. Call it after the commit, never inside a transaction, and not for every task:
    commits that carry a NOTIFY wait for each other (reliability, E2). A lost hint costs at most a poll."""
    await connection.execute(SQL["hint"])


@dataclass(frozen=True, slots=True)
class Claimer:
    """Who claims: the id and the nonce of a live worker row."""

    id: int
    nonce: uuid.UUID


async def claim(
    connection: asyncpg.Connection[Any], claimer: Claimer, wanted: dict[str, int], kinds: Sequence[str],
    *, low: dict[str, int] | None = None, suspects: bool = False, token: uuid.UUID | None = None,
) -> list[Task]:  # fmt: skip
    """Up to `wanted[pool]` tasks of each pool, in one round trip; nothing when the worker was buried.

    `low` skips what lies below that place in the order (a watermark, see `docs/decisions/0001-engine-tables.md`);
    `suspects` asks for tasks that have died with their process twice, and only for those. Who wants to give back what
    a claim took although its reply was lost names the `token` himself.
    """
    pools = list(wanted)
    rows = await connection.fetch(
        SQL["claim"], claimer.id, claimer.nonce, pools, [wanted[pool] for pool in pools],
        [(low or {}).get(pool, -1) for pool in pools], kinds, token or uuid.uuid4(), suspects,
    )  # fmt: skip
    return [Task(*row) for row in rows]


async def settle(
    connection: asyncpg.Connection[Any], claimer: Claimer, finished: Sequence[tuple[Task, str]]
) -> set[int]:
    """Finishes tasks with their outcome names; returns the ids that this call finished. The rest were lost or done."""
    finished = sorted(finished, key=lambda entry: entry[0].id)  # locks are taken in this order
    rows = await connection.fetch(
        SQL["settle"],
        [task.id for task, _ in finished], [task.token for task, _ in finished],
        [outcome for _, outcome in finished], claimer.id,
    )  # fmt: skip
    return {row["id"] for row in rows}


async def settled_by(connection: asyncpg.Connection[Any], tasks: Sequence[Task]) -> set[int]:
    """Which of these very claims are on record as completed: our own commit whose reply was lost."""
    rows = await connection.fetch(SQL["settled_by"], [task.id for task in tasks], [task.token for task in tasks])
    return {row["task_id"] for row in rows}


async def fail(connection: asyncpg.Connection[Any], claimer: Claimer, task: Task, failure: Failure) -> str | None:
    """Charges a failure; returns the state that follows, or None when the lease was lost."""
    state: str | None = await connection.fetchval(
        SQL["fail"], task.id, task.token, claimer.id, failure.retry, failure.backoff, failure.longest,
        failure.code, failure.error, clean_text(failure.message), failure.cause,
    )  # fmt: skip
    return state


async def release(connection: asyncpg.Connection[Any], back: Sequence[tuple[Task, float, str]]) -> set[int]:
    """Gives tasks back without charging anything: (task, delay in seconds, reason). Returns the ids it gave back."""
    back = sorted(back, key=lambda entry: entry[0].id)
    rows = await connection.fetch(
        SQL["release"], [task.id for task, _, _ in back], [task.token for task, _, _ in back],
        [delay if 0 <= delay <= LONGEST_DELAY else LONGEST_DELAY for _, delay, _ in back],
        [clean_text(reason, 200) for _, _, reason in back],
    )  # fmt: skip
    return {row["id"] for row in rows}


async def give_back(
    connection: asyncpg.Connection[Any], claimer: Claimer, reason: str, tokens: Sequence[uuid.UUID] | None = None
) -> list[int]:
    """Puts back, uncharged, what a worker holds under these tokens, or all that it holds; returns the ids.

    Must run inside a transaction: the worker's row is locked first, so that no claim of its is still on the way.
    """
    await connection.fetchval(SQL["lock_worker"], claimer.id)
    return [row["id"] for row in await connection.fetch(SQL["give_back"], claimer.id, tokens, reason)]


async def crash(connection: asyncpg.Connection[Any], claimer: Claimer, task: Task, story: str) -> str | None:
    """Charges a crash of the child process that ran this task alone; returns the state that follows."""
    state: str | None = await connection.fetchval(SQL["crash"], task.id, task.token, claimer.id, clean_text(story))
    return state


async def rescue(connection: asyncpg.Connection[Any], my_id: int, confirm: float = 0.5) -> list[int]:
    """Buries dead workers and puts their tasks in front of the queue; returns the ids of the buried.

    Three ways to know: the process is on this machine and has ended (certain, at once); its liveness lock has vanished
    (believed when seen twice, `confirm` seconds apart); its lease is over. A worker whose lock is still held, but whose
    lease is over, is stalled: it loses its tasks and no crash is charged.
    """
    buried = []
    machine = processes.machine()
    for row in await connection.fetch(SQL["suspects"], LOCK_CLASS, my_id, confirm, machine or "?"):
        ended = row["near"] and processes.ended(row["pid"], row["pid_started"])
        if not (ended or row["gone"] or row["expired"]):
            continue
        cause = "its process ended" if ended or row["gone"] else "its lease ran out"
        async with connection.transaction():
            marked = await connection.fetchval(SQL["mark_dead"], row["id"], cause, LOCK_CLASS, ended)
            if marked is None:
                continue
            charged = ended or not (row["expired"] and row["locked"])
            await connection.fetch(SQL["rescue"], row["id"], charged, cause)
            buried.append(marked)
    return buried


async def reopen(connection: asyncpg.Connection[Any], run_id: int, cause: bytes | None = None) -> list[int]:
    """Failed and quarantined tasks of a run begin anew; returns their ids.

    Broken barriers are among the ids; they are made again when the run's next epoch comes to them.
    """
    return [row["id"] for row in await connection.fetch(SQL["reopen"], run_id, cause)]


async def cancel_tasks(connection: asyncpg.Connection[Any], run_id: int) -> list[int]:
    """Cancels everything that is open in a run, running tasks too; returns the ids."""
    return await _until_none(connection, "left_to_cancel", "cancel_tasks", run_id)


async def withdraw(connection: asyncpg.Connection[Any], item_ids: Sequence[int]) -> list[int]:
    """Cancels what is open and what has failed of inputs that no longer count; returns the ids."""
    return await _until_none(connection, "left_to_withdraw", "withdraw", list(item_ids))


async def replace(connection: asyncpg.Connection[Any], run_id: int, step: int) -> list[int]:
    """Takes the failures of a barrier off the list because it begins anew; returns the ids."""
    return [row["id"] for row in await connection.fetch(SQL["replace"], run_id, step)]


async def _until_none(connection: asyncpg.Connection[Any], left: str, sql: str, argument: Any) -> list[int]:
    """Until nothing is left: a task that settles while we wait for its lock leaves followers behind, which only the
    next statement's snapshot can see."""
    found: list[int] = []
    while await connection.fetchval(SQL[left], argument):
        found += [row["id"] for row in await connection.fetch(SQL[sql], argument)]
    return found
