"""What earlier systems fell into, and the statements of the queue must not: the list is docs/concepts/pitfalls.md."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import open_pool, transaction
from gristmill.engine import hooks, queue, workflow
from gristmill.engine.lock_keys import lock_key
from gristmill.engine.metrics import LoggingMetrics
from gristmill.engine.queue import Claimer, Failure, NewTask
from gristmill.engine.settling import Settler
from gristmill.engine.worker import Outcome
from gristmill.errors import UsageError
from tests.engine.bare import Bare
from tests.engine.conftest import Enqueue, register
from tests.engine.test_hooks import fold, tell
from tests.engine.test_queue import claim, state_of, until_blocked

AGAIN = Failure("T300", "TransientError", "no answer", retry=True, backoff=0.0)
LATE = "update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1"

# Every way to end an attempt: what it gives when the claim is not there any more.
ENDS: dict[str, tuple[Callable[[Any, Claimer, queue.Task], Awaitable[Any]], Any]] = {
    "settle": (lambda on, who, task: queue.settle(on, who, [(task, "ok")]), set()),
    "fail": (lambda on, who, task: queue.fail(on, who, task, AGAIN), None),
    "crash": (lambda on, who, task: queue.crash(on, who, task, "signal"), None),
    "release": (lambda on, who, task: queue.release(on, [(task, 0.0, "later")]), set()),
}


async def test_a_late_rescue_takes_nothing_that_was_claimed_again_or_has_ended(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """W1: both rescuers know that the worker is dead; the second comes when others are at work already."""
    again, done = await enqueue({}, {})
    await claim(pool, claimer)
    await pool.execute(LATE, claimer.id)
    other = await register(pool)
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, other.id) == {claimer.id: 2}
        tasks = {task.id: task for task in await claim(connection, other)}
        await queue.settle(connection, other, [(tasks[done], "ok")])
        assert await connection.fetch(queue.SQL["rescue"], claimer.id, True, "again") == []
    assert await state_of(pool, again) == "running"
    assert await pool.fetchval("select token from task where id = $1", again) == tasks[again].token
    assert await state_of(pool, done) == "completed"


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_that_waited_for_a_rescue_changes_nothing(
    pool: Any, claimer: Claimer, enqueue: Enqueue, end: str
) -> None:
    """W2: it looked while the claim was still there, and is to write when it is not."""
    await enqueue({})
    (task,) = await claim(pool, claimer)
    await pool.execute(LATE, claimer.id)
    act, nothing = ENDS[end]
    async with pool.acquire() as rescuing, pool.acquire() as ending:
        burial = rescuing.transaction()
        await burial.start()
        assert await queue.rescue(rescuing, 0) == {claimer.id: 1}
        late = asyncio.ensure_future(act(ending, claimer, task))
        await until_blocked(pool)
        await burial.commit()
        assert await late == nothing
    assert tuple(await pool.fetchrow("select state, failures, crashes from task")) == ("available", 0, 1)


@pytest.mark.parametrize("what", ["delete from worker", "update worker set state = 'stopped'"])
async def test_what_runs_for_a_worker_that_is_gone_is_put_back(
    pool: Any, claimer: Claimer, enqueue: Enqueue, what: str
) -> None:
    """W3: the row that says who is alive vanishes, and nobody would ever look for its tasks."""
    (mine, _) = await enqueue({}, {})
    (task,) = await claim(pool, claimer, 1)
    await pool.execute(f"{what} where id = $1", claimer.id)
    other = await register(pool)
    (kept,) = await claim(pool, other)
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, other.id) == {}
        assert await queue.take_in(connection) == [mine] == [task.id]
        assert await queue.take_in(connection) == []
    assert await state_of(pool, mine) == "available"
    assert await state_of(pool, kept.id) == "running"
    assert await queue.settle(pool, claimer, [(task, "ok")]) == set()


async def test_a_failure_that_is_tried_again_tells_no_end(pool: Any, claimer: Claimer) -> None:
    """W8: who counts ends by events must not count a task twice."""
    async with transaction(pool) as connection:
        steps = (workflow.Step("first", "bare"),)
        run_id, _ = await workflow.find_or_create(connection, workflow.NewRun("loud", "loud", steps, {}, detail=2))
        await queue.enqueue(connection, [NewTask(run_id, "bare", max_attempts=2)])
    names: list[list[str]] = []
    for _ in range(2):
        (task,) = await claim(pool, claimer)
        await queue.fail(pool, claimer, task, AGAIN)
        rows = await pool.fetch("select name from event_inbox where task_id = $1 order by id", task.id)
        names.append([row["name"] for row in rows])
    assert names == [["step.start"], ["step.start", "step.start", "step.failed"]]


async def test_the_task_of_a_hook_takes_its_lock_like_any_other(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    """W11: what is done at the end of a run, and writes to the same store, must not get in beside the others."""
    key = lock_key("index", "handbook")
    (writing,) = await enqueue({}, lock=key)
    (task,) = await claim(pool, claimer, locked=True)
    await fold(pool)
    async with transaction(pool) as connection:
        await hooks.add(connection, "vacuum", ["run.end"], "bare", pool="*", options={"lock": key})
    await tell(pool, "run.end", task.run_id, state="completed", epoch=1)
    await fold(pool)
    assert await claim(pool, claimer) == []
    assert await claim(pool, claimer, locked=True) == []
    await queue.settle(pool, claimer, [(task, "ok")])
    (vacuum,) = await claim(pool, claimer, locked=True)
    assert vacuum.id != writing
    assert (vacuum.lock_key, json.loads(vacuum.payload)["event"]["name"]) == (key, "run.end")
    assert vacuum.fence > task.fence


@pytest.mark.parametrize("options", [{"lock": "no key"}, {"lock": 7}, {"lock": "index:a", "lock_slots": 0}])
async def test_a_hook_with_a_lock_that_cannot_be_is_refused(pool: Any, options: dict[str, Any]) -> None:
    async with transaction(pool) as connection:
        with pytest.raises(UsageError):
            await hooks.add(connection, "vacuum", ["run.end"], "bare", options=options)


async def test_a_batch_takes_the_same_few_statements_however_many_tasks_are_in_it(
    pool: Any, database_url: str, claimer: Claimer, enqueue: Enqueue
) -> None:
    """W15, D4: a transaction or a write for each task."""
    await enqueue(*[{}] * 203)
    sent: list[str] = []

    counted = await open_pool(database_url, size=1)
    async with counted.acquire() as connection:
        connection.add_query_logger(lambda record: sent.append(record.query))
    counts = []
    for n in (3, 100, 100):  # the driver asks for the types of its arguments once
        tasks = await queue.claim(counted, claimer, {"*": n}, ["bare"])
        assert len(tasks) == n
        settler = Settler(counted, claimer, Bare(), 100, LoggingMetrics(), lambda: None)
        for task in tasks:
            settler.put(task, Outcome("ok", {}))
        await settler.finish(asyncio.create_task(settler.run()), timeout=10)
        counts.append([query for query in sent if "insert into done" not in query])  # the test's own, a row each
        sent.clear()
    assert len(counts[1]) <= 4, "claim, begin, settle, commit"
    assert counts[1] == counts[2]
    assert await pool.fetchval("select count(*) from done") == 203
    counted.terminate()


async def test_a_small_run_is_served_beside_a_huge_one_of_the_same_priority(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """W20: whoever came first with a thousand is not in everybody's way."""
    await enqueue(*[{}] * 1000)
    async with transaction(pool) as connection:
        steps = (workflow.Step("first", "bare"),)
        small, _ = await workflow.find_or_create(connection, workflow.NewRun("small", "small", steps, {}))
        await queue.enqueue(connection, [NewTask(small, "bare")] * 3)
    served = [(await claim(pool, claimer, 1))[0].run_id for _ in range(60)]
    assert served.count(small) == 3  # missed once in 10^15 times


