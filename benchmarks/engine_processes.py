"""The worker processes of benchmarks/engine.py: `python -m benchmarks.engine_processes limit|gristmill URL ...`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg

HOLDS = '{"hold": true}'
LIMIT_TABLES = """
create table job (
    id bigint generated always as identity primary key,
    state smallint not null default 0,
    payload text not null default '{}',
    token uuid,
    result text,
    claimed_at timestamptz,
    ended_at timestamptz) with (fillfactor = 80);
create index job_waiting on job (id) where state = 0;
"""
LIMIT_CLAIM = """
with chosen as materialized (select id from job where state = 0 order by id limit $1 for update skip locked)
update job set state = 1, token = $2, claimed_at = clock_timestamp() from chosen where job.id = chosen.id
returning job.id, job.payload
"""
LIMIT_COMPLETE = """
update job set state = 2, result = given.result, ended_at = clock_timestamp()
from unnest($1::bigint[], $2::text[]) as given (id, result)
where job.id = given.id and job.state = 1 and job.token = $3
"""


def say(line: str) -> None:
    print(line, flush=True)


async def nothing(job: asyncpg.Record) -> str:
    return "{}"


async def limit(url: str) -> None:
    """Hand-written SQL: claim 100, complete 100, two commits. Says `ready`, waits for a line, says `drained`."""
    connection = await asyncpg.connect(url)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    first = True
    while True:
        token = uuid.uuid4()
        rows = await connection.fetch(LIMIT_CLAIM, 100, token)
        if not rows:
            break
        if first:
            say("first")
            first = False
        results = [await nothing(row) for row in rows]
        await connection.execute(LIMIT_COMPLETE, [row["id"] for row in rows], results, token)
    say("drained")
    await asyncio.to_thread(sys.stdin.readline)


async def gristmill(url: str, settings: str) -> None:
    """A worker with an operator that does nothing. Says `first` at its first task, and how late a stamped one came; or
    how many have `begun` that do not end."""
    from gristmill.engine.queue import NewTask, Task
    from gristmill.engine.retry import DEFAULT, Policy
    from gristmill.engine.worker import Outcome, Worker, WorkerSettings

    class Nothing:
        kinds: Sequence[str] = ("nothing",)
        isolates = False
        started = False
        held = 0

        async def policy(self, task: Task) -> Policy:
            return DEFAULT

        async def perform(self, task: Task, *, alone: bool = False) -> Outcome:
            if task.payload == HOLDS:
                self.held += 1
                say(f"begun {self.held} {time.monotonic()}")
                await asyncio.sleep(3600)
            if not self.started:
                self.started = True
                say("first")
            if task.payload != "{}":
                say(f"late {time.monotonic() - json.loads(task.payload)['sent']}")
            return Outcome()

        async def save(self, connection: Any, finished: Sequence[tuple[Task, Outcome]]) -> Sequence[NewTask]:
            return ()

    worker = Worker(url, Nothing(), WorkerSettings(**json.loads(settings)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


def main() -> None:
    name, *arguments = sys.argv[1:]
    asyncio.run(limit(*arguments) if name == "limit" else gristmill(*arguments))


if __name__ == "__main__":
    main()
