"""What the soak writes down: one line of JSON for each thing an actor does, before it does it.

All processes append to one file. A line is one write with O_APPEND, so a process that is killed leaves whole lines and
nothing is buffered in it. What the rows of the database say afterwards is not enough: a write that should have been
refused makes the row look as if it had been right.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

Line = dict[str, Any]
Row = dict[str, Any]

TABLES = {
    "tasks": "select id, run_id, kind, state, payload, attempt, lock_key, lock_slots from task",
    "results": "select id, task_id, token::text, fence, worker_id, pid from chaos_result order by id",
    "attempts": """select task_id, attempt, token::text, worker_id, outcome, code,
        extract(epoch from started_at)::float8 as started, extract(epoch from ended_at)::float8 as ended
        from attempt""",
    "runs": """select id, state, sealed, epoch, extract(epoch from ended_at)::float8 as ended,
        extract(epoch from last_task)::float8 as last_task
        from run left join (select run_id as id, max(ended_at) as last_task from task group by run_id) as ended
            using (id)""",
    "locks": "select key, slot, task_id from lock",
    "counters": """select run_id, name, sum(n)::bigint as n
        from (table counter union all table counter_delta) as c group by run_id, name""",
}
RESULT_TABLE = """
create table chaos_result (id bigint generated always as identity, task_id bigint not null, token uuid not null,
    fence bigint not null, worker_id bigint not null, pid integer not null, body bigint not null)
"""  # no unique key on purpose: a result that is recorded twice has to show


class Pen:
    """Appends lines to a history file. `who` stands in each of them."""

    def __init__(self, path: str | Path, **who: Any) -> None:
        self.descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.who = {"pid": os.getpid(), **who}

    def write(self, what: str, **more: Any) -> None:
        """One line, on its way to the file when this returns. `at` is the time of this machine, as the server's is."""
        line = {"what": what, "at": round(time.time(), 4), **self.who, **more}
        os.write(self.descriptor, json.dumps(line).encode() + b"\n")


class Tail:
    """Reads a history while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def new(self) -> Iterator[Line]:
        """The whole lines since the last call."""
        parts = (self._rest + self._file.read()).split(b"\n")
        self._rest = parts.pop()
        for part in parts:
            yield json.loads(part)


@dataclass
class History:
    """The lines of all actors, and the tables as they are when everything is over. Times are seconds since 1970."""

    lines: list[Line] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    results: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    locks: list[Row] = field(default_factory=list)
    counters: list[Row] = field(default_factory=list)

    def of(self, *whats: str) -> list[Line]:
        """The lines that say one of these, in the order in which they were written."""
        return [line for line in self.lines if line["what"] in whats]


async def read(path: Path, pool: asyncpg.Pool[Any]) -> History:
    """The whole history. The tables are read first, in one snapshot: what is in a row stands in a line, too."""
    history = History()
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("set local statement_timeout = 0")  # an hour's tables, on a busy machine
        for name, sql in TABLES.items():
            rows: Sequence[asyncpg.Record] = await connection.fetch(sql)
            setattr(history, name, [dict(row) for row in rows])
    history.lines = await asyncio.to_thread(lambda: list(Tail(path).new()))
    for task in history.tasks:
        task["wish"] = json.loads(task.pop("payload"))
    return history
