"""The statements of the queue, one by one, on a real server."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg

from gristmill.engine import processes, queue
from gristmill.engine.queue import Claimer, Failure
from tests.engine.conftest import Enqueue, register

TIMEOUT = Failure("T300", "TransientError", "no answer after 12 s from /api/7", retry=True, backoff=0.0)


async def state_of(pool: asyncpg.Pool[Any], task_id: int) -> str:
    return str(await pool.fetchval("select state from task where id = $1", task_id))


async def claim(pool: asyncpg.Pool[Any], claimer: Claimer, n: int = 10, **more: Any) -> list[queue.Task]:
    return await queue.claim(pool, claimer, {"*": n}, ["bare"], **more)


async def test_a_claim_takes_at_most_what_was_asked_for(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue(*[{}] * 50)
    assert len(await claim(pool, claimer, 3)) == 3
    assert await pool.fetchval("select count(*) from task where state = 'running'") == 3


async def test_two_workers_never_claim_the_same_task(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    ids = await enqueue(*[{}] * 60)
    other = await register(pool)
    batches = await asyncio.gather(*(claim(pool, who, 10) for who in (claimer, other) * 3))
    taken = [task.id for batch in batches for task in batch]
    assert len(taken) == len(set(taken))
    while more := await claim(pool, claimer, 50):
        taken += [task.id for task in more]
    assert sorted(taken) == sorted(ids)


async def test_a_buried_worker_claims_nothing(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    await pool.execute("update worker set state = 'dead' where id = $1", claimer.id)
    assert await claim(pool, claimer) == []


async def test_a_worker_whose_lease_is_over_claims_nothing(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    assert await claim(pool, claimer) == []


async def test_a_wrong_nonce_claims_nothing(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    assert await claim(pool, Claimer(claimer.id, uuid4())) == []


async def test_an_operator_that_this_process_does_not_know_is_left_alone(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({})
    assert await queue.claim(pool, claimer, {"*": 5}, ["another"]) == []
    assert len(await claim(pool, claimer)) == 1


async def test_pools_are_claimed_from_separately(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, {}, {}, pool="parse")
    await enqueue({}, {})
    tasks = await queue.claim(pool, claimer, {"parse": 1, "*": 5}, ["bare"])
    assert sorted(task.pool for task in tasks) == ["*", "*", "parse"]


async def test_lower_priority_numbers_go_first(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    (late,) = await enqueue({}, priority=5)
    (soon,) = await enqueue({}, priority=-5)
    assert [task.id for task in await claim(pool, claimer, 1)] == [soon]
    assert [task.id for task in await claim(pool, claimer, 1)] == [late]


async def test_a_task_with_a_later_time_waits(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, delay=60.0)
    assert await claim(pool, claimer) == []


async def test_a_paused_run_is_not_claimed_from(pool: Any, claimer: Claimer, enqueue: Enqueue, bare_run: int) -> None:
    await enqueue({})
    await pool.execute("update run set state = 'paused' where id = $1", bare_run)
    assert await claim(pool, claimer) == []


async def test_the_watermark_skips_what_lies_below_it(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, {})
    first = (await claim(pool, claimer, 1))[0]
    assert await claim(pool, claimer, low={"*": first.seq + 1}) == []
    assert len(await claim(pool, claimer, low={"*": first.seq})) == 1


async def test_settling_with_the_token_completes_once(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    (task,) = await claim(pool, claimer)
    assert await queue.settle(pool, claimer, [(task, "ok")]) == {task.id}
    assert await queue.settle(pool, claimer, [(task, "ok")]) == set()
    assert await queue.settled_by(pool, [task]) == {task.id}
    assert await state_of(pool, task.id) == "completed"


async def test_settling_with_another_token_does_nothing(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    (task,) = await claim(pool, claimer)
    stale = task._replace(token=uuid4())
    assert await queue.settle(pool, claimer, [(stale, "ok")]) == set()
    assert await queue.fail(pool, claimer, stale, TIMEOUT) is None
    assert await queue.release(pool, [(stale, 0.0, "no")]) == set()
    assert await queue.crash(pool, claimer, stale, "no") is None
    assert await queue.settled_by(pool, [stale]) == set()
    assert await state_of(pool, task.id) == "running"


async def test_a_stale_worker_cannot_finish_over_a_fresh_claim(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    (stale,) = await claim(pool, claimer)
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    other = await register(pool)
    async with pool.acquire() as connection:
        assert list(await queue.rescue(connection, other.id)) == [claimer.id]
    (fresh,) = await claim(pool, other)
    assert fresh.id == stale.id
    assert fresh.fence > stale.fence
    assert await queue.settle(pool, claimer, [(stale, "ok")]) == set()
    assert await queue.settle(pool, other, [(fresh, "ok")]) == {fresh.id}


async def test_the_same_worker_with_an_older_claim_cannot_finish_either(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({})
    (older,) = await claim(pool, claimer)
    await queue.release(pool, [(older, 0.0, "again")])
    (newer,) = await claim(pool, claimer)
    assert newer.token != older.token
    assert await queue.settle(pool, claimer, [(older, "ok")]) == set()
    assert await queue.settle(pool, claimer, [(newer, "ok")]) == {newer.id}


async def test_a_failure_is_retried_until_the_attempts_are_spent(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, max_attempts=3)
    states = []
    for _ in range(3):
        (task,) = await claim(pool, claimer)
        states.append(await queue.fail(pool, claimer, task, TIMEOUT))
    assert states == ["available", "available", "failed"]
    rows = await pool.fetch("select outcome, code, message from attempt where task_id = $1", task.id)
    assert [tuple(row) for row in rows] == [("failed", "T300", TIMEOUT.message)] * 3


async def test_a_failure_without_retry_ends_the_task_at_once(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    (task,) = await claim(pool, claimer)
    assert await queue.fail(pool, claimer, task, replace(TIMEOUT, retry=False)) == "failed"


async def test_a_retry_waits_longer_every_time_and_never_beyond_the_longest(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({}, max_attempts=20)
    waits = []
    for _ in range(6):
        (task,) = await claim(pool, claimer)
        await queue.fail(pool, claimer, task, replace(TIMEOUT, backoff=10.0, longest=100.0))
        wait = await pool.fetchval("select extract(epoch from run_at - clock_timestamp())::float8 from task")
        waits.append(wait)
        await pool.execute("update task set run_at = clock_timestamp()")
    for number, wait in enumerate(waits):
        full = min(100.0, 10.0 * 2**number)
        assert full * 0.45 < wait <= full
    assert max(waits) <= 100.0


async def test_giving_back_charges_nothing_and_says_why(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, max_attempts=1)
    (task,) = await claim(pool, claimer)
    await queue.release(pool, [(task, 0.0, "the quota of the day")])
    row = await pool.fetchrow("select state, failures, crashes, held from task")
    assert tuple(row) == ("available", 0, 0, "the quota of the day")


async def test_a_crash_is_charged_and_the_third_one_quarantines(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    states = []
    for number in range(3):
        (task,) = await claim(pool, claimer, suspects=number == 2)
        states.append(await queue.crash(pool, claimer, task, "signal SIGSEGV"))
    assert states == ["available", "available", "quarantined"]


async def test_a_task_that_crashed_twice_is_only_given_to_who_asks_for_suspects(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({})
    await pool.execute("update task set crashes = 2")
    assert await claim(pool, claimer) == []
    assert len(await claim(pool, claimer, suspects=True)) == 1


async def test_rescued_tasks_go_in_front_of_everything(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue({})
    (task,) = await claim(pool, claimer)
    await enqueue(*[{}] * 20, priority=-100)
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    other = await register(pool)
    async with pool.acquire() as connection:
        await queue.rescue(connection, other.id)
    assert (await claim(pool, other, 1))[0].id == task.id


async def test_nobody_buries_himself(pool: Any, claimer: Claimer) -> None:
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, claimer.id) == {}


async def test_a_lease_absurdly_far_in_the_future_counts_as_over(pool: Any, claimer: Claimer) -> None:
    await pool.execute("update worker set lease_until = clock_timestamp() + interval '1 day' where id = $1", claimer.id)
    async with pool.acquire() as connection:
        assert list(await queue.rescue(connection, 0)) == [claimer.id]


async def test_two_rescuers_at_once_charge_one_crash(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    await enqueue(*[{}] * 10)
    await claim(pool, claimer)
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)

    async def rescue() -> list[int]:
        async with pool.acquire() as connection:
            return await queue.rescue(connection, 0)

    buried = await asyncio.gather(*(rescue() for _ in range(4)))
    assert [number for batch in buried for number in batch] == [claimer.id]
    assert await pool.fetchval("select max(crashes) from task") == 1


async def test_a_beat_does_not_revive_the_buried(pool: Any, claimer: Claimer) -> None:
    await pool.execute("update worker set state = 'dead' where id = $1", claimer.id)
    assert await pool.fetchval(queue.SQL["beat"], claimer.id, claimer.nonce) is None


async def test_a_claim_that_commits_while_its_worker_is_being_buried_is_rescued(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({})
    other = await register(pool)
    async with pool.acquire() as claiming, pool.acquire() as burying:
        transaction = claiming.transaction()
        await transaction.start()
        (task,) = await queue.claim(claiming, claimer, {"*": 1}, ["bare"])
        await burying.execute("update worker set lease_until = lease_until where id = $1", other.id)
        # The lease runs out while the claim is still open; the burial must wait for the claim's row lock, then see it.
        async with pool.acquire() as suspecting:
            marking = asyncio.create_task(
                suspecting.execute(
                    "update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id
                )
            )
            await until_blocked(pool)
            await transaction.commit()
            await marking
        assert list(await queue.rescue(burying, other.id)) == [claimer.id]
    assert await state_of(pool, task.id) == "available"


async def until_blocked(pool: asyncpg.Pool[Any]) -> None:
    async with asyncio.timeout(10):
        while not await pool.fetchval("select count(*) from pg_locks where not granted"):
            await asyncio.sleep(0.01)


async def test_cancelling_takes_the_token_of_running_tasks(
    pool: Any, claimer: Claimer, enqueue: Enqueue, bare_run: int
) -> None:
    await enqueue({}, {})
    (task,) = await claim(pool, claimer, 1)
    async with pool.acquire() as connection, connection.transaction():
        assert len(await queue.cancel(connection, run_id=bare_run)) == 2
    assert await queue.settle(pool, claimer, [(task, "ok")]) == set()
    assert await pool.fetchval("select count(*) from task where state = 'cancelled'") == 2


def test_failures_that_differ_in_numbers_and_paths_share_a_cause() -> None:
    other = replace(TIMEOUT, message="no answer after 99 s from /other/path")
    assert other.cause == TIMEOUT.cause
    assert replace(TIMEOUT, message="connection refused").cause != TIMEOUT.cause


async def test_counters_add_up_to_the_states_of_the_tasks(
    pool: Any, claimer: Claimer, enqueue: Enqueue, bare_run: int
) -> None:
    await enqueue(*[{}] * 9, max_attempts=1)
    tasks = await claim(pool, claimer, 8)
    await queue.settle(pool, claimer, [(task, "ok") for task in tasks[:3]])
    await queue.settle(pool, claimer, [(tasks[3], "empty")])
    await queue.fail(pool, claimer, tasks[4], TIMEOUT)
    await queue.release(pool, [(tasks[5], 0.0, "later")])
    await queue.crash(pool, claimer, tasks[6], "signal")
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    async with pool.acquire() as connection, connection.transaction():
        await queue.rescue(connection, 0)
        await queue.reopen(connection, bare_run)
        states = {row[0]: row[1] for row in await connection.fetch("select state, count(*) from task group by 1")}
        sums = {
            row[0]: row[1]
            for row in await connection.fetch(
                "select name, sum(n)::int from counter_delta group by 1 having sum(n) <> 0"
            )
        }
    assert {name: n for name, n in sums.items() if name in states} == states
    assert sums["empty"] == 1
    assert sums["crashes"] == 2


async def test_a_worker_on_this_machine_whose_process_has_ended_is_buried_at_once(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({})
    await claim(pool, claimer)
    process = await asyncio.create_subprocess_exec("sleep", "600")
    await pool.execute(
        "update worker set boot_id = $1, pid = $2, pid_started = $3", processes.machine(), process.pid,
        processes.started(process.pid),
    )  # fmt: skip
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, 0) == {}
        process.kill()
        await process.wait()
        assert list(await queue.rescue(connection, 0)) == [claimer.id]
    assert await pool.fetchval("select cause from worker") == "its process ended"
    assert await pool.fetchval("select crashes from task") == 1


async def test_another_process_that_has_got_the_same_pid_is_not_the_worker(pool: Any, claimer: Claimer) -> None:
    await pool.execute("update worker set boot_id = $1, pid = $2, pid_started = 1", processes.machine(), os.getpid())
    async with pool.acquire() as connection:
        assert list(await queue.rescue(connection, 0)) == [claimer.id]


async def test_a_suspect_in_a_child_process_is_not_charged_for_the_death_of_its_worker(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    await enqueue({}, {})
    await pool.execute("update task set crashes = 2 where id = (select min(id) from task)")
    await pool.execute("update worker set isolates = true where id = $1", claimer.id)
    await claim(pool, claimer, suspects=True)
    await claim(pool, claimer)
    await pool.execute("update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1", claimer.id)
    async with pool.acquire() as connection:
        await queue.rescue(connection, 0)
    rows = await pool.fetch("select state, crashes from task order by id")
    assert [tuple(row) for row in rows] == [("available", 2), ("available", 1)]
