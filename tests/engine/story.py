"""A run and a worker that is moved by hand: what the engine does, without operators, records or processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from gristmill.db.database import transaction
from gristmill.engine import queue, workflow
from gristmill.engine.queue import Claimer, Failure, NewTask
from gristmill.engine.workflow import NewItem, NewRun, Step

BROKEN = Failure("T200", "InputError", "never", retry=False)


async def begin(
    pool: asyncpg.Pool[Any], claimer: Claimer, steps: tuple[Step, ...], *, fresh: bool = False, **more: Any
) -> Story:
    """Makes a run of these steps; `more` as for `NewRun`."""
    async with transaction(pool) as connection:
        new = NewRun("test", "test", steps, {}, inputs=("folder",), **more)
        run_id, _ = await workflow.find_or_create(connection, new, fresh=fresh)
    return Story(pool, claimer, run_id, steps)


class Story:
    """One run and a worker that is moved by hand."""

    def __init__(self, pool: asyncpg.Pool[Any], claimer: Claimer, run_id: int, steps: Sequence[Step]) -> None:
        self.pool = pool
        self.claimer = claimer
        self.id = run_id
        self.steps = steps

    async def add(self, *names: str, code: str | None = None) -> list[int]:
        """Adds inputs without sealing; the name stands for the content."""
        items = [NewItem(hashlib.sha256(n.encode()).digest(), n, n.rstrip("'"), code, code and "why") for n in names]
        async with transaction(self.pool) as connection:
            return list((await workflow.add_items(connection, self.id, items)).values())

    async def inputs(self, *names: str, unreadable: Sequence[str] = ()) -> list[str]:
        """The inputs are these and no others, as `gristmill run` sees them; returns what no longer counts."""
        kept = await self.add(*names) if names else []
        kept += await self.add(*unreadable, code="F101") if unreadable else []
        uris = [name.rstrip("'") for name in (*names, *unreadable)]
        async with transaction(self.pool) as connection:
            return await workflow.seal(connection, self.id, ["folder"], uris, kept)

    async def claim(self) -> list[queue.Task]:
        return await queue.claim(self.pool, self.claimer, {"*": 100}, ["bare"])

    async def settle(self, connection: Any, task: queue.Task) -> None:
        """Finishes a task, and enqueues a task of every step that follows it and is no barrier."""
        assert await queue.settle(connection, self.claimer, [(task, "ok")]) == {task.id}
        place = json.loads(task.payload).get("place", [])
        place = [-1 - task.step] if self.steps[task.step].barrier or self.steps[task.step].per_item else place
        following = [
            NewTask(self.id, "bare", payload=json.dumps({"place": [*place, 0]}), item_id=task.item_id, step=number)
            for number, step in enumerate(self.steps)
            if task.step in ((number - 1,) if step.after is None else step.after)
            and not step.barrier
            and not step.per_item
        ]
        await queue.enqueue(connection, following)
        if task.item_id is not None:
            await workflow.check_items(connection, [task.item_id])

    async def work(self, *, broken: Sequence[int] = ()) -> list[int]:
        """Claims everything there is until nothing is left; tasks of the steps in `broken` fail. Returns the steps."""
        seen = []
        while tasks := await self.claim():
            for task in tasks:
                seen.append(task.step)
                async with transaction(self.pool) as connection:
                    if task.step in broken:
                        await queue.fail(connection, self.claimer, task, BROKEN)
                    else:
                        await self.settle(connection, task)
        return sorted(seen)

    async def advance(self) -> str | None:
        async with self.pool.acquire() as connection:
            return await workflow.advance(connection, self.id)

    async def through(self, *, broken: Sequence[int] = ()) -> str:
        """Works and advances until the run has ended; returns its state."""
        for _ in range(20):
            await self.work(broken=broken)
            if (came := await self.advance()) in workflow.ENDED:
                return str(came)
        raise AssertionError("the run does not end")

    async def retry(self) -> int:
        async with transaction(self.pool) as connection:
            return await workflow.retry(connection, self.id)

    async def row(self) -> tuple[str, int]:
        return tuple(await self.pool.fetchrow("select state, epoch from run where id = $1", self.id))

    async def ends(self) -> list[str]:
        rows = await self.pool.fetch("select body from event_inbox where name = 'run.end' order by id")
        return [json.loads(row["body"])["state"] for row in rows]

    async def counters_agree(self) -> None:
        """The deltas add up to the states of the tasks."""
        counted = await self.pool.fetch("select step, state, count(*) as n from task group by 1, 2")
        states = tuple(sorted((row["step"], row["state"], row["n"]) for row in counted))
        names = ["available", "running", "completed", "failed", "cancelled", "quarantined"]
        summed = await self.pool.fetch(
            "select step, name, sum(n)::int as n from counter_delta where name = any ($1) group by 1, 2"
            " having sum(n) <> 0", names,
        )  # fmt: skip
        assert tuple(sorted((row["step"], row["name"], row["n"]) for row in summed)) == states

    async def events(self, *beginnings: str) -> list[str]:
        """Names of the events told so far that begin with one of these, numbered ones first."""
        rows = await self.pool.fetch(
            "select name from (select seq, 0::bigint as id, name, run_id from event union all"
            " select null, id, name, run_id from event_inbox) e where run_id = $1 order by seq nulls last, id", self.id,
        )  # fmt: skip
        return [row["name"] for row in rows if row["name"].startswith(beginnings)]

    async def outcomes(self) -> dict[str, str | None]:
        rows = await self.pool.fetch("select name, outcome from item where run_id = $1 order by id", self.id)
        return {row["name"]: row["outcome"] for row in rows}

    async def tasks(self, step: int) -> list[str]:
        """States of the tasks of a step, in the order in which they were made."""
        rows = await self.pool.fetch(
            "select state from task where run_id = $1 and step = $2 order by id", self.id, step
        )
        return [row["state"] for row in rows]

    async def finish_items(self) -> int:
        async with self.pool.acquire() as connection:
            return await workflow.finish_items(connection)
