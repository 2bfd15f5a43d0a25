"""Runs: how they begin, open barriers, end once in each epoch, and begin again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.engine import workflow
from gristmill.engine.queue import Claimer
from gristmill.engine.workflow import Step
from tests.engine.story import Story, begin
from tests.engine.test_queue import until_blocked

PLAIN = (Step("first", "bare"), Step("second", "bare"))
GATHERED = (Step("first", "bare"), Step("gather", "bare", barrier=True))


@pytest.fixture
async def make(pool: asyncpg.Pool[Any], claimer: Claimer) -> Any:
    async def made(steps: tuple[Step, ...] = PLAIN, key: bytes | None = None, fresh: bool = False) -> Story:
        return await begin(pool, claimer, steps, key=key, fresh=fresh)

    return made


async def test_a_run_without_inputs_ends_when_it_is_sealed(make: Any) -> None:
    story = await make()
    assert await story.advance() is None
    await story.inputs()
    assert await story.advance() == "completed"


async def test_a_run_that_may_get_more_inputs_does_not_end(make: Any) -> None:
    story = await make()
    await story.add("a")
    assert await story.work() == [0, 1]
    assert await story.advance() is None
    await story.inputs("a")
    assert await story.advance() == "completed"


async def test_many_that_look_at_once_end_a_run_once(make: Any) -> None:
    story = await make()
    await story.inputs("a", "b")
    await story.work()
    ends = await asyncio.gather(*(story.advance() for _ in range(6)))
    assert sorted(ends, key=str) == [None] * 5 + ["completed"]
    assert await story.ends() == ["completed"]
    await story.counters_agree()


async def test_a_run_does_not_end_while_the_last_task_is_on_its_way(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    (task,) = await story.claim()
    assert await story.advance() is None
    async with transaction(story.pool) as connection:
        await story.settle(connection, task)
        assert await story.advance() is None  # neither the end of the task nor its follower is committed
    assert await story.advance() is None
    assert await story.through() == "completed"


@pytest.mark.parametrize(("broken", "state"), [((), "completed"), ((1,), "failed"), ((0,), "failed")])
async def test_a_run_is_what_became_of_its_tasks(make: Any, broken: Sequence[int], state: str) -> None:
    story = await make()
    await story.inputs("a", "b")
    assert await story.through(broken=broken) == state


async def test_a_run_in_which_some_pieces_failed_is_partial_and_a_retry_completes_it(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    assert await story.through() == "completed"
    await story.inputs("a", "b")
    assert await story.through(broken=(1,)) == "partial"
    assert await story.retry() == 1
    assert await story.row() == ("running", 3)
    assert await story.through() == "completed"
    assert await story.ends() == ["completed", "partial", "completed"]
    await story.counters_agree()


async def test_a_retry_with_nothing_to_retry_leaves_the_run_ended(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    await story.through()
    assert await story.retry() == 0
    assert await story.row() == ("completed", 1)


async def test_an_input_that_cannot_be_read_is_not_passed_over_even_if_everything_had_ended(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    assert await story.through() == "completed"
    await story.inputs("a", unreadable=["b"])
    assert await story.through() == "partial"
    await story.inputs("a", unreadable=["b"])
    assert await story.row() == ("partial", 2)


async def test_a_barrier_begins_once_and_only_after_everything_before_it(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a", "b")
    (one, two) = await story.claim()
    await story.settle(story.pool, one)
    assert await story.advance() is None
    await story.settle(story.pool, two)
    came = await asyncio.gather(*(story.advance() for _ in range(6)))
    assert sorted(came, key=str) == [None] * 5 + ["barrier"]
    assert await story.work() == [1]
    assert await story.advance() == "completed"
    await story.counters_agree()


async def test_a_barrier_also_begins_when_everything_before_it_failed(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a")
    assert await story.work(broken=(0,)) == [0]
    assert await story.advance() == "barrier"
    await story.work()
    assert await story.advance() == "failed"


async def test_new_input_makes_the_barrier_run_again_in_a_new_epoch(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a")
    await story.through()
    await story.inputs("a", "b")
    assert await story.row() == ("running", 2)
    assert await story.work() == [0]
    assert await story.advance() == "barrier"
    assert await story.work() == [1]
    assert await story.advance() == "completed"
    assert await story.ends() == ["completed"] * 2


async def test_input_that_comes_while_the_barrier_runs_makes_another_one_after_it(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a")
    await story.work()
    assert await story.advance() == "barrier"
    (barrier,) = await story.claim()
    await story.inputs("a", "b")
    (task,) = await story.claim()
    await story.settle(story.pool, task)
    assert await story.advance() is None  # one at a time
    await story.settle(story.pool, barrier)
    assert await story.advance() == "barrier"
    assert await story.through() == "completed"
    assert await story.ends() == ["completed"]


async def test_taking_an_input_away_makes_the_barrier_run_again(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a", "b")
    await story.through()
    assert await story.inputs("a") == ["b"]
    assert await story.advance() == "barrier"
    assert await story.through() == "completed"


async def test_a_failed_barrier_is_made_anew_once_and_waits_for_what_is_retried_with_it(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a", "b")
    assert await story.through(broken=(0, 1)) == "failed"
    assert await story.retry() == 3
    tasks = await story.claim()
    assert [task.step for task in tasks] == [0, 0]  # the barrier does not begin before what it waits for
    for task in tasks:
        await story.settle(story.pool, task)
    assert await story.advance() == "barrier"
    assert await story.work() == [1]
    assert await story.advance() == "completed"
    await story.counters_agree()


async def test_a_barrier_that_fails_again_and_again_leaves_one_failure(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a")
    assert await story.through(broken=(1,)) == "partial"
    for _ in range(3):
        assert await story.retry() == 1
        assert await story.through(broken=(1,)) == "partial"
    assert await story.retry() == 1
    assert await story.through() == "completed"
    await story.counters_agree()


async def test_a_failed_barrier_is_forgotten_when_it_succeeds_over_new_inputs(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a")
    assert await story.through(broken=(1,)) == "partial"
    await story.inputs("a", "b")
    assert await story.through() == "completed"


async def test_what_failed_of_an_input_that_changed_is_no_failure_any_more(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    assert await story.through(broken=(0,)) == "failed"
    assert await story.inputs("a'") == ["a"]
    assert await story.through() == "completed"
    assert await story.pool.fetchval("select state from item where name = 'a'") == "superseded"


async def test_an_input_that_comes_back_is_worked_on_again(make: Any) -> None:
    story = await make(GATHERED)
    await story.inputs("a", "b")
    await story.inputs("a")  # before anything was done
    assert await story.through() == "completed"
    await story.inputs("a", "b")
    assert await story.work() == [0]
    assert await story.advance() == "barrier"
    assert await story.through() == "completed"
    await story.counters_agree()


async def test_cancelling_also_stops_what_a_task_leaves_behind_that_ends_at_this_moment(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    (task,) = await story.claim()

    async def cancel() -> int:
        async with transaction(story.pool) as connection:
            return await workflow.cancel(connection, story.id)

    async with transaction(story.pool) as connection:
        await story.settle(connection, task)
        cancelling = asyncio.create_task(cancel())
        await until_blocked(story.pool)
    assert await cancelling == 1
    assert await story.row() == ("cancelled", 1)
    states = await story.pool.fetch("select state from task order by id")
    assert [row["state"] for row in states] == ["completed", "cancelled"]
    assert await story.claim() == []
    await story.counters_agree()


async def test_taking_an_input_away_also_stops_what_its_last_task_leaves_behind(make: Any) -> None:
    story = await make()
    await story.inputs("a", "b")
    tasks = await story.claim()
    async with transaction(story.pool) as connection:
        await story.settle(connection, tasks[0])
        removing = asyncio.create_task(story.inputs("b"))
        await until_blocked(story.pool)
    assert await removing == ["a"]
    await story.settle(story.pool, tasks[1])
    assert await story.work() == [1]
    assert await story.advance() == "completed"


async def test_retries_and_changed_inputs_at_the_same_time_do_not_block_each_other(make: Any) -> None:
    story = await make()
    names = [f"{number:03}" for number in range(60)]
    await story.inputs(*names)

    async def retry() -> None:
        async with transaction(story.pool) as connection:
            await workflow.retry(connection, story.id)

    for kept in (50, 40, 30, 20, 10):
        await story.work(broken=(0,))
        await asyncio.gather(story.inputs(*names[:kept]), retry(), story.advance(), retry())


async def test_a_paused_run_neither_works_nor_ends_until_it_is_resumed(make: Any) -> None:
    story = await make()
    await story.inputs("a")
    (task,) = await story.claim()
    assert await story.pool.fetchval(workflow.SQL["pause"], story.id) == story.id
    await story.settle(story.pool, task)
    assert await story.work() == []
    assert await story.advance() is None
    assert await story.pool.fetchval(workflow.SQL["resume"], story.id) == story.id
    assert await story.through() == "completed"


async def test_the_same_key_finds_the_same_run(make: Any) -> None:
    first = await make(key=b"k" * 32)
    assert (await make(key=b"k" * 32)).id == first.id


@pytest.mark.parametrize("fresh", [True, False])
async def test_a_new_run_takes_over_the_key_of_one_that_was_cancelled_or_is_not_wanted(make: Any, fresh: bool) -> None:
    first = await make(key=b"k" * 32)
    if not fresh:
        async with transaction(first.pool) as connection:
            await workflow.cancel(connection, first.id)
    second = await make(key=b"k" * 32, fresh=fresh)
    assert second.id != first.id
    assert (await make(key=b"k" * 32)).id == second.id
    listed = await first.pool.fetch(workflow.SQL["list_runs"], "default", 10, None, None)
    assert [row["id"] for row in listed] == [second.id, first.id]


async def test_a_run_knows_its_inputs_before_it_is_sealed(make: Any) -> None:
    story = await make()
    assert json.loads((await story.pool.fetchrow(workflow.SQL["run_row"], story.id))["inputs"]) == ["folder"]
