"""At a million waiting and a million finished tasks, the hot statements touch rows in proportion to their batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import SESSION
from gristmill.db.statements import statements
from gristmill.engine import events, history, items, queue, upkeep, workflow
from gristmill.engine.line import PLANS
from gristmill.engine.queue import Claimer, Failure, NewTask
from tests.conftest import at, own
from tests.engine.conftest import Enqueue, Processes, register
from tests.engine.plans import Seen, Watched, watched

MILLION = 1_000_000
RUNS = 20
POOLS = ["*", "model", "parse"]
BATCH = 20  # of each pool
OF_A_DEAD_WORKER = 50
RUNNING = 1000  # on other workers
TOO_LATE = Failure("T300", "TransientError", "no answer", retry=True, backoff=0.0)

# Finished first, then what is open, as life would have it; then some of every special kind. Statements end with ";".
FILL = """
insert into run (name, workflow, definition, sealed) select 'r' || n, 'w', '{}', true from generate_series(1, 20) n;
insert into step (run_id, ordinal, name, kind, pool) select n, s, 's' || s, 'bare', '*'
from generate_series(1, 20) n, generate_series(0, 1) s;
insert into step (run_id, ordinal, name, kind, pool, barrier, upstream) select n, 2, 'b', 'bare', '*', true, '{0, 1}'
from generate_series(1, 20) n;
insert into item (run_id, key, name, uri) select 1 + n % 20, int8send(n), n::text, n::text
from generate_series(1, 20000) n;

insert into task (run_id, item_id, step, kind, pool, state, attempt, token, claimed_at, ended_at)
select 1 + n % 20, 1 + n % 20000, 0, 'bare', (array['*', 'model', 'parse'])[1 + n % 3], 'completed', 1,
    gen_random_uuid(), clock_timestamp(), clock_timestamp()
from generate_series(1, 1000000) n;
insert into task (run_id, item_id, step, kind, pool, priority)
select 1 + n % 20, 1 + n % 20000, 1, 'bare', (array['*', 'model', 'parse'])[1 + n % 3], -(n % 2)
from generate_series(1, 1000000) n;
insert into task (run_id, kind, pool, state, ended_at)
select 1 + n % 20, 'bare', '*', (array['failed', 'quarantined', 'cancelled'])[1 + n % 3], clock_timestamp()
from generate_series(1, 15000) n;

insert into task (run_id, kind, pool, lock_key) select 1 + n % 20, 'bare', '*', 'crowded'
from generate_series(1, 10000) n;
insert into task (run_id, kind, pool, lock_key) select 1 + n % 20, 'bare', '*', 'key ' || n % 200
from generate_series(1, 10000) n;
with made as (
    insert into task (run_id, kind, pool, state, held) select 1 + n % 20, 'bare', '*', 'waiting', 'upstream'
    from generate_series(1, 20000) n returning id)
insert into dependency (task_id, needs_id) select id, 1000000 + id % 1000 from made;

insert into attempt (task_id, attempt, token, run_id, worker_id, started_at, outcome)
select id, 1, coalesce(token, gen_random_uuid()), run_id, 1, claimed_at, state
from task where state in ('completed', 'failed', 'quarantined');
insert into event select n, 'step.end', 1 + n % 20, null, n, 1, '{}', clock_timestamp()
from generate_series(1, 200000) n;
insert into counter select 1 + n % 20, n / 20, c, 50000 -- of one page, a plan that is kept would always read the whole
from generate_series(0, 399) n, unnest(array['available', 'completed', 'running']) c;

insert into worker (nonce, name, host, boot_id, pid, pid_started, pools, version, ttl, lease_until)
select gen_random_uuid(), 'w', 'h', 'b', 1, 1, '{"*": 100}', 't', '1 hour', clock_timestamp() + interval '1 hour'
from generate_series(1, 10);
update task set state = 'running', attempt = 1, token = gen_random_uuid(), claimed_at = clock_timestamp(),
    worker_id = 1 + id % 10
