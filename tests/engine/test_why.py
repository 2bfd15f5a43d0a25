"""Why a task waits: one reason for each, and the first that applies."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.db.statements import statements
from gristmill.engine import items, queue, workflow
from gristmill.engine.queue import Claimer, Failure, NewTask
from gristmill.engine.workflow import Step
from tests.engine.conftest import register
from tests.engine.story import Story, begin

SQL = statements("why")
CLOCK = r"\d\d:\d\d:\d\d UTC"
Begin = Callable[..., Awaitable[Story]]


@pytest.fixture
def run_of(pool: asyncpg.Pool[Any], claimer: Claimer) -> Begin:
    async def made(*names: str, steps: tuple[Step, ...] = (Step("a", "bare"),), **more: Any) -> Story:
        story = await begin(pool, claimer, steps, **more)
        await story.inputs(*(names or ("x",)))
        return story

    return made


async def reasons(story: Story, task_id: int | None = None) -> list[str]:
    return [row["reason"] for row in await story.pool.fetch(SQL["held_by"], story.id, task_id)]


async def reason(story: Story) -> str:
    """The only reason, the same for the run's only waiting task as for its group."""
    (of_group,) = await reasons(story)
    task_id = await story.pool.fetchval(
        "select id from task where run_id = $1 and state in ('waiting', 'available')", story.id
    )
    assert await reasons(story, task_id) == [of_group]
    return of_group


async def enqueue(story: Story, **more: Any) -> list[int]:
    async with transaction(story.pool) as connection:
        return await queue.enqueue(connection, [NewTask(story.id, "bare", **more)])


async def test_a_task_that_nothing_holds_is_about_to_be_claimed(run_of: Begin) -> None:
    assert await reason(await run_of()) == "about to be claimed"


