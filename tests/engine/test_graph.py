"""Steps that branch, merge and gather; rounds of a barrier; runs that wait for runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.engine import workflow
from gristmill.engine.queue import Claimer
from gristmill.engine.workflow import INPUTS, NewRun, Step, lines_of
from gristmill.errors import UsageError, WorkflowError
from tests.engine.story import Story, begin

Begin = Callable[..., Awaitable[Story]]
# 0 splits into 1 and 2, which merge in 3.
DIAMOND = (Step("a", "bare"), Step("b", "bare"), Step("c", "bare", after=(0,)), Step("d", "bare", after=(1, 2)))
# A barrier in the middle, and steps behind it.
MIDDLE = (Step("a", "bare"), Step("gather", "bare", barrier=True), Step("c", "bare"), Step("d", "bare"))
# A branch with a barrier, and one without, that come together.
MIXED = (
    Step("a", "bare"), Step("gather", "bare", barrier=True), Step("plain", "bare", after=(0,)),
    Step("both", "bare", after=(1, 2)),
)  # fmt: skip
# Each item gathers what its own tasks have made, and something follows.
PER_ITEM = (Step("a", "bare"), Step("b", "bare"), Step("gather", "bare", per_item=True), Step("d", "bare"))


@pytest.fixture
def run_of(pool: asyncpg.Pool[Any], claimer: Claimer) -> Begin:
    async def made(steps: tuple[Step, ...], **more: Any) -> Story:
        return await begin(pool, claimer, steps, **more)

    return made


def test_lines_are_the_steps_right_before_and_all_before() -> None:
    assert lines_of(DIAMOND) == ([[-1], [0], [0], [1, 2]], [[], [0], [0], [0, 1, 2]])


@pytest.mark.parametrize("after", [(1,), (2,), (), (-2,)])
def test_a_step_follows_only_what_comes_before_it(after: tuple[int, ...]) -> None:
    with pytest.raises(WorkflowError, match=r"b.*come before it"):
        lines_of((Step("a", "bare"), Step("b", "bare", after=after)))


async def test_one_output_goes_to_every_follower_and_a_merge_takes_all_of_them(run_of: Begin) -> None:
    story = await run_of(DIAMOND)
    await story.inputs("x", "y")
    assert await story.work() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert await story.advance() == "completed"
    assert await story.outcomes() == {"x": "completed", "y": "completed"}
    await story.counters_agree()


async def test_several_steps_may_begin_with_the_inputs(run_of: Begin) -> None:
    story = await run_of((Step("a", "bare"), Step("b", "bare", after=(INPUTS,))))
    await story.inputs("x")
    assert await story.work() == [0, 1]
    assert await story.advance() == "completed"


async def test_steps_behind_a_barrier_work_also_over_retries_and_new_inputs(run_of: Begin) -> None:
    story = await run_of(MIDDLE)
    await story.inputs("x")
    assert await story.through(broken=(3,)) == "failed"
    async with transaction(story.pool) as connection:
        assert await workflow.retry(connection, story.id) == 1
    assert await story.through() == "completed"
    await story.inputs("x", "y")
    assert await story.work() == [0]
    assert await story.advance() == "barrier"
    assert await story.work() == [1, 2, 3]
    assert await story.advance() == "completed"
    await story.counters_agree()


async def test_what_an_earlier_round_left_behind_is_cancelled_before_the_barrier_runs_again(run_of: Begin) -> None:
    story = await run_of(MIDDLE)
    await story.inputs("x")
    await story.work()
    assert await story.advance() == "barrier"
    (gather,) = await story.claim()
    await story.settle(story.pool, gather)
    (follower,) = await story.claim()
    assert follower.step == 2
    await story.inputs("x", "y")  # while that follower runs
    (task,) = await story.claim()
    await story.settle(story.pool, task)
    assert await story.advance() == "barrier"
    assert await story.tasks(2) == ["cancelled"]
    assert await story.work() == [1, 2, 3]
    assert await story.advance() == "completed"
    await story.counters_agree()


async def test_failures_behind_a_barrier_go_when_it_runs_again(run_of: Begin) -> None:
    story = await run_of(MIDDLE)
    await story.inputs("x")
    assert await story.through(broken=(2,)) == "failed"
    await story.inputs("x", "y")
    assert await story.through() == "completed"
    assert await story.tasks(2) == ["cancelled", "completed"]


async def test_a_new_round_leaves_other_branches_alone(run_of: Begin) -> None:
    story = await run_of(MIXED)
    await story.inputs("x")
    assert await story.work(broken=(3,)) == [0, 2, 3]
    assert await story.advance() == "barrier"
    assert await story.work(broken=(3,)) == [1, 3]
    assert await story.tasks(3) == ["failed", "failed"]
    await story.inputs("x", "y")
    assert await story.work() == [0, 2, 3]
    assert await story.advance() == "barrier"
    assert await story.tasks(3) == ["failed", "cancelled", "completed"]  # the first came by the branch without barrier


async def test_a_follower_that_comes_in_while_we_look_delays_the_new_round(run_of: Begin) -> None:
    story = await run_of(MIDDLE)
    await story.inputs("x")
    await story.work()
    await story.advance()
    (gather,) = await story.claim()
    await story.settle(story.pool, gather)
    (follower,) = await story.claim()
    await story.inputs("x", "y")
    (task,) = await story.claim()
    await story.settle(story.pool, task)
    async with transaction(story.pool) as connection:
        await story.settle(connection, follower)
        advancing = asyncio.create_task(story.advance())
        await asyncio.sleep(0.3)  # it waits for that follower, or has not begun: both are right
    assert await advancing in (None, "barrier")
    for _ in range(3):
        await story.advance()
    assert await story.tasks(3) == ["cancelled"]
    assert await story.through() == "completed"


async def test_each_item_gathers_as_soon_as_nothing_of_it_is_open_before(run_of: Begin) -> None:
    story = await run_of(PER_ITEM)
    await story.inputs("x", "y")
    (one, two) = await story.claim()
    await story.settle(story.pool, one)
    await story.finish_items()
    assert await story.tasks(2) == []
    (second,) = await story.claim()
    await story.settle(story.pool, second)
    await asyncio.gather(*(story.finish_items() for _ in range(4)))
    assert await story.tasks(2) == ["available"]  # of the first item; the second one still runs
    await story.settle(story.pool, two)
    for _ in range(3):
        await story.work()
        await story.advance()
    assert await story.tasks(2) == await story.tasks(3) == ["completed", "completed"]
    assert (await story.row())[0] == "completed"
    await story.counters_agree()


async def test_a_run_does_not_end_before_an_item_has_gathered(run_of: Begin) -> None:
    story = await run_of(PER_ITEM[:3])
    await story.inputs("x")
    assert await story.work() == [0, 1]
    assert await story.advance() is None
    assert await story.work() == [2]
    assert await story.advance() == "completed"


async def test_a_barrier_over_the_run_waits_for_those_of_the_items(run_of: Begin) -> None:
    story = await run_of((*PER_ITEM, Step("all", "bare", barrier=True)))
    await story.inputs("x", "y")
    seen = [(await story.work(), await story.advance()) for _ in range(4)]
    assert [entry for entry in seen if entry[0]] == [
        ([0, 0, 1, 1], None), ([2, 2, 3, 3], "barrier"), ([4], "completed"),
    ]  # fmt: skip


async def test_a_retry_makes_an_item_gather_again_without_what_it_had_made(run_of: Begin) -> None:
    story = await run_of(PER_ITEM)
    await story.inputs("x")
    assert await story.work(broken=(1,)) == [0, 1]
    await story.finish_items()
    assert await story.work(broken=(3,)) == [2, 3]  # gathers what there is
    assert await story.advance() == "failed"
    assert await story.retry() == 2
    assert await story.work() == [1, 3]
    await story.finish_items()
    assert await story.tasks(3) == ["completed"]
    assert await story.work() == [2, 3]
    assert await story.advance() == "completed"
    assert await story.events("item.failed", "item.end") == ["item.failed", "item.end"]


async def test_a_barrier_of_an_item_that_failed_is_made_again(run_of: Begin) -> None:
    story = await run_of(PER_ITEM)
    await story.inputs("x")
    assert await story.through(broken=(2,)) == "failed"
    assert await story.retry() == 1
    assert await story.through() == "completed"
    assert await story.tasks(2) == ["cancelled", "completed"]
    await story.counters_agree()


async def test_a_run_waits_for_others_and_begins_when_all_have_completed(run_of: Begin) -> None:
    first = await run_of((Step("a", "bare"),))
    second = await run_of((Step("a", "bare"),), after=(first.id,))
    third = await run_of((Step("a", "bare"),), after=(first.id, second.id))
    for story in (first, second, third):
        await story.inputs("x")
    assert await second.row() == ("waiting", 0)
    assert await second.events("run.") == []

    async def look() -> list[int]:
        async def once() -> int:
            async with first.pool.acquire() as connection:
                return await workflow.start_waiting(connection)

        return sorted(await asyncio.gather(*(once() for _ in range(4))))

    assert await look() == [0, 0, 0, 0]
    assert await first.through(broken=(0,)) == "failed"
    assert await look() == [0, 0, 0, 0]
    assert await first.retry() == 1
    assert await first.through() == "completed"
    assert await look() == [0, 0, 0, 1]
    assert await second.events("run.start") == ["run.start"]
    assert await third.row() == ("waiting", 0)
    assert await second.through() == "completed"
    assert await look() == [0, 0, 0, 1]
    assert await third.through() == "completed"
    assert await third.events("run.") == ["run.start", "run.end"]


async def test_a_waiting_run_may_be_paused_and_waits_again_after_that(run_of: Begin) -> None:
    first = await run_of((Step("a", "bare"),))
    second = await run_of((Step("a", "bare"),), after=(first.id,))
    await first.inputs()
    await second.inputs("x")
    assert await second.pool.fetchval(workflow.SQL["pause"], second.id) == second.id
    assert await first.through() == "completed"
    async with second.pool.acquire() as connection:
        assert await workflow.start_waiting(connection) == 0
        assert await connection.fetchval(workflow.SQL["resume"], second.id) == second.id
        assert await second.row() == ("waiting", 0)
        assert await workflow.start_waiting(connection) == 1
    assert await second.through() == "completed"


async def test_a_waiting_run_may_be_cancelled(run_of: Begin) -> None:
    first = await run_of((Step("a", "bare"),))
    second = await run_of((Step("a", "bare"),), after=(first.id,))
    await second.inputs("x")
    async with transaction(second.pool) as connection:
        assert await workflow.cancel(connection, second.id) == 1
    assert (await second.row())[0] == "cancelled"


async def test_a_run_cannot_wait_for_one_that_does_not_exist(run_of: Begin, pool: asyncpg.Pool[Any]) -> None:
    with pytest.raises(UsageError, match="no run 4711") as raised:
        await run_of((Step("a", "bare"),), after=(4711,))
    assert raised.value.code == "U320"
    assert await pool.fetchval("select count(*) from run") == 0


async def test_a_stored_run_of_the_version_before_has_no_direct_lines(run_of: Begin) -> None:
    story = await run_of((Step("a", "bare"), Step("gather", "bare", barrier=True)))
    await story.pool.execute("update step set after = '{}'")
    await story.inputs("x")
    assert await story.work() == [0]
    assert await story.advance() == "barrier"
    assert await story.through() == "completed"


async def test_those_who_look_at_once_open_a_barrier_once_and_take_nothing_from_each_other(run_of: Begin) -> None:
    for _ in range(10):
        story = await run_of(MIDDLE)
        await story.inputs("x")
        await story.work()
        came = await asyncio.gather(*(story.advance() for _ in range(8)))
        assert sorted(came, key=str) == [None] * 7 + ["barrier"]
        assert await story.tasks(1) == ["available"]


def test_events_of_a_new_run_are_those_of_its_items() -> None:
    assert NewRun("n", "w", (Step("a", "bare"),), {}).detail == 1
