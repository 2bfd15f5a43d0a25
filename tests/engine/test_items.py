"""Items: one end in each round, whatever happens at the same time; pause and cancel of one input."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import transaction
from gristmill.engine import items, queue, workflow
from gristmill.engine.queue import Claimer
from gristmill.engine.workflow import NewItem, NewRun, Step
from tests.engine.conftest import Processes
from tests.engine.story import Story, begin

TWO = (Step("a", "bare"), Step("b", "bare"))
Begin = Callable[..., Awaitable[Story]]
Watching = Callable[..., Awaitable[Any]]


@pytest.fixture
def run_of(pool: asyncpg.Pool[Any], claimer: Claimer) -> Begin:
    async def made(steps: tuple[Step, ...] = TWO, **more: Any) -> Story:
        return await begin(pool, claimer, steps, **more)

    return made


async def test_an_item_ends_once_however_many_look(run_of: Begin) -> None:
    story = await run_of()
    names = [f"{n:03}" for n in range(50)]
    await story.inputs(*names)
    await story.work()
    await asyncio.gather(*(story.finish_items() for _ in range(6)))
    assert set((await story.outcomes()).values()) == {"completed"}
    assert await story.events("item.end", "item.failed") == ["item.end"] * 50


async def test_an_item_is_told_to_end_before_its_run(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x")
    assert await story.through() == "completed"
    assert await story.events("item.end", "run.end") == ["item.end", "run.end"]


async def test_an_item_with_something_open_does_not_end(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x")
    (task,) = await story.claim()
    async with transaction(story.pool) as connection:
        await story.settle(connection, task)
        await story.finish_items()  # sees neither the end of the task nor its follower
    await story.finish_items()
    assert await story.outcomes() == {"x": None}


async def test_a_process_that_is_killed_in_between_leaves_the_notes_to_the_next_one(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x")
    await story.work()
    connection = await asyncpg.connect(**connection_of(story.pool))
    killed = connection.transaction()
    await killed.start()
    assert await workflow.finish_items(connection) == 1  # written, and not committed
    assert await story.finish_items() == 0
    connection.terminate()
    async with asyncio.timeout(10):
        while not await story.finish_items():
            await asyncio.sleep(0.02)
    assert await story.events("item.end") == ["item.end"]


def connection_of(pool: asyncpg.Pool[Any]) -> dict[str, Any]:
    return dict(pool._connect_kwargs) | {"dsn": pool._connect_args[0]}


async def test_a_retry_gives_a_failed_item_another_end(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    assert await story.through(broken=(1,)) == "failed"
    assert await story.outcomes() == {"x": "failed", "y": "failed"}
    assert await story.retry() == 2
    assert await story.outcomes() == {"x": None, "y": None}
    assert await story.through() == "completed"
    assert await story.events("item.") == [*["item.start"] * 2, *["item.failed"] * 2, *["item.end"] * 2]


async def test_an_item_that_cannot_be_read_has_failed_at_once_and_says_why(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", unreadable=["z"])
    body = await story.pool.fetchval("select body from event_inbox where name = 'item.failed'")
    assert json.loads(body) | {"epoch": 0} == {
        "name": "z", "outcome": "failed", "epoch": 0, "code": "F101", "message": "why",
    }  # fmt: skip
    assert await story.through() == "partial"
    assert await story.events("item.failed") == ["item.failed"]


@pytest.mark.parametrize(("detail", "told"), [(0, 0), (1, 2), (2, 2)])
async def test_events_of_items_are_told_when_the_run_asks_for_them(run_of: Begin, detail: int, told: int) -> None:
    story = await run_of(detail=detail)
    await story.inputs("x")
    await story.through()
    assert len(await story.events("item.")) == told
    assert await story.outcomes() == {"x": "completed"}
    assert await story.events("run.") == ["run.start", "run.end"]


async def test_an_input_that_no_longer_counts_has_ended(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    await story.inputs("y")
    await story.finish_items()
    assert await story.outcomes() == {"x": "cancelled", "y": None}
    await story.inputs("x", "y")
    assert await story.outcomes() == {"x": None, "y": None}
    assert await story.through() == "completed"


async def test_a_cancelled_run_ends_its_items(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    async with transaction(story.pool) as connection:
        await workflow.cancel(connection, story.id)
    await story.finish_items()
    assert await story.outcomes() == {"x": "cancelled", "y": "cancelled"}


async def item(story: Story, name: str) -> int:
    return int(await story.pool.fetchval("select id from item where run_id = $1 and name = $2", story.id, name))


async def test_a_paused_item_waits_and_goes_on(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    number = await item(story, "x")
    async with transaction(story.pool) as connection:
        assert await items.pause_items(connection, [number]) == [number]
        assert await items.pause_items(connection, [number]) == []
    assert await story.work() == [0, 1]
    assert await story.advance() is None
    assert await story.outcomes() == {"x": None, "y": "completed"}
    async with transaction(story.pool) as connection:
        assert await items.resume_items(connection, [number]) == [number]
    assert await story.work() == [0, 1]
    assert await story.advance() == "completed"
    assert await story.events("item.pause", "item.resume") == ["item.pause", "item.resume"]
    await story.counters_agree()


async def test_what_slips_through_a_pause_is_held_at_the_next_beat(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x")
    (task,) = await story.claim()
    async with transaction(story.pool) as connection:
        await items.pause_items(connection, [await item(story, "x")])
    await story.settle(story.pool, task)
    assert len(await queue.park(story.pool)) == 1
    assert await story.work() == []


async def test_a_cancelled_item_is_over_and_what_slips_through_goes_too(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    number = await item(story, "x")
    async with transaction(story.pool) as connection:
        assert await items.cancel_items(connection, [number]) == [number]
        assert await items.cancel_items(connection, [number]) == []
        await queue.enqueue(connection, [queue.NewTask(story.id, "bare", item_id=number, step=1)])
    await story.finish_items()
    assert await story.tasks(1) == ["cancelled"]
    assert await story.work() == [0, 1]
    assert await story.advance() == "completed"
    assert await story.outcomes() == {"x": "cancelled", "y": "completed"}
    assert await story.events("item.end") == ["item.end"] * 2


async def test_a_cancelled_item_begins_anew_when_somebody_wants_it_back(run_of: Begin) -> None:
    story = await run_of()
    await story.inputs("x", "y")
    number = await item(story, "x")
    async with transaction(story.pool) as connection:
        await items.cancel_items(connection, [number])
    assert await story.through() == "completed"
    async with transaction(story.pool) as connection:
        assert await items.release_items(connection, [number]) == [number]
    await story.inputs("x", "y")
    assert await story.work() == [0, 1]
    assert await story.advance() == "completed"
    assert await story.outcomes() == {"x": "completed", "y": "completed"}


async def a_live_run(pool: asyncpg.Pool[Any], seconds: float) -> tuple[int, int, int]:
    """A sealed run with two items whose tasks sleep: ids of the run and of the items."""
    await pool.execute("create table done (task_id bigint primary key, fence bigint, worker integer)")
    async with transaction(pool) as connection:
        run_id, _ = await workflow.find_or_create(connection, NewRun("test", "test", TWO[:1], {}))
        payload = {"do": "sleep", "seconds": seconds}
        new = [NewItem(hashlib.sha256(n.encode()).digest(), n, n, payload=payload) for n in ("x", "y")]
        ids = list((await workflow.add_items(connection, run_id, new)).values())
        await workflow.seal(connection, run_id, [], ["x", "y"], ids)
    return run_id, ids[0], ids[1]


async def test_a_worker_process_hears_of_a_cancelled_item_within_a_beat(
    pool: asyncpg.Pool[Any], processes: Processes, watching: Watching
) -> None:
    run_id, x, y = await a_live_run(pool, 30.0)
    processes.start()
    await watching("select count(*) = 2 from task where state = 'running'")
    async with transaction(pool) as connection:
        assert await items.cancel_items(connection, [x]) == [x]
    await queue.hint(pool, "cancel")
    await watching("select outcome = 'cancelled' from item where id = $1", x, limit=5)
    async with asyncio.timeout(10):
        while "its claim is gone" not in processes.text():
            await asyncio.sleep(0.05)
    async with transaction(pool) as connection:
        assert await workflow.cancel(connection, run_id) == 1
    await watching("select outcome = 'cancelled' from item where id = $1", y, limit=10)
    assert await pool.fetchval("select count(*) from done") == 0


async def test_a_worker_process_heeds_pauses_of_runs_and_items(
    pool: asyncpg.Pool[Any], processes: Processes, watching: Watching
) -> None:
    run_id, x, y = await a_live_run(pool, 0.0)
    async with transaction(pool) as connection:
        await items.pause_items(connection, [x])
    assert await pool.fetchval(workflow.SQL["pause"], run_id) == run_id
    processes.start()
    await watching("select true from worker where state = 'alive'")
    assert await pool.fetchval("select count(*) from attempt") == 0
    await pool.fetchval(workflow.SQL["resume"], run_id)
    await watching("select outcome = 'completed' from item where id = $1", y)
    assert await pool.fetchval("select state from task where item_id = $1", x) == "waiting"
    async with transaction(pool) as connection:
        await items.resume_items(connection, [x])
    await watching("select state = 'completed' from run")
    assert await pool.fetchval("select count(*) from event where name = 'run.end'") in (0, 1)


async def test_killed_housekeepers_neither_lose_nor_double_an_end(
    pool: asyncpg.Pool[Any], processes: Processes, watching: Watching
) -> None:
    await pool.execute("create table done (task_id bigint primary key, fence bigint, worker integer)")
    async with transaction(pool) as connection:
        run_id, _ = await workflow.find_or_create(connection, NewRun("test", "test", TWO[:1], {}))
        new = [NewItem(hashlib.sha256(bytes([n])).digest(), f"{n}", f"{n}") for n in range(200)]
        ids = list((await workflow.add_items(connection, run_id, new)).values())
        await workflow.seal(connection, run_id, [], [i.uri for i in new], ids)
    started = [processes.start(probe=0.02) for _ in range(2)]
    await watching("select count(*) > 20 from item where outcome is not null")
    for process in started:
        process.send_signal(signal.SIGKILL)
    processes.start(probe=0.02)
    await watching("select state = 'completed' from run")
    counted = await pool.fetch(
        "select name, count(*) as n, count(distinct item_id) as items from"
        " (select name, item_id from event union all select name, item_id from event_inbox) e"
        " where name in ('item.end', 'item.failed', 'run.end') group by 1 order by 1"
    )
    assert [tuple(row) for row in counted] == [("item.end", 200, 200), ("run.end", 1, 0)]