async def test_those_who_begin_the_same_run_at_once_get_one(pool: Any) -> None:
    """W24: no look before, but a unique key."""
    steps = (workflow.Step("first", "bare"),)
    new = workflow.NewRun("same", "same", steps, {}, key=b"k" * 32)

    async def begin() -> tuple[int, bool]:
        async with transaction(pool) as connection:
            return await workflow.find_or_create(connection, new)

    made = await asyncio.gather(*(begin() for _ in range(6)))
    assert len({run_id for run_id, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1
    assert await pool.fetchval("select count(*) from step") == 1


async def test_a_worker_that_is_started_again_hides_nothing_of_the_one_before(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """A1: the same name on the same host, and looking alive at once."""
    (number,) = await enqueue({})
    (task,) = await claim(pool, claimer)
    await pool.execute(LATE, claimer.id)
    again = await register(pool)
    names = await pool.fetch("select distinct name, host from worker")
    assert len(names) == 1
    assert again.id != claimer.id
    assert await pool.fetchval(queue.SQL["beat"], again.id, again.nonce) == "alive"
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, again.id) == {claimer.id: 1}
    assert await state_of(pool, number) == "available"
    assert await queue.settle(pool, again, [(task, "ok")]) == set()


async def test_who_has_left_is_not_brought_back_by_a_late_beat(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    """A6: a beat that was on its way when the worker said goodbye."""
    await enqueue({})
    await pool.execute(queue.SQL["leave"], claimer.id, claimer.nonce, "stopped")
    assert await pool.fetchval(queue.SQL["beat"], claimer.id, claimer.nonce) is None
    assert await pool.fetchval(queue.SQL["announce_lock"], claimer.id, claimer.nonce, True) is None
    assert await claim(pool, claimer) == []
    assert await pool.fetchval("select state from worker") == "stopped"


async def test_each_worker_is_judged_by_the_lease_that_it_asked_for(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """A7: no threshold that everybody has to know; what counts is in the worker's own row."""
    short = await register(pool, lease=0.01)
    await enqueue({}, {})
    await claim(pool, claimer, 1)
    async with pool.acquire() as connection:
        while not (buried := await queue.rescue(connection, 0)):
            await asyncio.sleep(0.01)
    assert list(buried) == [short.id]
    assert await pool.fetchval("select count(*) from task where state = 'running'") == 1


async def test_looking_for_the_dead_reads_no_task_and_takes_one_statement(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """A8: no round over everything that is running, however much that is."""
    await enqueue(*[{}] * 20)
    await claim(pool, claimer, 20)
    sent: list[str] = []
    async with pool.acquire() as connection:
        with connection.query_logger(lambda record: sent.append(record.query)):
            assert await queue.rescue(connection, 0) == {}
        plan = await connection.fetch("explain " + queue.SQL["suspects"], queue.LOCK_CLASS, 0, 0.5, "boot")
    assert sent == [queue.SQL["suspects"]]
    assert not any(" on task" in row[0] for row in plan)


async def test_no_index_for_finding_work_holds_what_has_ended_well(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """A9: many whole indexes on the queue make every end slow."""
    await enqueue(*[{}] * 5)
    await queue.settle(pool, claimer, [(task, "ok") for task in await claim(pool, claimer)])
    assert await pool.fetchval("select count(*) from task where state = 'completed'") == 5
    indexes = await pool.fetch(
        "select c.relname as name, a.amname as kind, i.indisunique as is_unique,"
        " pg_get_expr(i.indpred, i.indrelid) as condition"
        " from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam"
        " where i.indrelid = 'task'::regclass and not i.indisprimary"
    )
    assert {row["kind"] for row in indexes} == {"btree"}
    for row in indexes:
        assert row["condition"], f"{row['name']} holds every task that ever was"
        held = f"select count(*) from task where {row['condition']}"  # noqa: S608 - of the catalogue
        assert await pool.fetchval(held) == 0, row["name"]


async def test_a_wait_after_a_failure_may_be_a_fraction_of_a_second_and_is_never_none(
    pool: Any, claimer: Claimer, enqueue: Enqueue
) -> None:
    """A11: whole seconds made the first wait nothing."""
    await enqueue(*[{}] * 30)
    for task in await claim(pool, claimer, 30):
        await queue.fail(pool, claimer, task, Failure("T300", "E", "m", retry=True, backoff=0.4))
    waits = await pool.fetch(
        "select extract(epoch from t.run_at - a.ended_at)::float8 as wait"
        " from task t join attempt a on a.task_id = t.id"
    )
    assert all(0.1 < row["wait"] < 0.5 for row in waits)
    assert len({row["wait"] for row in waits}) > 20, "and no two come back together"


async def test_no_statement_of_the_queue_notifies_and_no_trigger_does(
    pool: Any, database_url: str, claimer: Claimer, enqueue: Enqueue, bare_run: int
) -> None:
    """A12: commits that carry a notification wait for each other."""
    heard: list[Any] = []
    listening = await asyncpg.connect(database_url)
    await listening.add_listener(queue.WAKE_CHANNEL, lambda *told: heard.append(told[-1]))
    await enqueue(*[{}] * 8)  # the fixture sends one hint
    for end, (act, _) in ENDS.items():
        (task,) = await claim(pool, claimer, 1)
        assert await act(pool, claimer, task), end
    await claim(pool, claimer, 1)
    async with transaction(pool) as connection:
        await queue.cancel(connection, run_id=bare_run)
    await queue.hint(pool, "the last")
    async with asyncio.timeout(10):
        while "the last" not in heard:
            await asyncio.sleep(0.01)
    assert heard == ["", "the last"]
    assert await pool.fetchval("select count(*) from pg_trigger where not tgisinternal") == 0
    assert [name for name, sql in queue.SQL.items() if "pg_notify" in sql] == ["hint"]
    await listening.close()


async def test_a_rescue_leaves_the_tasks_of_the_living_alone(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    """T1: recovery after a restart that interrupts what others are doing."""
    await enqueue({}, {})
    living = await register(pool)
    (theirs,) = await claim(pool, living, 1)
    (gone,) = await claim(pool, claimer, 1)
    await pool.execute(LATE, claimer.id)
    async with pool.acquire() as connection:
        assert await queue.rescue(connection, 0) == {claimer.id: 1}
    assert [await state_of(pool, task.id) for task in (theirs, gone)] == ["running", "available"]
    assert await queue.settle(pool, living, [(theirs, "ok")]) == {theirs.id}


@pytest.mark.parametrize("end", ENDS)
async def test_a_cancelled_task_stays_cancelled_whatever_its_worker_brings(
    pool: Any, claimer: Claimer, enqueue: Enqueue, end: str
) -> None:
    """T2: cancelled by one process, completed by another."""
    (number,) = await enqueue({})
    (task,) = await claim(pool, claimer)
    async with transaction(pool) as connection:
        assert await queue.cancel(connection, task_ids=[number]) == [number]
    act, nothing = ENDS[end]
    assert await act(pool, claimer, task) == nothing
    assert await state_of(pool, number) == "cancelled"
    assert await claim(pool, claimer) == []


async def test_the_same_nonce_is_never_two_workers(pool: Any) -> None:
    """A1: an incarnation is told by a number that nobody else can have."""
    nonce = uuid.uuid4()
    row = (nonce, "name", "here", "boot", os.getpid(), 0, "{}", "test", 60.0, ["bare"], False)
    await pool.fetchval(queue.SQL["register_worker"], *row)
    with pytest.raises(asyncpg.UniqueViolationError):
        await pool.fetchval(queue.SQL["register_worker"], *row)


async def test_every_failure_keeps_its_own_error(pool: Any, claimer: Claimer, enqueue: Enqueue) -> None:
    """T4: one column, in which the later error hides the earlier."""
    await enqueue({}, max_attempts=2)
    for message in ("the first", "the second"):
        (task,) = await claim(pool, claimer)
        await queue.fail(pool, claimer, task, Failure("T300", "E", message, retry=True, backoff=0.0))
    rows = await pool.fetch("select attempt, message from attempt order by ended_at")
    assert [tuple(row) for row in rows] == [(1, "the first"), (2, "the second")]