where id between 1100001 and 1101000;
"""


async def fill(url: str) -> None:
    """A million waiting and a million finished tasks, and some of every other kind; statistics are fresh."""
    connection = await asyncpg.connect(url, server_settings={"search_path": SESSION["search_path"]})
    indexes = await connection.fetch(
        "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made from pg_index"
        " where indrelid = 'task'::regclass and not indisprimary and not indisunique"
    )
    for table in ("task", "attempt", "event"):  # no log of it: it is quicker, and the plans are the same
        await connection.execute(f"alter table {table} set unlogged")
    for statement in (*(f"drop index {row['name']}" for row in indexes), FILL, *(row["made"] for row in indexes)):
        await connection.execute(statement)
    await connection.execute("analyze")
    await connection.close()


async def story(watch: Watched) -> AsyncIterator[tuple[str, int, list[Seen]]]:
    """All that workers do to the queue, as they do it: (what, rows that a node may visit, the statements).

    Everything is rolled back, so that it can be told again under other plans.
    """
    connection = watch.connection
    claimer = await register(connection)
    gone = await register(connection)
    wanted = dict.fromkeys(POOLS, BATCH)
    batch = len(POOLS) * BATCH
    probes = RUNS * len(POOLS) * 2  # a look into each run and pool, and into its two priorities
    transaction = connection.transaction()
    await transaction.start()
    try:
        await watch.take()

        held = await queue.claim(connection, gone, {"*": OF_A_DEAD_WORKER}, ["bare"])
        assert len(held) == OF_A_DEAD_WORKER
        await watch.take()

        tasks = await queue.claim(connection, claimer, wanted, ["bare"])
        assert len(tasks) == batch
        yield "claim", 3 * batch + probes, await watch.take()

        low = {pool: min(task.seq for task in tasks if task.pool == pool) - 500 for pool in POOLS}
        assert len(await queue.claim(connection, claimer, wanted, ["bare"], low=low)) == batch
        yield "claim above the watermark", 3 * batch + probes, await watch.take()

        assert await queue.claim(connection, claimer, {"*": BATCH}, ["bare"], locked=True)
        yield "claim with locks", 300 * RUNS, await watch.take()

        await queue.claim(connection, claimer, {"*": 2}, ["bare"], suspects=True)
        await queue.claim(connection, claimer, {"*": 2}, ["bare"], suspects=True, locked=True)
        yield "claim suspects", probes, await watch.take()

        for name in ("oldest", "oldest_locked"):
            oldest = await connection.fetchrow(statements("ageing")[name], "*", ["bare"])
            yield f"look for the {name}", 300 * RUNS, await watch.take()
            assert len(await queue.claim(connection, claimer, {"*": 1}, ["bare"], turn=oldest["id"])) == 1
            yield "claim in turn", 3 * batch, await watch.take()

        assert await queue.still_held(connection, tasks) == {task.id for task in tasks}
        yield "still held", 2 * batch, await watch.take()

        first, second, *rest = tasks
        await queue.fail(connection, claimer, first, TOO_LATE)
        await queue.crash(connection, claimer, second, "it died")
        await queue.release(connection, [(task, 0.0, "quota") for task in rest[:10]])
        yield "fail, crash, release", 3 * batch, await watch.take()

        done = rest[10:]
        assert len(await queue.settle(connection, claimer, [(task, "ok") for task in done])) == len(done)
        assert await queue.settled_by(connection, done) == {task.id for task in done}
        yield "settle", 3 * batch, await watch.take()

        assert len(await queue.give_back(connection, claimer, "stopping")) > batch
        yield "give back", 2 * (RUNNING + 3 * batch), await watch.take()

        following = [NewTask(task.run_id, "bare", key=b"%d" % task.id, step=1) for task in done]
        ids = await queue.enqueue(connection, following)
        assert await queue.enqueue(connection, following) == ids
        await queue.enqueue(connection, [NewTask(1, "bare", after=tuple(ids))])
        yield "enqueue", 3 * batch, await watch.take()

        await connection.fetchval(queue.SQL["beat"], claimer.id, claimer.nonce)
        yield "beat", 50, await watch.take()

        await connection.execute("update worker set lease_until = '-infinity' where id = $1", gone.id)
        buried = await queue.rescue(connection, claimer.id)
        assert buried == {gone.id: OF_A_DEAD_WORKER}
        assert await queue.take_in(connection) == []
        yield "rescue", 2 * (RUNNING + batch + OF_A_DEAD_WORKER), await watch.take()

        await upkeep.advance_runs(connection)
        await queue.abandon(connection)
        await queue.expire(connection)
        await queue.park(connection)
        yield "duties", 10 * RUNS, await watch.take()

        await items.check_items(connection, range(1, 61))
        await connection.execute("insert into item (run_id, key, name, uri) values (1, 'quiet', 'quiet', 'quiet')")
        await connection.execute("insert into item_check select max(id) from item")
        assert await items.finish_items(connection) == 61
        yield "items", 61 * 50, await watch.take()  # each has fifty open tasks

        await upkeep.fold(connection)
        found, _ = await events.after(connection, 199_900)
        assert len(found) > 100
        yield "events", 2000, await watch.take()

        assert await workflow.advance(connection, 1) is None
        for name in ("verdict", "anything_open", "progress"):
            await connection.fetch(workflow.SQL[name], 1)
        yield "the state of a run", 500, await watch.take()

        await connection.fetch(statements("why")["held_by"], 1, None)
        yield "why tasks wait", 130_000, await watch.take()  # 10,000 tasks, each against a handful of rules

        await connection.fetch(statements("why")["task_story"], 1)
        yield "the story of a task", 100, await watch.take()

        await connection.fetch(statements("metrics")["oldest"])
        yield "oldest tasks", 100 * RUNS * len(POOLS) * 2, await watch.take()

        assert len(await connection.fetch(workflow.SQL["failures"], 1, 100)) == 100
        yield "failures", 3 * 15_000 // RUNS, await watch.take()

        step = await history.archive(connection, 0.0, 0.0)
        assert step is not None
        assert step.tasks > 1000
        yield "archive", 3 * (step.tasks + step.events), await watch.take()
    finally:
        await transaction.rollback()
        await connection.execute("delete from worker where id = any ($1)", [claimer.id, gone.id])


@pytest.fixture
async def million(server_url: str, template_database: str) -> AsyncIterator[str]:
    """The URL of a database with what `fill` makes."""
    connection = await asyncpg.connect(server_url)
    name = own("million")
    await connection.execute(f"create database {name} template {template_database}")
    url = at(server_url, name)
    await fill(url)
    yield url
    await connection.execute(f"drop database {name} with (force)")
    await connection.close()


@pytest.mark.timeout(600)
async def test_at_a_million_waiting_and_a_million_finished_tasks_work_is_in_proportion_to_the_batch(
    million: str,
) -> None:
    wrong = []
    told = set()
    for mode in ("auto", "force_generic_plan"):
        async with watched(million, mode) as watch:
            async for what, allowed, seen in story(watch):
                assert seen, what
                told |= {one.name for one in seen}
                wrong += [
                    f"{mode}, {what} (at most {allowed} rows, no large table whole): {one}"
                    for one in seen
                    if one.visited > allowed or one.read_whole or one.pages > 40 * allowed
                ]
    hot = {
        "claim",
        "settle",
        "settled_by",
        "fail",
        "release",
        "crash",
        "rescue",
        "suspects",
        "beat",
        "enqueue",
        "give_back",
    }
    assert {f"queue.{name}" for name in hot} <= told
    assert not wrong, "\n" + "\n".join(wrong)


async def churn(pool: Any, claimer: Claimer, rounds: int) -> int:
    """Claims and settles batch after batch, so that the index of what can be claimed fills with dead entries."""
    low: dict[str, int] = {}
    for _ in range(rounds):
        async with pool.acquire() as connection, connection.transaction():
            tasks = await queue.claim(connection, claimer, {"*": 200}, ["bare"], low=low)
            await queue.settle(connection, claimer, [(task, "ok") for task in tasks])
        low = {"*": min(task.seq for task in tasks) - 500}
    return low["*"]


async def pages_of_a_claim(url: str, claimer: Claimer, low: int) -> int:
    """How many pages the claim of one task looks at; the claim is undone."""
    async with watched(url) as watch:
        transaction = watch.connection.transaction()
        await transaction.start()
        tasks = await queue.claim(watch.connection, claimer, {"*": 1}, ["bare"], low={"*": low})
        await transaction.rollback()
        assert len(tasks) == 1
        (claim,) = [one for one in await watch.take() if one.name == "queue.claim"]
        return claim.pages


async def test_a_claim_above_the_watermark_is_short_while_an_old_snapshot_keeps_dead_rows(
    pool: asyncpg.Pool[Any], database_url: str
) -> None:
    run_id = await pool.fetchval("insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id")
    await pool.execute(
        "insert into task (run_id, kind, pool) select $1, 'bare', '*' from generate_series(1, 30000)", run_id
    )
    await pool.execute("analyze task")
    claimer = await register(pool)
    old = await asyncpg.connect(database_url, server_settings={"search_path": SESSION["search_path"]})
    async with old.transaction(isolation="repeatable_read"):
        await old.fetchval("select count(*) from task")
        low = await churn(pool, claimer, 20)
        early = await pages_of_a_claim(database_url, claimer, low)
        low = await churn(pool, claimer, 80)
        assert await pool.fetchval("select count(*) from task where state = 'completed'") == 20_000
        late = await pages_of_a_claim(database_url, claimer, low)
        assert late < early + 50, "it does not grow with the dead rows"
        from_the_start = await pages_of_a_claim(database_url, claimer, -1)
        assert from_the_start > late + 400, "the dead rows are there, and without a watermark they are read"
    await old.close()


async def test_a_plan_of_claims_that_was_made_of_an_empty_table_is_good_for_a_full_one(
    pool: asyncpg.Pool[Any], database_url: str
) -> None:
    """The session of a worker's claims plans once; nobody has looked at the table since it was filled."""
    claimer = await register(pool)
    async with watched(database_url) as watch:
        await watch.connection.execute(PLANS)
        assert await queue.claim(watch.connection, claimer, {"*": 10}, ["bare"]) == []
        await pool.execute(
            "with r as (insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id)"
            " insert into task (run_id, kind, pool, state) select id, 'bare', '*', s from r, generate_series(1, 10000),"
            " unnest(array['completed', 'available']) as s"
        )
        await watch.take()
        assert len(await queue.claim(watch.connection, claimer, {"*": 10}, ["bare"])) == 10
        (claim,) = await watch.take()
        assert claim.visited < 100, claim
        assert not claim.read_whole, claim
        planned = "select generic_plans, custom_plans from pg_prepared_statements where statement = $1"
        assert tuple(await watch.connection.fetchrow(planned, queue.SQL["claim"])) == (2, 0)


async def test_a_row_that_was_committed_late_is_found_while_there_is_other_work(
    pool: asyncpg.Pool[Any], database_url: str, processes: Processes, watching: Any, bare_run: int, enqueue: Enqueue
) -> None:
    """Its place in the order lies below every worker's watermark: it was given before the others were claimed."""
    late = await asyncpg.connect(database_url, server_settings={"search_path": SESSION["search_path"]})
    transaction = late.transaction()
    await transaction.start()
    (slow,) = await queue.enqueue(late, [NewTask(bare_run, "bare")])
    assert slow
    await enqueue(*[{}] * 1500)  # the watermark follows at a distance of 500
    processes.start(pools={"*": 8})
    await watching("select count(*) >= 1200 from done")
    await enqueue(*[{"do": "sleep", "seconds": 0.01}] * 4000)  # it never runs dry: only the rescan can find the row
    await transaction.commit()
    await late.close()
    await watching("select state = 'completed' from task where id = $1", slow)
    assert await pool.fetchval("select count(*) > 0 from task where state = 'available'"), "it did not wait for the end"
