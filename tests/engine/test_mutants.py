"""Every fault that is sown into the SQL is found, by the model or by two sessions at once; without a fault, neither
complains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from gristmill.db.database import open_pool
from gristmill.engine import queue, workflow
from gristmill.engine.queue import Claimer, Failure, NewTask, Task
from gristmill.engine.workflow import NewRun, Step
from tests.engine.conftest import register
from tests.engine.mutants import MODEL, MUTANTS, Mutant, sown
from tests.engine.test_model import FORGET, explore
from tests.engine.test_queue import until_blocked

PARTS, OFTEN = 8, 1  # so that processes can share them; how many parts every run of the tests looks at
HISTORIES, STEPS_EACH = 100, 60  # at most, for one mutant
BROKEN_SQL = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.DataError,
    asyncpg.InterfaceError,
)  # a mutant that does not even run proves nothing


class Stage:
    """A run with tasks, a worker, and as many sessions as a scene needs."""

    def __init__(self, pool: asyncpg.Pool[Any], run_id: int, claimer: Claimer, neighbour: Claimer) -> None:
        self.pool = pool
        self.run_id = run_id
        self.claimer = claimer
        self.neighbour = neighbour

    async def claim(self, on: Any, n: int, claimer: Claimer | None = None) -> list[Task]:
        return await queue.claim(on, claimer or self.claimer, {"*": n}, ["bare"])

    async def add(self, *tasks: NewTask) -> list[int]:
        async with self.pool.acquire() as connection, connection.transaction():
            return await queue.enqueue(connection, tasks)

    async def spoil_the_lease(self) -> None:
        sql = "update worker set lease_until = clock_timestamp() - interval '1 s' where id = $1"
        await self.pool.execute(sql, self.claimer.id)

    async def both(self, first: Callable[[Any], Awaitable[Any]], second: Callable[[Any], Awaitable[Any]]) -> Any:
        """The second begins when the first is done but not committed, and goes on when it is. Returns both results;
        the second may also come through without waiting."""
        async with self.pool.acquire() as one, self.pool.acquire() as two:
            transaction = one.transaction()
            await transaction.start()
            done = await first(one)
            other = asyncio.ensure_future(second(two))
            blocked = asyncio.ensure_future(until_blocked(self.pool))
            await asyncio.wait({other, blocked}, return_when=asyncio.FIRST_COMPLETED)
            waited = not other.done()
            blocked.cancel()
            await transaction.commit()
            return done, await other, waited


async def two_claims_at_once(stage: Stage) -> None:
    first, second, waited = await stage.both(
        lambda one: stage.claim(one, 2), lambda two: stage.claim(two, 2, stage.neighbour)
    )
    assert not waited, "a claim passes by what another one is taking"
    assert len({task.id for task in first + second}) == 4


async def two_settles_at_once(stage: Stage) -> None:
    (task,) = await stage.claim(stage.pool, 1)
    first, second, _ = await stage.both(
        lambda one: queue.settle(one, stage.claimer, [(task, "ok")]),
        lambda two: queue.settle(two, stage.claimer, [(task, "ok")]),
    )
    assert (first, second) == ({task.id}, set())


async def a_claim_while_its_worker_is_buried(stage: Stage) -> None:
    """The lease ends while a claim is under way: the burial waits for it, and rescues what it took."""
    async with stage.pool.acquire() as burying:

        async def mark(two: Any) -> Any:
            return await two.fetchval(queue.SQL["mark_dead"], stage.claimer.id, "x", queue.LOCK_CLASS, True)

        tasks, marked, waited = await stage.both(lambda one: stage.claim(one, 1), mark)
        assert len(tasks) == 1
        assert marked == stage.claimer.id
        assert waited, "the worker's row belongs to the claim until it commits"
        assert len(await burying.fetch(queue.SQL["rescue"], stage.claimer.id, True, "x")) == 1


async def a_beat_while_its_worker_is_buried(stage: Stage) -> None:
    """The beat came first: whoever has seen the lease run out looks again, and lets the worker live."""
    await stage.spoil_the_lease()
    _, buried, waited = await stage.both(
        lambda one: one.fetchval(queue.SQL["beat"], stage.claimer.id, stage.claimer.nonce),
        lambda two: queue.rescue(two, 0),
    )
    assert waited
    assert buried == {}


async def two_burials_at_once(stage: Stage) -> None:
    await stage.claim(stage.pool, 2)
    await stage.spoil_the_lease()

    first, second, _ = await stage.both(lambda one: queue.rescue(one, 0), lambda two: queue.rescue(two, 0))
    assert (first, second) == ({stage.claimer.id: 2}, {})
    assert await stage.pool.fetchval("select count(*) from event_inbox where name = 'worker.died'") == 1


async def two_advances_at_once(stage: Stage) -> None:
    """Both find the barrier due; one of them makes its task."""
    tasks = await stage.claim(stage.pool, 10)
    await queue.settle(stage.pool, stage.claimer, [(task, "ok") for task in tasks])
    await stage.pool.execute("update run set sealed = true")
    first, second, _ = await stage.both(
        lambda one: workflow.advance(one, stage.run_id), lambda two: workflow.advance(two, stage.run_id)
    )
    assert (first, second) == ("barrier", None)
    assert await stage.pool.fetchval("select count(*) from task where step = 1") == 1


async def a_wrong_nonce(stage: Stage) -> None:
    assert await stage.claim(stage.pool, 1, Claimer(stage.claimer.id, uuid4())) == []


async def a_released_task_gets_another_token(stage: Stage) -> None:
    """Also when an older release left the token behind."""
    (older,) = await stage.claim(stage.pool, 1)
    await stage.pool.execute("update task set state = 'available', worker_id = null where id = $1", older.id)
    newer = {task.id: task for task in await stage.claim(stage.pool, 10)}[older.id]
    assert newer.token != older.token


async def a_suspicion_is_forgotten(stage: Stage) -> None:
    """A beat, or the lock in its place again, clears a worker whose lock had vanished."""
    lock = (queue.LOCK_CLASS, stage.claimer.id)
    await stage.pool.execute(queue.SQL["announce_lock"], stage.claimer.id, stage.claimer.nonce, True)
    async with stage.pool.acquire() as one, stage.pool.acquire() as two:
        assert await queue.rescue(one, 0, 0.0) == {}
        await one.execute(queue.SQL["beat"], stage.claimer.id, stage.claimer.nonce)
        assert await queue.rescue(one, 0, 0.0) == {}
        await two.execute("select pg_advisory_lock($1, $2)", *lock)
        assert await queue.rescue(one, 0, 0.0) == {}
        await two.execute("select pg_advisory_unlock($1, $2)", *lock)
        assert await queue.rescue(one, 0, 0.0) == {}
        assert list(await queue.rescue(one, 0, 0.0)) == [stage.claimer.id]


async def the_attempts_are_spent(stage: Stage) -> None:
    await stage.pool.execute("update task set max_attempts = 2")
    failure = Failure("T300", "TransientError", "no answer", retry=True, backoff=0.0)
    states = []
    for _ in range(2):
        task = min(await stage.claim(stage.pool, 10), key=lambda task: task.id)
        states.append(await queue.fail(stage.pool, stage.claimer, task, failure))
        await queue.give_back(stage.pool, stage.claimer, "the others")
    assert states == ["available", "failed"]


async def two_claims_of_one_lock_at_once(stage: Stage) -> None:
    """Both see a free slot; the second gets none and leaves its task as it was."""
    await stage.add(NewTask(stage.run_id, "bare", lock="item:x"), NewTask(stage.run_id, "bare", lock="item:x"))
    first, second, _ = await stage.both(
        lambda one: queue.claim(one, stage.claimer, {"*": 1}, ["bare"], locked=True),
        lambda two: queue.claim(two, stage.neighbour, {"*": 1}, ["bare"], locked=True),
    )
    assert (len(first), len(second)) == (1, 0)
    holders = await stage.pool.fetch("select task_id from lock")
    assert [row["task_id"] for row in holders] == [first[0].id]


async def a_dead_worker_claims_no_lock(stage: Stage) -> None:
    await stage.add(NewTask(stage.run_id, "bare", lock="item:x"))
    await stage.pool.execute("update worker set state = 'dead' where id = $1", stage.claimer.id)
    assert await queue.claim(stage.pool, stage.claimer, {"*": 1}, ["bare"], locked=True) == []


async def two_claims_of_a_limited_pool(stage: Stage) -> None:
    """Each would fit alone; the second counts when the first has committed."""
    await stage.pool.execute("insert into pool (name, slots) values ('*', 3)")

    async def take(on: Any, claimer: Claimer) -> list[Task]:
        async with on.transaction():
            return await queue.claim(on, claimer, {"*": 2}, ["bare"], limited=True)

    first, second, _ = await stage.both(lambda one: take(one, stage.claimer), lambda two: take(two, stage.neighbour))
    assert (len(first), len(second)) == (2, 1)


async def a_breaker_that_is_open(stage: Stage) -> None:
    """The sixth crash of a kind within a minute."""
    for _ in range(6):
        task = (await stage.claim(stage.pool, 1))[0]
        await queue.crash(stage.pool, stage.claimer, task, "signal")
        await stage.pool.execute("update task set crashes = 0")
    assert await stage.claim(stage.pool, 1) == []


async def a_need_that_completes_meanwhile(stage: Stage) -> None:
    """The task that is needed completes while another is made to wait for it: whoever comes second sees the first."""
    (task,) = await stage.claim(stage.pool, 1)

    async def wait_for_it(on: Any) -> list[int]:
        async with on.transaction():
            return await queue.enqueue(on, [NewTask(stage.run_id, "bare", after=(task.id,))])

    done, (behind,), _ = await stage.both(lambda one: queue.settle(one, stage.claimer, [(task, "ok")]), wait_for_it)
    assert done == {task.id}
    assert await stage.pool.fetchval("select state from task where id = $1", behind) == "available"


async def a_suspect_that_was_alone(stage: Stage) -> None:
    """It ran in a child process, so it is not what killed the worker above it."""
    await stage.pool.execute("update worker set isolates = true")
    await stage.pool.execute("update task set crashes = 2")
    (task,) = await queue.claim(stage.pool, stage.claimer, {"*": 1}, ["bare"], suspects=True)
    await stage.spoil_the_lease()
    async with stage.pool.acquire() as one:
        assert await queue.rescue(one, 0) == {stage.claimer.id: 1}
    row = await stage.pool.fetchrow("select state, crashes from task where id = $1", task.id)
    assert tuple(row) == ("available", 2)


SCENES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    scene.__name__: scene
    for scene in (
        two_claims_at_once, two_settles_at_once, a_claim_while_its_worker_is_buried, a_beat_while_its_worker_is_buried,
        two_burials_at_once, two_advances_at_once, a_wrong_nonce, a_released_task_gets_another_token,
        a_suspicion_is_forgotten, the_attempts_are_spent, a_dead_worker_claims_no_lock,
        two_claims_of_one_lock_at_once, two_claims_of_a_limited_pool, a_breaker_that_is_open,
        a_need_that_completes_meanwhile, a_suspect_that_was_alone,
    )
}  # fmt: skip


async def play(url: str, scene: str) -> None:
    """One scene on an empty database."""
    pool = await open_pool(url, size=6)
    try:
        await pool.execute(FORGET)
        async with pool.acquire() as connection, connection.transaction():
            steps = (Step("first", "bare"), Step("gather", "bare", barrier=True))
            run_id, _ = await workflow.find_or_create(connection, NewRun("scene", "scene", steps, {}))
            await queue.enqueue(connection, [NewTask(run_id, "bare") for _ in range(6)])
        await SCENES[scene](Stage(pool, run_id, await register(pool), await register(pool)))
    finally:
        pool.terminate()


async def verdict(url: str, mutant: Mutant) -> Exception | None:
    """What the fault was found by; None when it survived."""
    with sown(mutant):
        try:
            if mutant.proof == MODEL:
                await asyncio.to_thread(explore, url, histories=HISTORIES, steps=STEPS_EACH, shrink=False)
            else:
                await play(url, mutant.proof)
        except (AssertionError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return error
    return None


@pytest.mark.parametrize("scene", SCENES)
async def test_two_sessions_at_once_do_what_they_should(database_url: str, scene: str) -> None:
    await play(database_url, scene)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "part", [part if part < OFTEN else pytest.param(part, marks=pytest.mark.thorough) for part in range(PARTS)]
)
async def test_faults_in_the_statements_are_found_at_once(database_url: str, part: int) -> None:
    """Those that the first histories show; the rest take minutes."""
    await all_are_found(database_url, [mutant for mutant in MUTANTS if not mutant.rare][part::PARTS])


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_rare_faults_in_the_statements_are_found_in_the_end(database_url: str) -> None:
    await all_are_found(database_url, [mutant for mutant in MUTANTS if mutant.rare])


async def all_are_found(database_url: str, mutants: Sequence[Mutant]) -> None:
    survivors = []
    for mutant in mutants:
        began = time.monotonic()
        error = await verdict(database_url, mutant)
        cause = error.__cause__ if isinstance(error, AssertionError) and error.__cause__ else error
        found = "survived" if error is None else str(cause).partition("\n")[0][:60] or type(cause).__name__
        print(f"{mutant.title:55} {mutant.proof:38} {time.monotonic() - began:5.1f} s  {found}", flush=True)
        if error is None or isinstance(cause, BROKEN_SQL):
            survivors.append(mutant.title)
    assert survivors == []
