"""Schedules on a real server: every tick gives its task once, whoever dies and however late anybody looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import connect
from gristmill.engine import queue, schedule
from gristmill.engine.schedule import MOST, NewSchedule
from gristmill.errors import UsageError
from tests.engine.conftest import Processes

BARE = NewSchedule("minutes", "bare", cron="* * * * *")


@pytest.fixture
async def connection(pool: Any) -> AsyncIterator[Any]:
    await pool.execute("create table done (task_id bigint primary key, fence bigint, worker integer)")
    async with pool.acquire() as one:
        yield one


async def add(connection: Any, **changes: Any) -> schedule.Added:
    fields: dict[str, Any] = {"name": "minutes", "kind": "bare"} | changes
    if "cron" not in fields and "every" not in fields:
        fields["cron"] = "* * * * *"
    async with connection.transaction():
        return await schedule.add(connection, NewSchedule(**fields))


async def late(connection: Any, by: timedelta) -> datetime:
    """Moves the next tick into the past, as if nobody had looked for so long; returns where it is now."""
    moved: datetime = await connection.fetchval(
        "update schedule set next_at = next_at - $1::interval returning next_at", by
    )
    return moved


async def made(connection: Any) -> list[dict[str, Any]]:
    rows = await connection.fetch("select payload from task order by id")
    return [json.loads(row["payload"])["schedule"] for row in rows]


async def told(connection: Any, name: str) -> list[dict[str, Any]]:
    rows = await connection.fetch(
        "select body from event_inbox where name = $1 union all select body from event where name = $1", name
    )
    return [json.loads(row["body"]) for row in rows]


async def test_a_tick_makes_one_task_that_says_which_tick_it_is(connection: Any) -> None:
    await add(connection, payload='{"do": "sleep", "seconds": 0}', pool="slow", max_attempts=2, timeout=7.0)
    assert await schedule.due(connection) == 0  # its time has not come
    tick = await late(connection, timedelta(minutes=1))
    assert await schedule.due(connection) == 1
    assert await schedule.due(connection) == 0
    row = await connection.fetchrow("select * from task")
    about = {"name": "minutes", "tick": tick.isoformat(), "missed": 0}
    assert json.loads(row["payload"]) == {"do": "sleep", "seconds": 0, "schedule": about}
    assert (row["kind"], row["pool"], row["max_attempts"], row["timeout"]) == ("bare", "slow", 2, 7.0)
    assert await told(connection, "schedule.fired") == [
        {"schedule": "minutes", "tick": tick.isoformat(), "tasks": 1, "missed": 0}
    ]
    (entry,) = await schedule.listed(connection)
    assert entry.last_at == tick
    assert entry.outcome == "available"
    assert entry.next_at == tick + timedelta(minutes=1)


async def test_two_duties_at_once_fire_each_tick_once(pool: Any, connection: Any) -> None:
    for number in range(20):
        await add(connection, name=f"s{number}")
    await connection.execute("update schedule set next_at = next_at - interval '1 minute'")
    others = [await pool.acquire() for _ in range(4)]
    counts = await asyncio.gather(*(schedule.due(other) for other in others))
    for other in others:
        await pool.release(other)
    assert sum(counts) == 20
    assert await connection.fetchval("select count(*), count(distinct key) from task") == 20


async def test_a_process_killed_between_the_task_and_the_next_tick_leaves_the_tick_to_others(
    database_url: str, connection: Any
) -> None:
    await add(connection)
    tick = await late(connection, timedelta(minutes=1))
    dying = await connect(database_url)
    await dying.execute("begin")
    row = await dying.fetchrow(schedule.SQL["lock_due"], 1)
    assert await schedule._make(dying, row, row["run_id"], [tick], 0) == 1
    assert await schedule.due(connection) == 0  # somebody is at it: nobody waits, nothing is made twice
    await connection.execute("select pg_terminate_backend($1)", dying.get_server_pid())
    async with asyncio.timeout(20):
        while not await schedule.due(connection):
            await asyncio.sleep(0.02)
    dying.terminate()
    assert [about["tick"] for about in await made(connection)] == [tick.isoformat()]


async def test_a_tick_that_has_its_task_gets_no_second_one_even_when_the_row_is_set_back(connection: Any) -> None:
    await add(connection)
    await late(connection, timedelta(minutes=1))
    assert await schedule.due(connection) == 1
    await late(connection, timedelta(minutes=1))
    assert await schedule.due(connection) == 0
    assert len(await made(connection)) == 1
    assert len(await told(connection, "schedule.fired")) == 1


async def test_the_rule_last_makes_one_task_for_an_hour_of_missed_ticks(connection: Any) -> None:
    await add(connection)
    first = await late(connection, timedelta(hours=1))
    assert await schedule.due(connection) == 1
    (about,) = await made(connection)
    assert about == {"name": "minutes", "tick": (first + timedelta(minutes=59)).isoformat(), "missed": 59}


async def test_the_rule_all_makes_a_task_for_every_missed_tick_in_order(connection: Any) -> None:
    await add(connection, catch_up="all")
    first = await late(connection, timedelta(hours=1))
    assert await schedule.due(connection) == 60
    ticks = [about["tick"] for about in await made(connection)]
    assert ticks == [(first + timedelta(minutes=number)).isoformat() for number in range(60)]
    assert {about["missed"] for about in await made(connection)} == {0}


async def test_the_rule_all_stops_at_a_thousand_and_says_so(connection: Any) -> None:
    await add(connection, catch_up="all", every=1)
    await late(connection, timedelta(days=400))
    assert await schedule.due(connection) == MOST
    entries = await made(connection)
    assert entries[0]["missed"] == MOST  # as many or more
    assert {entry["missed"] for entry in entries[1:]} == {0}
    now = await connection.fetchval("select clock_timestamp()")
    assert now - datetime.fromisoformat(entries[-1]["tick"]) < timedelta(seconds=60)
    assert (await told(connection, "schedule.fired"))[0]["missed"] == MOST


async def test_years_of_a_cron_that_ticks_every_second_are_caught_up_with_at_once(connection: Any) -> None:
    await add(connection, catch_up="all", cron="* * * * * *", timezone="Europe/Berlin")
    await late(connection, timedelta(days=800))
    async with asyncio.timeout(10):
        assert await schedule.due(connection) == MOST
    ticks = [datetime.fromisoformat(entry["tick"]) for entry in await made(connection)]
    assert {later - earlier for earlier, later in pairwise(ticks)} == {timedelta(seconds=1)}


async def test_the_rule_none_fires_only_ticks_that_are_less_than_a_minute_late(connection: Any) -> None:
    await add(connection, name="stale", catch_up="none", cron="0 0 1 1 *")
    await connection.execute("update schedule set next_at = date_trunc('second', clock_timestamp()) - interval '61 s'")
    assert await schedule.due(connection) == 0
    assert await told(connection, "schedule.missed") == [{"schedule": "stale", "missed": 1}]
    await add(connection, name="fresh", catch_up="none", every=3600)
    await connection.execute("update schedule set next_at = clock_timestamp() - interval '30 s' where name = 'fresh'")
    assert await schedule.due(connection) == 1


async def test_ticks_of_a_pause_are_missed_ticks(connection: Any) -> None:
    await add(connection)
    async with connection.transaction():
        assert await schedule.pause(connection, "minutes")
        assert not await schedule.pause(connection, "minutes")
    await late(connection, timedelta(minutes=10))
    assert await schedule.due(connection) == 0
    async with connection.transaction():
        assert await schedule.resume(connection, "minutes")
        assert not await schedule.resume(connection, "minutes")
    assert await schedule.due(connection) == 1
    assert (await made(connection))[0]["missed"] == 9
    assert [body["what"] for body in await told(connection, "schedule.changed")] == ["added", "paused", "resumed"]


async def test_the_same_definition_again_leaves_the_schedule_alone(connection: Any) -> None:
    first = await add(connection, every=3600.0, payload='{"a": 1}')
    await connection.execute("update schedule set next_at = next_at - interval '10 min', paused = true")
    again = await add(connection, every=3600.0, payload='{"a": 1}')
    assert (again.id, again.what) == (first.id, "kept")
    assert again.next_at == first.next_at - timedelta(minutes=10)
    assert await connection.fetchval("select paused from schedule")


async def test_a_changed_task_keeps_the_next_tick_and_changed_times_begin_anew(connection: Any) -> None:
    first = await add(connection, every=3600.0)
    other = await add(connection, every=3600.0, payload='{"a": 2}')
    assert (other.what, other.next_at) == ("changed", first.next_at)
    sooner = await add(connection, every=60.0, payload='{"a": 2}')
    assert sooner.what == "changed"
    assert sooner.next_at < first.next_at
    assert await connection.fetchval("select count(*) from schedule") == 1
    assert [body["what"] for body in await told(connection, "schedule.changed")] == ["added", "changed", "changed"]


async def test_two_processes_that_add_the_same_schedule_make_one(pool: Any, connection: Any) -> None:
    async def once() -> str:
        async with pool.acquire() as other, other.transaction():
            return (await schedule.add(other, BARE)).what

    what = await asyncio.gather(*(once() for _ in range(6)))
    assert sorted(what) == ["kept"] * 5 + ["made"]
    assert await connection.fetchval("select count(*) from run") == 1


async def test_a_removed_schedule_ticks_no_more_and_its_name_is_free(connection: Any) -> None:
    await add(connection)
    async with connection.transaction():
        await schedule.remove(connection, "minutes")
    assert await schedule.listed(connection) == []
    assert (await add(connection)).what == "made"
    with pytest.raises(UsageError, match='no schedule "minuets"') as caught:
        await schedule.remove(connection, "minuets")
    assert caught.value.hint == 'did you mean "minutes"?'


async def test_after_the_clock_was_set_back_a_schedule_does_not_wait_for_the_old_future(connection: Any) -> None:
    for name, times in (("cron", {"cron": "*/5 * * * *"}), ("interval", {"every": 300.0})):
        await add(connection, name=name, **times)
    ahead = (
        "update schedule set next_at = next_at + $1, last_at = next_at + $1 - interval '5 min',"
        " created_at = next_at + $1"
    )
    await connection.execute(ahead, timedelta(days=3650))
    assert await schedule.due(connection) == 0
    assert await connection.fetchval(
        "select bool_and(next_at between clock_timestamp() and clock_timestamp() + interval '5 min') from schedule"
    )
    assert await connection.fetch(schedule.SQL["due"]) == []  # and it is not looked at again and again


async def test_a_small_step_of_the_clock_changes_nothing(connection: Any) -> None:
    await add(connection, every=300.0)
    await connection.execute("update schedule set next_at = next_at + interval '20 s', last_at = clock_timestamp()")
    assert await connection.fetch(schedule.SQL["due"]) == []


async def test_a_schedule_whose_row_is_nonsense_is_paused_and_the_others_go_on(connection: Any) -> None:
    for number, column in enumerate(("task = '{}'", "task = 'x'", "cron = 'x'", "timezone = 'x'")):
        await add(connection, name=f"bad{number}")
        await connection.execute(f"update schedule set {column} where name = 'bad{number}'")  # noqa: S608
    await add(connection, name="good")
    await late(connection, timedelta(minutes=1))
    assert await schedule.due(connection) == 1
    assert await connection.fetchval("select array_agg(name order by name) from schedule where paused") == [
        "bad0", "bad1", "bad2", "bad3",
    ]  # fmt: skip
    assert len(await told(connection, "schedule.broken")) == 4
    entries = {entry.name: entry for entry in await schedule.listed(connection)}
    assert [name for name, entry in entries.items() if entry.timing is None] == ["bad0", "bad1", "bad2", "bad3"]
    assert "'x'" in (entries["bad2"].message or "") or '"x"' in (entries["bad2"].message or "")
    with pytest.raises(UsageError, match="cannot be read"):
        schedule.upcoming(entries["bad2"], 1)
    assert (await add(connection, name="bad2", cron="* * * * *")).what == "changed"
    async with connection.transaction():
        assert await schedule.resume(connection, "bad2")
    assert (await schedule.find(connection, "bad2")).timing is not None


async def test_when_the_standing_run_was_cancelled_ticks_go_to_a_new_one(connection: Any) -> None:
    await add(connection)
    await connection.execute("update run set state = 'cancelled'")
    await late(connection, timedelta(minutes=1))
    assert await schedule.due(connection) == 1
    assert await connection.fetchval(
        "select r.state from task t join run r on r.id = t.run_id join schedule s on s.run_id = r.id"
    ) == "running"  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"cron": "* * * * *", "every": 60}, "U330"),
        ({"cron": None}, "U330"),
        ({"cron": "61 * * * *"}, "U331"),
        ({"timezone": "Berlin"}, "U332"),
        ({"every": 0.5}, "U333"),
        ({"every": float("nan")}, "U333"),
        ({"every": 1e12}, "U333"),
        ({"every": "60"}, "U333"),
        ({"name": ""}, "U334"),
        ({"name": "a\0b"}, "U334"),
        ({"payload": "[]"}, "U334"),
        ({"payload": '{"schedule": 1}'}, "U334"),
        ({"payload": "{"}, "U400"),
        ({"payload": '{"a": "\\u0000"}'}, "U400"),
        ({"kind": ""}, "U400"),
        ({"max_attempts": 40_000}, "U334"),
        ({"catch_up": "some"}, "U335"),
    ],
)
async def test_what_cannot_be_a_schedule_is_refused_before_anything_is_stored(
    connection: Any, wrong: dict[str, Any], code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        await add(connection, **wrong)
    assert caught.value.code == code
    assert await connection.fetchval("select count(*) from schedule") == 0


async def test_a_worker_works_off_the_ticks_of_a_one_second_schedule(
    pool: asyncpg.Pool[Any], connection: Any, processes: Processes
) -> None:
    await add(connection, every=1.0)
    processes.start()
    async with asyncio.timeout(60):
        while await pool.fetchval("select count(*) from done") < 3:
            await asyncio.sleep(0.05)
    ticks = [datetime.fromisoformat(entry["tick"]) for entry in await made(connection)]
    assert ticks == sorted(set(ticks))


async def test_the_task_of_a_tick_is_claimed_like_any_other(connection: Any, claimer: queue.Claimer) -> None:
    await add(connection)
    tick = await late(connection, timedelta(minutes=1))
    await schedule.due(connection)
    (task,) = await queue.claim(connection, claimer, {"*": 5}, ["bare"])
    assert json.loads(task.payload)["schedule"]["tick"] == tick.isoformat()
    assert await queue.settle(connection, claimer, [(task, "ok")]) == {task.id}
    assert (await schedule.listed(connection))[0].outcome == "completed"


async def test_upcoming_ticks_begin_with_the_next_one(connection: Any) -> None:
    await add(connection, cron="0 0 1 1 *", timezone="Europe/Berlin")
    coming = schedule.upcoming(await schedule.find(connection, "minutes"), 3)
    years = [tick.astimezone(UTC).year for tick in coming]
    assert years == [years[0], years[0] + 1, years[0] + 2]
    assert {tick.strftime("%m-%d %H:%M") for tick in coming} == {"12-31 23:00"}
