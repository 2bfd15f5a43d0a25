"""Events are numbered once, in order; hooks get one task for each; readers with a cursor miss nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.engine import events, feed, hooks, queue, upkeep, workflow
from gristmill.engine.events import Event
from gristmill.errors import UsageError
from tests.engine.conftest import Enqueue, Processes, register, until
from tests.engine.plans import watched


async def add(pool: asyncpg.Pool[Any], name: str, *on: str, **more: Any) -> hooks.Hook:
    async with transaction(pool) as connection:
        return await hooks.add(connection, name, on, more.pop("kind", "bare"), **more)


async def fold(pool: asyncpg.Pool[Any]) -> None:
    async with pool.acquire() as connection:
        while await events.unnumbered(connection):
            await upkeep.fold(connection)


async def tell(pool: asyncpg.Pool[Any], name: str, run_id: int | None, **body: Any) -> None:
    async with transaction(pool) as connection:
        await workflow.tell(connection, name, run_id, body)


async def told(pool: asyncpg.Pool[Any], hook: hooks.Hook) -> list[dict[str, Any]]:
    """The events that a hook has tasks for, in the order of their numbers."""
    rows = await pool.fetch("select payload from task where run_id = $1", hook.run_id)
    return sorted((json.loads(row["payload"])["event"] for row in rows), key=lambda event: event["seq"])


async def test_an_event_becomes_one_task_of_each_hook_that_asked_for_it(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    await fold(pool)
    ends = await add(pool, "ends", "run.end", options={"channel": "mill"})
    all_of_runs = await add(pool, "runs", "run.*")
    other = await add(pool, "other", "worker.*", "step.failed")
    await tell(pool, "run.end", bare_run, state="partial", epoch=1)
    await tell(pool, "run.retry", bare_run, tasks=3)
    await fold(pool)
    assert [e["name"] for e in await told(pool, ends)] == ["run.end"]
    assert [e["name"] for e in await told(pool, all_of_runs)] == ["run.end", "run.retry"]
    assert await told(pool, other) == []
    task = await pool.fetchrow("select * from task where run_id = $1", ends.run_id)
    payload = json.loads(task["payload"])
    assert payload["options"] == {"channel": "mill"}
    assert payload["hook"] == {"id": ends.id, "name": "ends"}
    assert payload["event"]["body"] == {"state": "partial", "epoch": 1}
    assert payload["event"]["run_id"] == bare_run != task["run_id"]
    assert (task["kind"], task["pool"], task["max_attempts"]) == ("bare", "notify", 20)


async def test_a_fold_that_dies_before_its_commit_loses_and_doubles_nothing(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    hook = await add(pool, "all", "run.*")
    await tell(pool, "run.end", bare_run, state="failed", epoch=1)
    dying = await pool.acquire()
    await dying.transaction().start()
    assert await dying.fetchval(events.SQL["try_fold"], events.FOLD_CLASS)
    assert await hooks.number_events(dying) == 1  # numbered, the hook's task made, and not committed
    async with pool.acquire() as second:
        assert not await upkeep.fold(second)
        await second.execute("select pg_terminate_backend($1)", dying.get_server_pid())
        await until(lambda: upkeep.fold(second))
        await upkeep.fold(second)
    assert [e["name"] for e in await told(pool, hook)] == ["run.end"]
    assert await pool.fetchval("select count(*) from event where name = 'run.end'") == 1


async def test_numbers_have_no_gap_and_follow_the_order_of_commits(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    await fold(pool)
    start = await pool.fetchval(events.SQL["last_event"])
    slow = await pool.acquire()
    await slow.execute("begin")
    await workflow.tell(slow, "run.retry", bare_run, {"tasks": 1})  # takes the lower id, is committed last
    await tell(pool, "run.end", bare_run, state="failed", epoch=1)
    await fold(pool)
    first, cursor = await events.after(pool, start)
    assert [e.name for e in first] == ["run.end"]
    await slow.execute("commit")
    await fold(pool)
    second, _ = await events.after(pool, cursor)
    assert [e.name for e in second] == ["run.retry"]
    assert [e.seq for e in first + second] == [start + 1, start + 2]
    await pool.release(slow)


async def test_folding_five_thousand_events_with_a_hook_for_all_reads_each_a_few_times(
    pool: asyncpg.Pool[Any], database_url: str, bare_run: int
) -> None:
    await fold(pool)
    fill = "insert into event_inbox (name, run_id, body) select 'run.retry', $1, '{}' from generate_series(1, 5000)"
    async with watched(database_url) as watch:
        for hook in (None, "run.end", "run.retry"):
            if hook is not None:
                await add(pool, hook.replace(".", "-"), hook)
            await pool.execute(fill, bare_run)
            await watch.take()
            assert await upkeep.fold(watch.connection)
            seen = await watch.take()
            assert seen
            assert max(one.visited for one in seen) <= 4 * 5000, [str(one) for one in seen]
            assert max(one.pages for one in seen) <= 40 * 5000, [str(one) for one in seen]
    assert await pool.fetchval("select count(*) from task where kind = 'bare' and pool = 'notify'") == 5000


async def test_what_happens_in_the_runs_of_hooks_is_told_to_no_hook(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    await fold(pool)
    one = await add(pool, "one", "*")
    two = await add(pool, "two", "*")
    await tell(pool, "step.failed", one.run_id, step=0, code="N204", message="refused")
    await tell(pool, "step.failed", bare_run, step=0, code="T300", message="real work")
    await fold(pool)
    assert [e["run_id"] for e in await told(pool, one)] == [bare_run]
    assert [e["run_id"] for e in await told(pool, two)] == [bare_run]
    read, _ = await events.after(pool, 0, names=["step.failed"])
    assert [e.run_id for e in read] == [one.run_id, bare_run]  # readers see both


async def test_a_hook_of_a_run_or_of_another_project_is_told_nothing_else(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    async with transaction(pool) as connection:
        steps = (workflow.Step("first", "bare"),)
        second, _ = await workflow.find_or_create(connection, workflow.NewRun("other", "test", steps, {}))
    await fold(pool)
    mine = await add(pool, "mine", "run.*", of_run=bare_run)
    foreign = await add(pool, "foreign", "run.*", "worker.*", project="elsewhere")
    await tell(pool, "run.end", bare_run, state="completed", epoch=1)
    await tell(pool, "run.end", second, state="completed", epoch=1)
    await tell(pool, "worker.died", None, cause="a test", tasks=0)
    await fold(pool)
    assert [e["run_id"] for e in await told(pool, mine)] == [bare_run]
    assert [e["name"] for e in await told(pool, foreign)] == ["worker.died"]  # workers belong to no project


async def test_with_every_a_storm_becomes_one_task_for_each_name_and_run(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    hook = await add(pool, "storm", "step.failed", "run.end", options={"every": 86_400})
    for number in range(3):
        for _ in range(4):
            await tell(pool, "step.failed", bare_run, step=0, code="T300", message=f"piece {number}")
        await fold(pool)
    await tell(pool, "run.end", bare_run, state="partial", epoch=1)
    await fold(pool)
    assert [e["name"] for e in await told(pool, hook)] == ["step.failed", "run.end"]
    later = await pool.fetchval("select bool_and(run_at > clock_timestamp()) from task where run_id = $1", hook.run_id)
    assert later


async def test_a_body_that_no_task_can_carry_does_not_stop_the_numbering(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    hook = await add(pool, "all", "run.*")
    insert = "insert into event_inbox (name, run_id, body) values ('run.retry', $1, $2)"
    deep = '{"a":' * 100 + "1" + "}" * 100
    for body in (json.dumps({"text": "x" * 400_000}), '{"text": "\\u0000"}', deep, '{"tasks": 1}'):
        await pool.execute(insert, bare_run, body)
    await fold(pool)
    assert not await events.unnumbered(pool)
    bodies = [event["body"] for event in await told(pool, hook)]
    assert len(bodies) == 4
    assert bodies[-1] == {"tasks": 1}
    assert bodies[0] == {"left_out": 400_012}


async def test_removing_a_hook_cancels_what_it_had_to_do_and_the_name_is_free(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    other = await add(pool, "other", "*")
    hook = await add(pool, "ends", "run.end")
    await tell(pool, "run.end", bare_run, state="completed", epoch=1)
    await fold(pool)
    async with transaction(pool) as connection:
        assert await hooks.remove(connection, "ends") == 1
    await fold(pool)
    assert [e["name"] for e in await told(pool, other)] == ["run.end"]  # and nothing about the end of the hook
    await tell(pool, "run.end", bare_run, state="completed", epoch=2)
    await fold(pool)
    assert len(await told(pool, hook)) == 1
    again = await add(pool, "ends", "run.end")
    assert again.run_id != hook.run_id
    with pytest.raises(UsageError, match="no hook"):
        async with transaction(pool) as connection:
            await hooks.remove(connection, "nobody")


@pytest.mark.parametrize(
    ("name", "on", "options", "code"),
    [
        ("a", [], {}, "U350"), ("a", ["run.ended"], {}, "U350"), ("a", ["*.end"], {}, "U350"), ("a", [""], {}, "U350"),
        ("a b", ["run.end"], {}, "U351"), ("", ["run.end"], {}, "U351"), ("a", ["run.end"], {"x": {1}}, "U351"),
        ("a", ["run.end"], {"x": "y" * 70_000}, "U351"), ("a", ["run.end"], {"x": "\0"}, "U351"),
        ("a", ["run.end"], {"every": "1"}, "U351"), ("a", ["run.end"], {"every": -1}, "U351"),
        ("taken", ["run.end"], {}, "U352"),
    ],
)  # fmt: skip
async def test_a_hook_that_cannot_work_is_refused_at_the_door(
    pool: asyncpg.Pool[Any], name: str, on: list[str], options: dict[str, Any], code: str
) -> None:
    await add(pool, "taken", "run.end")
    with pytest.raises(UsageError) as caught:
        await add(pool, name, *on, options=options)
    assert caught.value.code == code
    assert caught.value.hint or code == "U351"


async def test_a_hook_runs_on_a_worker_and_is_told_of_a_death(
    pool: asyncpg.Pool[Any], enqueue: Enqueue, processes: Processes, watching: Any
) -> None:
    hook = await add(pool, "deaths", "worker.died", "step.quarantined")
    await enqueue({"do": "die"})
    first = [processes.start(pools={"*": 4, "notify": 2}) for _ in range(3)]

    async def all_ended() -> bool:
        return all(process.poll() is not None for process in first)

    await until(all_ended)
    processes.start(pools={"*": 4, "notify": 2})
    await watching("select count(*) >= 1 from event where name = 'step.quarantined'")
    done = "select count(*) from task where run_id = $1 and state = 'completed'"
    wanted = "select count(*) from event where name in ('worker.died', 'step.quarantined')"
    await until(lambda: _equal(pool, done, wanted, hook.run_id))
    rows = await pool.fetch(
        "select t.id, count(*) as n from task t join attempt a on a.task_id = t.id and a.outcome = 'completed'"
        " where t.run_id = $1 group by t.id", hook.run_id,
    )  # fmt: skip
    assert {row["n"] for row in rows} == {1}  # recorded once each


async def _equal(pool: asyncpg.Pool[Any], one: str, two: str, run_id: int) -> bool:
    return bool(await pool.fetchval(one, run_id) == await pool.fetchval(two) > 0)


async def test_an_envelope_cannot_be_changed() -> None:
    event = Event(1, "run.end", 1, None, None, None, {}, "2020-01-01T00:00:00+00:00")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.seq = 2  # type: ignore[misc]


async def collect(stream: AsyncIterator[Event], number: int) -> list[Event]:
    found: list[Event] = []
    async for event in stream:
        found.append(event)
        if len(found) == number:
            break
    return found


async def test_readers_with_a_cursor_get_everything_once_and_do_not_wait_for_each_other(
    pool: asyncpg.Pool[Any], bare_run: int
) -> None:
    await fold(pool)
    start = await pool.fetchval(events.SQL["last_event"])
    stuck = feed.events(pool, start)
    waiting = asyncio.create_task(collect(feed.events(pool, start, names=["run.end"]), 600))

    async def raising() -> None:
        async for _ in feed.events(pool, start):
            raise ValueError("a subscriber of its own")

    broken = asyncio.create_task(raising())
    insert = (
        "insert into event_inbox (name, run_id, body) select case n % 2 when 0 then 'run.end' else 'run.retry' end, $1,"
        " '{}' from generate_series(1, 300) n"
    )
    await pool.execute(insert, bare_run)
    await anext(stuck)  # and never again
    for _ in range(3):
        await pool.execute(insert, bare_run)
    got = await asyncio.wait_for(waiting, 20)
    assert len({event.seq for event in got}) == 600
    assert [event.seq for event in got] == sorted(event.seq for event in got)
    assert {event.name for event in got} == {"run.end"}
    with pytest.raises(ValueError, match="of its own"):
        await broken
    rest = await collect(feed.events(pool, got[299].seq, names=["run.end"], run_id=bare_run), 300)
    assert rest == got[300:]


async def test_a_reader_goes_on_after_its_connections_were_killed(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    await fold(pool)
    start = await pool.fetchval(events.SQL["last_event"])
    reading = asyncio.create_task(collect(feed.events(pool, start), 2))
    await tell(pool, "run.retry", bare_run, tasks=1)
    await until(lambda: pool.fetchval("select max(seq) > $1 from event", start))
    await pool.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid()"
    )

    async def again() -> bool:
        try:
            await tell(pool, "run.end", bare_run, state="completed", epoch=1)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        return True

    await until(again)
    assert [event.name for event in await asyncio.wait_for(reading, 20)] == ["run.retry", "run.end"]


async def test_a_reader_of_now_sees_nothing_of_before(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    reading = asyncio.create_task(collect(feed.events(pool), 1))
    for _ in range(100):  # until it has begun
        await tell(pool, "run.retry", bare_run, tasks=1)
        await asyncio.wait({reading}, timeout=0.1)
        if reading.done():
            break
    assert [event.name for event in await reading] == ["run.retry"]
    with pytest.raises(UsageError, match="no event is called"):
        await anext(feed.events(pool, names=["nonsense"]))


async def test_a_cursor_steps_over_what_does_not_fit(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    await fold(pool)
    start = await pool.fetchval(events.SQL["last_event"])
    for _ in range(3):
        await tell(pool, "run.retry", bare_run, tasks=1)
    await fold(pool)
    found, cursor = await events.after(pool, start, names=["run.end"])
    assert (found, cursor) == ([], start + 3)


async def test_events_carry_the_bodies_that_the_catalogue_names(pool: asyncpg.Pool[Any], bare_run: int) -> None:
    claimer = await register(pool)
    async with transaction(pool) as connection:
        await queue.enqueue(connection, [queue.NewTask(bare_run, "bare", payload="{}", max_attempts=1)])
    task = (await queue.claim(pool, claimer, {"*": 1}, ["bare"]))[0]
    async with transaction(pool) as connection:
        await queue.fail(connection, claimer, task, queue.Failure("T300", "E", "no", retry=False))
        await workflow.seal(connection, bare_run, [], [], [])
    async with pool.acquire() as connection:
        await workflow.advance(connection, bare_run)
        await workflow.retry(connection, bare_run)
        await workflow.cancel(connection, bare_run)
    await fold(pool)
    found, _ = await events.after(pool, 0)
    assert {"run.start", "step.failed", "run.end", "run.retry"} <= {event.name for event in found}
    for event in found:
        kind = events.CATALOGUE[event.name]
        assert set(kind.body) <= set(event.body) <= {*kind.body, *kind.sometimes}, event
        for name in kind.ids:
            assert getattr(event, name) is not None, (event, name)
