"""What has ended leaves the hot tables: once, with all that belongs to it, and nobody who reads notices."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.app import App
from gristmill.engine import events, history, queue, upkeep
from gristmill.engine.history import Moved
from tests.by_hand import Hand
from tests.engine.conftest import Enqueue
from tests.test_app import FLOW

DAY = 86_400.0
MONTHS = 90 * DAY
ALL_TASKS = "select count(*) = $1 and count(distinct id) = $1 from every_task"


async def ended(
    pool: Any,
    run_id: int,
    count: int,
    ago: float,
    state: str = "completed",
    *,
    attempts: int = 2,
    key: bytes | None = None,
) -> list[int]:
    """Tasks that ended `ago` seconds ago, each with attempts that ended an hour before one another."""
    rows = await pool.fetch(
        "insert into task (run_id, kind, pool, state, attempt, token, claimed_at, ended_at, payload, key)"
        " select $1, 'bare', '*', $3, 2, gen_random_uuid(), clock_timestamp() - make_interval(secs => $4 + 1),"
        " clock_timestamp() - make_interval(secs => $4), '{\"text\": \"some\"}', $5 from generate_series(1, $2)"
        " returning id",
        run_id, count, state, ago, key,
    )  # fmt: skip
    ids = [row["id"] for row in rows]
    await pool.execute(
        "insert into attempt (task_id, attempt, token, run_id, started_at, ended_at, outcome, message)"
        " select id, n, gen_random_uuid(), run_id, claimed_at, ended_at - make_interval(hours => $2 - n), state,"
        " 'message' from task cross join generate_series(1, $2) as n where id = any ($1)", ids, attempts,
    )  # fmt: skip
    return ids


async def walk(connection: Any, keep_finished: float = DAY, keep_history: float = MONTHS) -> Moved:
    """Steps until a round is over; the waits between the steps are taken away."""
    total = Moved()
    while not total.round_over:
        await connection.execute("update history_walk set next_at = '-infinity'")
        moved = await history.archive(connection, keep_finished, keep_history)
        if moved is not None:
            total.add(moved)
            total.dropped += moved.dropped
    return total


async def hot(pool: Any) -> set[int]:
    return {row["id"] for row in await pool.fetch("select id from task")}


async def snapshot(pool: Any) -> str:
    """All that the views for people say, as text; the column that says where it is left out."""
    return str(
        await pool.fetchval(
            "select json_build_array("
            "(select json_agg(to_jsonb(t) - 'history' order by id) from every_task t),"
            "(select json_agg(to_jsonb(a) - 'history' order by task_id, attempt, ended_at) from every_attempt a),"
            "(select json_agg(to_jsonb(e) - 'history' order by seq) from every_event e))::text"
        )
    )


@pytest.fixture
async def bare_run(pool: asyncpg.Pool[Any]) -> int:
    """The id of an unsealed run with one step."""
    run_id: int = await pool.fetchval(
        "insert into run (name, workflow, definition) values ('r', 'w', '{}') returning id"
    )
    await pool.execute("insert into step (run_id, ordinal, name, kind, pool) values ($1, 0, 's', 'bare', '*')", run_id)
    return run_id


@pytest.fixture
async def one(pool: asyncpg.Pool[Any]) -> AsyncIterator[asyncpg.Connection[Any]]:
    async with pool.acquire() as connection:
        yield connection


async def test_what_has_ended_leaves_with_its_attempts_and_the_rest_stays(pool: Any, one: Any, bare_run: int) -> None:
    old = await ended(pool, bare_run, 30, 2 * DAY)
    cancelled = await ended(pool, bare_run, 5, 2 * DAY, "cancelled")
    stays = await ended(pool, bare_run, 10, 0.5 * DAY)
    stays += await ended(pool, bare_run, 3, 2 * DAY, "failed")
    stays += await ended(pool, bare_run, 3, 2 * DAY, "quarantined")
    before = await snapshot(pool)
    moved = await walk(one)
    assert moved.tasks == 35
    assert await hot(pool) == set(stays)
    assert {r["id"] for r in await pool.fetch("select id from every_task where history")} == {*old, *cancelled}
    assert await pool.fetchval("select count(*) from attempt_history") == 70
    assert await pool.fetchval("select count(*) from attempt where not task_id in (select id from task)") == 0
    assert await snapshot(pool) == before


async def test_open_tasks_stay_however_old_they_are(pool: Any, one: Any, bare_run: int) -> None:
    ids = []
    for state in ("waiting", "available", "running"):
        ids += await ended(pool, bare_run, 2, 400 * DAY, state)
    await walk(one)
    assert await hot(pool) == set(ids)


async def test_a_key_is_remembered_until_all_history_of_it_is_gone(pool: Any, one: Any, bare_run: int) -> None:
    (kept,) = await ended(pool, bare_run, 1, 80 * DAY, key=b"k")
    await walk(one)
    async with one.transaction():
        again = await queue.enqueue(one, [queue.NewTask(bare_run, "bare", key=b"k")])
    assert again == [kept]
    await walk(one, keep_history=70 * DAY)
    assert await pool.fetchval("select count(*) from every_task") == 0


async def test_what_was_cancelled_because_something_failed_stays_with_it(pool: Any, one: Any, bare_run: int) -> None:
    (failed,) = await ended(pool, bare_run, 1, 2 * DAY, "failed")
    first, second = await ended(pool, bare_run, 2, 2 * DAY, "cancelled")
    await pool.execute(
        "insert into dependency (task_id, needs_id, lost) values ($1, $2, 2), ($3, $1, 2)", first, failed, second
    )
    await walk(one)
    assert await hot(pool) == {failed, first, second}
    await pool.execute("update run set state = 'failed', ended_at = clock_timestamp() - interval '100 days'")
    await pool.execute("update task set ended_at = clock_timestamp() - interval '100 days'")
    moved = await walk(one)
    assert moved.forgotten == 3
    assert await pool.fetchval("select count(*) from every_task") == 0
    assert await pool.fetchval("select (select count(*) from attempt) + (select count(*) from dependency)") == 0


async def test_failures_stay_as_long_as_their_run_may_be_tried_again(pool: Any, one: Any, bare_run: int) -> None:
    failed = set(await ended(pool, bare_run, 3, 100 * DAY, "failed"))
    await walk(one)
    assert await hot(pool) == failed, "the run has not ended"
    await pool.execute("update run set state = 'failed', ended_at = clock_timestamp() - interval '80 days'")
    await walk(one)
    assert await hot(pool) == failed, "the run ended inside of keep_history"
    await walk(one, keep_history=0.0)
    assert await hot(pool) == failed, "for ever"
    await walk(one, keep_history=79 * DAY)
    assert await hot(pool) == set()


async def test_a_killed_step_leaves_everything_where_it_was(pool: Any, database_url: str, bare_run: int) -> None:
    await ended(pool, bare_run, 200, 2 * DAY)
    await pool.execute("insert into event select n, 'run.start', 1, null, null, null, '{}',"
                       " clock_timestamp() - interval '2 days' from generate_series(1, 50) as n")  # fmt: skip
    before = await snapshot(pool)
    settings = {"search_path": "gristmill,public"}
    victim = await asyncpg.connect(database_url, server_settings=settings)
    transaction = victim.transaction()
    await transaction.start()
    moved = await history.archive(victim, DAY, MONTHS)
    assert moved is not None
    assert (moved.tasks, moved.events) == (200, 49)
    assert await snapshot(pool) == before, "others see what was committed"
    await pool.execute("select pg_terminate_backend($1)", victim.get_server_pid())
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)):
        await transaction.commit()
    assert await snapshot(pool) == before
    assert await pool.fetchval("select count(*) from task_history") == 0
    async with pool.acquire() as connection:
        again = await walk(connection)
    assert (again.tasks, again.events) == (200, 49)
    assert await snapshot(pool) == before


async def test_several_walkers_move_everything_once(pool: Any, bare_run: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "PAGES", 2)
    monkeypatch.setattr(history, "EVENTS", 50)
    await ended(pool, bare_run, 2000, 2 * DAY, attempts=1)
    before = await snapshot(pool)

    async def keep_walking() -> None:
        async with pool.acquire() as connection:
            for _ in range(60):
                await connection.execute("update history_walk set next_at = '-infinity'")
                await history.archive(connection, DAY, MONTHS)

    async def prune() -> Moved:
        async with pool.acquire() as connection:
            return await history.prune(connection, DAY, MONTHS)

    await asyncio.gather(*(keep_walking() for _ in range(4)), prune())
    assert await snapshot(pool) == before
    assert await pool.fetchval("select count(*) from task_history") == 2000
    assert await hot(pool) == set()


async def test_a_second_walker_does_nothing_while_the_first_is_at_it(pool: Any, one: Any, bare_run: int) -> None:
    await ended(pool, bare_run, 10, 2 * DAY)
    async with pool.acquire() as other, one.transaction():
        assert await history.archive(one, DAY, MONTHS)
        assert await history.archive(other, DAY, MONTHS) is None
    assert await pool.fetchval(ALL_TASKS, 10)


async def test_after_a_round_everybody_rests(pool: Any, one: Any, bare_run: int) -> None:
    await ended(pool, bare_run, 10, 2 * DAY)
    await walk(one)
    await ended(pool, bare_run, 10, 2 * DAY)
    assert await history.archive(one, DAY, MONTHS) is None
    wait = await pool.fetchval("select extract(epoch from next_at - clock_timestamp())::float8 from history_walk")
    assert history.REST - 10 < wait <= history.REST


async def test_a_step_begins_where_the_last_one_ended(pool: Any, one: Any, bare_run: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(history, "PAGES", 3)
    await ended(pool, bare_run, 500, 2 * DAY)
    sizes = []
    for _ in range(4):
        await one.execute("update history_walk set next_at = '-infinity'")
        moved = await history.archive(one, DAY, MONTHS)
        assert moved is not None
        sizes.append(moved.tasks)
    assert all(0 < size < 200 for size in sizes)
    assert await pool.fetchval("select page from history_walk") == 12


async def test_a_task_that_somebody_has_locked_is_left_for_the_next_round(pool: Any, one: Any, bare_run: int) -> None:
    ids = await ended(pool, bare_run, 3, 2 * DAY)
    async with pool.acquire() as other, other.transaction():
        await other.execute("select 1 from task where id = $1 for update", ids[1])
        assert (await walk(one)).tasks == 2
    assert (await walk(one)).tasks == 1


async def test_a_step_locks_nobody_out_of_the_hot_tables_or_of_the_history(pool: Any, one: Any, bare_run: int) -> None:
    await ended(pool, bare_run, 20, 2 * DAY)
    await walk(one)
    await ended(pool, bare_run, 20, 30 * DAY)  # its week has to be made
    await one.execute("update history_walk set next_at = '-infinity'")
    async with pool.acquire() as other, one.transaction():
        moved = await history.archive(one, DAY, MONTHS)
        assert moved is not None
        assert moved.tasks == 20
        await other.execute("set lock_timeout = '1ms'")
        held = await other.fetch(
            "select c.relname, l.mode from pg_locks l join pg_class c on c.oid = l.relation"
            " where l.pid = $1 and c.relname in ('task', 'attempt', 'event', 'task_history', 'attempt_history')",
            one.get_server_pid(),
        )
        strong = {(row["relname"], row["mode"]) for row in held}
        assert {mode for name, mode in strong if not name.endswith("_history")} <= {"AccessShareLock", "RowShareLock",
                                                                                    "RowExclusiveLock"}  # fmt: skip
        assert not {mode for _, mode in strong} & {"AccessExclusiveLock", "ExclusiveLock", "ShareLock"}
        assert await other.fetchval("select count(*) from every_task") == 40
        assert await other.fetchval("select count(*) from every_attempt") == 80
        await other.execute("update task_history set held = 'written'")
        await other.execute("reset lock_timeout")


async def test_each_week_has_its_partition_and_old_ones_are_dropped_as_a_whole(
    pool: Any, one: Any, bare_run: int
) -> None:
    for days in (3, 10, 24, 80):
        await ended(pool, bare_run, 4, days * DAY)
    await walk(one)
    names = [row["name"] for row in await pool.fetch("select name from history_week where name like 'task%'")]
    assert len(names) == 4
    moved = await walk(one, keep_history=50 * DAY)
    assert moved.dropped == [names[0].replace("task_", "attempt_"), names[0].replace("task_", "event_"), names[0]]
    assert await pool.fetchval("select count(*) from every_task") == 12
    assert await pool.fetchval("select count(*) from every_attempt") == 24
    assert (await walk(one, keep_history=0.0)).dropped == []
    assert len(await pool.fetch("select 1 from run")) == 1


async def test_a_week_that_somebody_reads_is_dropped_in_a_later_round(pool: Any, one: Any, bare_run: int) -> None:
    await ended(pool, bare_run, 4, 80 * DAY)
    await walk(one)
    async with pool.acquire() as reader, reader.transaction():
        await reader.fetch("select * from task_history")
        moved = await walk(one, keep_history=50 * DAY)
        assert not any(name.startswith("task_") for name in moved.dropped)
        assert len(await reader.fetch("select * from task_history")) == 4
    assert any(name.startswith("task_") for name in (await walk(one, keep_history=50 * DAY)).dropped)


async def test_what_is_older_than_all_history_goes_without_becoming_history(pool: Any, one: Any, bare_run: int) -> None:
    await ended(pool, bare_run, 4, 100 * DAY)
    moved = await walk(one)
    assert (moved.tasks, moved.forgotten, moved.dropped) == (0, 4, [])
    assert await pool.fetchval("select (select count(*) from every_attempt) + (select count(*) from history_week)") == 0


async def test_results_stay_as_long_as_history_does(pool: Any, one: Any, bare_run: int) -> None:
    ids = await ended(pool, bare_run, 3, 2 * DAY)
    late = await ended(pool, bare_run, 1, 100 * DAY, "failed")  # still hot: its run has not ended
    await pool.execute(
        "insert into result (task_id, token, value, at) select n, gen_random_uuid(), '1', clock_timestamp() - interval"
        " '2 days' - (n > $2)::int * interval '100 days' from unnest($1::bigint[]) as n", [*ids, *late], ids[1],
    )  # fmt: skip
    moved = await walk(one)
    assert moved.results == 1
    left = await pool.fetch("select task_id from result order by 1")
    assert [row["task_id"] for row in left] == [*ids[:2], *late]


async def test_events_move_in_order_and_the_newest_always_stays(pool: Any, one: Any) -> None:
    for days in (20, 5, 3, 1.5):
        await pool.execute(
            "insert into event_inbox (name, run_id, at)"
            " select 'run.start', 1, clock_timestamp() - $1::float8 * interval '1 day' from generate_series(1, 10)",
            days,
        )  # fmt: skip
        await upkeep.fold(one)
    everything, _ = await events.after(pool, 0)
    moved = await walk(one)
    assert moved.events == 39
    assert await pool.fetchval("select array_agg(seq) from event") == [40]
    for cursor in (0, 7, 38, 39, 40):
        found, last = await events.after(pool, cursor, run_id=1)
        assert found == [event for event in everything if event.seq > cursor]
        assert last == 40
    page, last = await events.after(pool, 35, limit=5)
    assert ([event.seq for event in page], last) == ([36, 37, 38, 39, 40], 40)
    await pool.execute("insert into event_inbox (name, run_id) values ('run.end', 1)")
    await upkeep.fold(one)
    assert await pool.fetchval("select max(seq) from event") == 41, "numbers go on and are never given twice"


async def test_an_old_event_behind_a_young_one_waits_for_it(pool: Any, one: Any) -> None:
    await pool.execute(
        "insert into event select n, 'run.start', 1, null, null, null, '{}', clock_timestamp() - case n when 2 then 0"
        " else 2 end * interval '1 day' from generate_series(1, 5) as n"
    )
    assert (await walk(one)).events == 1
    assert [e.seq for e in (await events.after(pool, 0))[0]] == [1, 2, 3, 4, 5]


async def test_history_has_the_columns_of_the_hot_tables_in_their_order(pool: Any) -> None:
    async def columns(table: str) -> list[tuple[str, str]]:
        rows = await pool.fetch(
            "select attname, format_type(atttypid, atttypmod) as type from pg_attribute"
            " where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum", table,
        )  # fmt: skip
        return [tuple(row) for row in rows]

    assert await columns("task_history") == await columns("task")
    assert (await columns("attempt_history"))[:-1] == await columns("attempt")
    assert await columns("event_history") == await columns("event")
    for view in ("every_task", "every_attempt", "every_event"):
        assert "version 1" in await pool.fetchval("select obj_description($1::regclass)", view)


async def test_the_state_of_a_task_that_is_history_can_be_asked_for(pool: Any, one: Any, bare_run: int) -> None:
    done = await ended(pool, bare_run, 1, 2 * DAY)
    gone = await ended(pool, bare_run, 1, 2 * DAY, "cancelled")
    young = await ended(pool, bare_run, 1, 0)
    await walk(one)
    assert await history.states(pool, [*done, *gone, *young, 10**9]) == {done[0]: "completed", gone[0]: "cancelled"}


async def test_readers_say_the_same_before_and_after_and_a_retry_finds_its_failures(
    app: App, hand: Hand, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "b.txt").write_text("three\n")
    (folder / "bad.txt").write_text("refuse\n")
    run = await app.start(FLOW, [folder])
    await hand.drain(run)

    async def said() -> list[Any]:
        progress = await run.progress()
        async with app.pool.acquire() as connection:
            verdict = await connection.fetchrow(upkeep.workflow.SQL["verdict"], run.id)
        told = [event async for event in run.events(0)]
        return [progress.state, progress.steps, await run.failures(), await run.held_by(), dict(verdict), told,
                [row async for row in run.rows()]]  # fmt: skip

    before = await said()
    await app.pool.execute(
        "update task set ended_at = ended_at - interval '2 days', claimed_at = claimed_at - interval '2 days'"
    )
    await app.pool.execute("update event set at = at - interval '2 days'")
    aged = await said()
    async with app.pool.acquire() as connection:
        moved = await walk(connection)
    assert moved.tasks > 3
    assert moved.events > 0
    after = await said()
    assert after == aged
    assert before[:5] + before[6:] == after[:5] + after[6:]
    assert await app.pool.fetchval("select array_agg(distinct state) from task") == ["failed"]
    (folder / "c.txt").write_text("four\n")
    again = await app.start(FLOW, [folder])
    await hand.drain(again)
    assert await run.retry() == 1


def run_prune(database_url: str, home: Path, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "GRISTMILL_DATABASE_URL": database_url}
    done = subprocess.run(
        [sys.executable, "-m", "gristmill", "db", "prune", "--home", str(home), "--json", *arguments],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def test_prune_does_at_once_what_its_dry_run_has_counted(
    pool: Any, one: Any, bare_run: int, database_url: str, tmp_path: Path
) -> None:
    await ended(pool, bare_run, 12, 80 * DAY)
    await walk(one)
    await ended(pool, bare_run, 20, 2 * DAY)
    await ended(pool, bare_run, 4, 100 * DAY)
    before = await snapshot(pool)
    counted = await asyncio.to_thread(run_prune, database_url, tmp_path, "--dry-run")
    assert (counted["dry_run"], counted["tasks_to_history"], counted["tasks_forgotten"]) == (True, 20, 4)
    assert await snapshot(pool) == before
    done = await asyncio.to_thread(run_prune, database_url, tmp_path)
    assert {**done, "dry_run": True} == counted
    assert await hot(pool) == set()
    assert await pool.fetchval("select count(*) from task_history") == 32


async def test_a_task_moves_while_others_are_made_claimed_and_settled(
    pool: Any, one: Any, bare_run: int, enqueue: Enqueue, claimer: queue.Claimer
) -> None:
    await ended(pool, bare_run, 3000, 2 * DAY, attempts=1)
    await enqueue(*[{}] * 300)

    async def work() -> int:
        done = 0
        while tasks := await queue.claim(pool, claimer, {"*": 30}, ["bare"]):
            async with pool.acquire() as connection, connection.transaction():
                done += len(await queue.settle(connection, claimer, [(task, "ok") for task in tasks]))
        return done

    walked, done = await asyncio.gather(walk(one), work())
    assert (walked.tasks, done) == (3000, 300)
    assert await pool.fetchval(ALL_TASKS, 3300)