async def test_a_paused_run_holds_its_tasks(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.fetchval(workflow.SQL["pause"], story.id)
    assert await reason(story) == "the run is paused"


async def test_a_run_that_waits_for_another_names_it_and_what_to_do(run_of: Begin) -> None:
    first = await run_of()
    second = await run_of(after=(first.id,))
    name = f"test-{first.id}"
    assert await reason(second) == f"waits for run {name}, which is running"
    await first.through(broken=(0,))
    assert await reason(second) == f"waits for run {name}, which ended failed: gristmill retry {name}"
    await first.retry()
    async with transaction(first.pool) as connection:
        await workflow.cancel(connection, first.id)
    assert await reason(second) == f"waits for run {name}, which was cancelled: gristmill stop --cancel {second.id}"
    await first.pool.execute("delete from run where id = $1", first.id)
    assert await reason(second) == f"waits for run {first.id}, which is no more: gristmill stop --cancel {second.id}"


async def test_a_paused_item_holds_its_tasks_and_no_others(run_of: Begin) -> None:
    story = await run_of("x", "y")
    number = await story.pool.fetchval("select id from item where name = 'x'")
    async with transaction(story.pool) as connection:
        await items.pause_items(connection, [number])
    assert sorted(await reasons(story)) == ["about to be claimed", "the item is paused"]


async def test_a_task_waits_for_the_one_that_it_needs(run_of: Begin) -> None:
    story = await run_of()
    (first,) = [task.id for task in await story.claim()]
    await enqueue(story, after=(first,))
    assert await reason(story) == f"waits for task {first} (running)"
    (other,) = await enqueue(story)
    await enqueue(story, after=(other,))
    assert sorted(await reasons(story)) == ["about to be claimed", f"waits for task {first} (running) and others"]


async def test_a_barrier_tells_what_is_open_before_it(run_of: Begin) -> None:
    story = await run_of("x", "y", steps=(Step("a", "bare"), Step("gather", "bare", barrier=True)))
    rows = [tuple(row) for row in await story.pool.fetch(SQL["held_by"], story.id, None)]
    assert rows == [("a", "about to be claimed", 2), ("gather", 'waits for 2 open tasks of step "a"', 0)]
    await story.work()
    assert await reasons(story) == []


async def test_a_paused_pool_holds_its_tasks(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute("insert into pool (name, paused) values ('*', true)")
    assert await reason(story) == 'pool "*" is paused'


async def test_a_failed_task_waits_for_its_back_off(run_of: Begin) -> None:
    story = await run_of()
    (task,) = await story.claim()
    async with transaction(story.pool) as connection:
        await queue.fail(connection, story.claimer, task, Failure("T300", "E", "no answer", True, backoff=60.0))
    assert re.fullmatch(rf"back-off: no answer \(until {CLOCK}\)", await reason(story))


async def test_a_scheduled_task_waits_for_its_time(run_of: Begin) -> None:
    story = await run_of()
    await story.work()
    await enqueue(story, delay=3600.0)
    assert re.fullmatch(rf"scheduled \(until {CLOCK}\)", await reason(story))
    await enqueue(story, delay=3 * 86400.0)
    (later,) = await reasons(story)
    assert re.fullmatch(r"scheduled \(until [\d :-]+ UTC\) and later", later)


async def test_a_task_that_was_put_off_says_why(run_of: Begin) -> None:
    story = await run_of()
    (task,) = await story.claim()
    await queue.release(story.pool, [(task, 60.0, "the quota of the test")])
    assert re.fullmatch(rf"the quota of the test \(until {CLOCK}\)", await reason(story))


async def test_a_lock_names_its_holder(run_of: Begin) -> None:
    story = await run_of()
    await story.work()
    await enqueue(story, lock="name:index")
    assert await reason(story) == "about to be claimed"
    take = (
        "insert into lock (key, slot, holder_kind, holder, token, fence, expires_at)"
        " values ('name:index', 1, 'cli', 'somebody', $1, 1, clock_timestamp() + $2::float8 * interval '1 s')"
    )
    await story.pool.execute(take, uuid.uuid4(), 60.0)
    assert re.fullmatch(rf'lock "name:index" held by somebody since {CLOCK}', await reason(story))
    await story.pool.execute("delete from lock")
    await story.pool.execute(take, uuid.uuid4(), -1.0)
    assert await reason(story) == "about to be claimed"


async def test_an_operator_that_rests_says_until_when(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute(
        "insert into breaker (kind, crashes, since, open_until)"
        " values ('bare', 6, clock_timestamp(), clock_timestamp() + interval '1 min')"
    )
    assert re.fullmatch(rf'operator "bare" rests until {CLOCK} after 6 crashes', await reason(story))
    await story.pool.execute("update breaker set open_until = clock_timestamp() - interval '1 s'")
    assert await reason(story) == "about to be claimed"


async def test_a_pool_that_is_full_over_the_whole_fleet_says_how_full(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute("insert into pool (name, slots) values ('*', 1)")
    assert await reason(story) == "about to be claimed"
    async with transaction(story.pool) as connection:
        assert len(await queue.claim(connection, story.claimer, {"*": 5}, ["bare"], limited=True)) == 1
    await enqueue(story)
    assert await reason(story) == 'the limit of pool "*" over all workers (1 of 1 run)'


async def test_a_pool_without_workers_is_named(run_of: Begin) -> None:
    story = await run_of(steps=(Step("a", "bare", "graphics"),))
    assert await reason(story) == 'no worker for pool "graphics"'


async def test_an_operator_that_no_worker_knows_is_named(run_of: Begin) -> None:
    story = await run_of(steps=(Step("a", "unheard_of"),))
    assert await reason(story) == 'no worker knows operator "unheard_of"'


async def test_paused_workers_are_named(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute("update worker set state = 'paused'")
    assert await reason(story) == 'all workers of pool "*" are paused'
    await register(story.pool)
    assert await reason(story) == "about to be claimed"


async def test_workers_whose_lease_is_over_do_not_count(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s'")
    assert await reason(story) == 'no worker for pool "*"'


async def test_a_suspect_runs_alone(run_of: Begin) -> None:
    story = await run_of()
    await story.pool.execute("update task set crashes = 2")
    assert await reason(story) == "it has died with its process twice and runs alone: about to be claimed"


async def test_full_workers_are_named(run_of: Begin) -> None:
    story = await run_of("1", "2", "3", "4")
    assert len(await queue.claim(story.pool, story.claimer, {"*": 3}, ["bare"])) == 3
    assert await reason(story) == 'no free slot in pool "*"'


async def test_every_waiting_task_is_counted_once(run_of: Begin) -> None:
    story = await run_of(*(f"{n}" for n in range(40)))
    claimed = await queue.claim(story.pool, story.claimer, {"*": 10}, ["bare"])
    for place, task in enumerate(claimed[:6]):
        await queue.release(story.pool, [(task, 60.0 * place, f"reason {place}")])
    await enqueue(story, after=(claimed[-1].id,))
    rows = await story.pool.fetch(SQL["held_by"], story.id, None)
    waiting = "select count(*) from task where state in ('waiting', 'available')"
    assert sum(row["tasks"] for row in rows) == await story.pool.fetchval(waiting)


async def test_a_task_that_does_not_wait_has_a_story(run_of: Begin) -> None:
    story = await run_of()
    (task,) = await story.claim()
    assert await reasons(story, task.id) == []
    row = await story.pool.fetchrow(SQL["task_story"], task.id)
    assert (row["state"], row["step"], row["item"], row["worker"]) == ("running", "a", "x", "by hand")
