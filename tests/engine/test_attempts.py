"""What a worker does with an attempt that takes too long, was cancelled, or will not end; real worker processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from gristmill.engine import locks, queue
from gristmill.engine.queue import Failure, NewTask
from gristmill.engine.retry import Policy, Rule
from gristmill.errors import Busy, InputError
from tests.engine.conftest import Enqueue, Processes

Watching = Callable[..., Awaitable[Any]]
STATE = "select state from task where id = $1"


async def test_an_attempt_that_exceeds_its_timeout_fails_and_is_tried_again(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    processes.start()
    (task,) = await enqueue({"do": "sleep", "seconds": 60}, timeout=0.3, max_attempts=2)
    await watching("select state = 'failed' from task where id = $1", task)
    codes = await pool.fetch("select code from attempt where task_id = $1", task)
    assert [row["code"] for row in codes] == ["T310", "T310"]


async def test_a_deadline_ends_a_running_attempt_for_good(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    processes.start()
    (task,) = await enqueue({"do": "sleep", "seconds": 60}, expires=1.0)
    await watching("select state = 'failed' from task where id = $1", task)
    assert await pool.fetchval("select code from attempt where task_id = $1", task) == "T311"


async def test_what_has_not_begun_by_its_deadline_fails(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    (task,) = await enqueue({}, expires=0.2, delay=3600.0)
    processes.start()
    await watching("select state = 'failed' from task where id = $1", task)
    assert await pool.fetchval("select code from attempt where task_id = $1", task) == "T311"


async def test_cancelling_a_task_ends_its_operator_within_a_beat_and_frees_the_slot(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    processes.start(pools={"*": 1})
    (long,) = await enqueue({"do": "sleep", "seconds": 600})
    await watching("select state = 'running' from task where id = $1", long)
    (following,) = await enqueue({})
    async with pool.acquire() as connection, connection.transaction():
        assert await queue.cancel(connection, task_ids=[long]) == [long]
    await queue.hint(pool, "cancel")
    await watching("select state = 'completed' from task where id = $1", following, limit=10)
    assert await pool.fetchval(STATE, long) == "cancelled"
    assert "its claim is gone" in processes.text()


async def test_an_operator_that_ignores_its_cancellation_loses_its_slot(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    processes.start(pools={"*": 1})
    (stubborn,) = await enqueue({"do": "stubborn"}, timeout=0.2, max_attempts=1)
    await watching("select state = 'running' from task where id = $1", stubborn)
    (following,) = await enqueue({})
    await watching("select state = 'failed' from task where id = $1", stubborn, limit=20)
    await watching("select state = 'completed' from task where id = $1", following, limit=10)
    assert "does not end although it was cancelled (timeout)" in processes.text()


async def test_a_paused_worker_claims_nothing_until_it_may_go_on(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    processes.start()
    worker = await watching("select id from worker where state = 'alive' and postmaster_started is not null")
    assert await pool.fetchval(queue.SQL["order_worker"], worker, "paused", ["alive"], "pause", "me") == worker
    before = await pool.fetchval("select lease_until from worker where id = $1", worker)
    (task,) = await enqueue({})
    await watching("select lease_until > $2 from worker where id = $1", worker, before)  # it beats on
    assert await pool.fetchval(STATE, task) == "available"
    assert await pool.fetchval(queue.SQL["order_worker"], worker, "alive", ["paused"], "resume", "me") == worker
    await watching("select state = 'completed' from task where id = $1", task)


async def test_a_pool_with_a_limit_over_the_fleet_never_runs_more_on_any_number_of_workers(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Watching
) -> None:
    await pool.execute("insert into pool (name, slots) values ('*', 2)")
    for _ in range(3):
        processes.start()
    tasks = await enqueue(*[{"do": "sleep", "seconds": 0.1}] * 12)
    most = 0
    while await pool.fetchval("select count(*) from task where state <> 'completed' and id = any ($1)", tasks):
        most = max(most, await pool.fetchval("select count(*) from task where state = 'running'"))
    assert most == 2


async def test_a_paused_pool_gives_nothing_away(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await pool.execute("insert into pool (name, paused) values ('*', true)")
    await enqueue({})
    assert await queue.claim(pool, claimer, {"*": 1}, ["bare"]) == []
    await pool.execute("update pool set paused = false")
    assert len(await queue.claim(pool, claimer, {"*": 1}, ["bare"])) == 1


async def test_a_task_runs_when_all_that_it_needs_has_completed(
    pool: asyncpg.Pool[Any], bare_run: int, enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    first, second = await enqueue({}, {})
    (last,) = await enqueue({}, after=(first, second))
    tasks = await queue.claim(pool, claimer, {"*": 10}, ["bare"])
    assert [task.id for task in tasks] == [first, second]
    for task, state in zip(tasks, ("waiting", "available"), strict=True):
        async with pool.acquire() as connection, connection.transaction():
            await queue.settle(connection, claimer, [(task, "ok")])
        assert await pool.fetchval(STATE, last) == state


async def test_what_needs_a_failed_task_is_cancelled_and_begins_again_with_it(
    pool: asyncpg.Pool[Any], bare_run: int, enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    (first,) = await enqueue({})
    (second,) = await enqueue({}, after=(first,))
    (third,) = await enqueue({}, after=(second,))
    (task,) = await queue.claim(pool, claimer, {"*": 10}, ["bare"])
    async with pool.acquire() as connection:
        async with connection.transaction():
            await queue.fail(connection, claimer, task, Failure("T200", "E", "m", retry=False))
        assert await queue.abandon(connection) == [second]
        assert await queue.abandon(connection) == [third]
        async with connection.transaction():
            assert await queue.reopen(connection, bare_run) == [first]
    assert [await pool.fetchval(STATE, number) for number in (first, second, third)] == [
        "available",
        "waiting",
        "waiting",
    ]


async def test_a_lock_lets_one_task_run_at_a_time_and_is_free_after_every_end(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await enqueue(*[{}] * 4, lock="db:store", max_attempts=9)
    held = "select count(*) from lock"

    async def claim_one() -> queue.Task:
        (task,) = await queue.claim(pool, claimer, {"*": 4}, ["bare"], locked=True)
        assert await pool.fetchval(held) == 1
        assert await queue.claim(pool, claimer, {"*": 4}, ["bare"], locked=True) == []
        (holder,) = await locks.holders(pool)
        assert holder.fence == task.fence
        return task

    async with pool.acquire() as connection:
        task = await claim_one()
        await queue.settle(connection, claimer, [(task, "ok")])
        assert await pool.fetchval(held) == 0
        task = await claim_one()
        await queue.release(connection, [(task, 0.0, "later")])
        assert await pool.fetchval(held) == 0
        task = await claim_one()
        await queue.fail(connection, claimer, task, Failure("T300", "E", "m", retry=True, backoff=0.0))
        assert await pool.fetchval(held) == 0
        task = await claim_one()
        await queue.crash(connection, claimer, task, "it fell")
        assert await pool.fetchval(held) == 0
        task = await claim_one()
        await queue.cancel(connection, task_ids=[task.id])
        assert await pool.fetchval(held) == 0
        await claim_one()
        await pool.execute("update worker set lease_until = '-infinity'")
        await queue.rescue(connection, 0)
        assert await pool.fetchval(held) == 0


async def test_a_lock_with_two_slots_lets_two_run(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await enqueue(*[{}] * 4, lock="card:gpu", lock_slots=2)
    assert len(await queue.claim(pool, claimer, {"*": 4}, ["bare"], locked=True)) == 2
    assert await queue.claim(pool, claimer, {"*": 4}, ["bare"], locked=True) == []


async def test_tasks_behind_a_lock_do_not_stand_in_the_way_of_others(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await enqueue(*[{}] * 300, lock="db:busy")
    (other,) = await enqueue({}, lock="db:quiet")
    (plain,) = await enqueue({})
    assert [task.id for task in await queue.claim(pool, claimer, {"*": 5}, ["bare"])] == [plain]
    locked = await queue.claim(pool, claimer, {"*": 5}, ["bare"], locked=True)
    assert {task.lock_key for task in locked} == {"db:busy", "db:quiet"}
    assert other in {task.id for task in locked}


async def test_two_tasks_with_one_key_are_one(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    async with pool.acquire() as connection:
        new = NewTask(bare_run, "bare", key=b"welcome")
        first, other, again = await queue.enqueue(connection, [new, NewTask(bare_run, "bare"), new])
        assert first == again != other
        assert await queue.enqueue(connection, [new]) == [first]


async def test_five_crashes_of_one_kind_within_a_minute_let_it_rest(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await enqueue(*[{}] * 7)
    async with pool.acquire() as connection:
        for _ in range(6):
            (task,) = await queue.claim(connection, claimer, {"*": 1}, ["bare"])
            await queue.crash(connection, claimer, task, "it fell")
    assert await queue.claim(pool, claimer, {"*": 1}, ["bare"]) == []
    await pool.execute("update breaker set open_until = clock_timestamp()")
    assert len(await queue.claim(pool, claimer, {"*": 1}, ["bare"])) == 1


async def test_crashes_three_days_apart_are_not_held_against_a_task_together(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    (number,) = await enqueue({})
    async with pool.acquire() as connection:
        for _ in range(4):
            (task,) = await queue.claim(connection, claimer, {"*": 1}, ["bare"])
            assert await queue.crash(connection, claimer, task, "it fell") == "available"
            await pool.execute("update task set crashed_at = crashed_at - interval '73 hours' where id = $1", number)


def test_the_class_of_an_error_decides_what_it_costs() -> None:
    rules = {"OSError": Rule("snooze", 30.0), "ValueError": Rule("fail"), "UnicodeError": Rule("retry", 5.0)}
    policy = Policy(rules=rules)
    quiet = policy.judge(ConnectionResetError("gone"))
    assert isinstance(quiet, Busy)
    assert quiet.delay == 30.0
    gone, again, ours = policy.judge(ValueError("x")), policy.judge(UnicodeError("x")), policy.judge(InputError("x"))
    assert isinstance(gone, Failure)
    assert isinstance(again, Failure)
    assert isinstance(ours, Failure)
    assert (gone.retry, again.retry, again.backoff, ours.retry) == (False, True, 5.0, False)
