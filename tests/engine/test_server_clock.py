"""A database's clock that is set back: what was due is due, and what is to begin later keeps its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gristmill.engine.server_clock import ServerClock
from tests.engine.conftest import Enqueue, bare_run, enqueue

__all__ = ["bare_run", "enqueue"]
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_a_step_back_is_noticed_however_long_an_answer_takes() -> None:
    clock = ServerClock()
    for seconds, asked, answered in ((0, 10, 11), (30, 41, 49), (38, 49, 49), (3600, 50, 50), (3600.5, 51, 51)):
        clock.look(NOON + timedelta(seconds=seconds), asked, answered)
        assert clock.back == 0.0
    clock.look(NOON + timedelta(seconds=1), 52, 53)
    assert clock.back == 3600.5
    clock.look(NOON + timedelta(seconds=10), 61, 61)
    assert clock.back == 3600.5  # until somebody has done something about it
    clock.look(NOON + timedelta(seconds=5), 62, 62)
    assert clock.back == 3606.5  # two steps are as good as a long one


async def test_what_was_due_by_the_clock_of_before_is_due_now(pool: Any, bare_run: int, enqueue: Enqueue) -> None:
    tasks = await enqueue({}, {}, {}, {}, {})
    held = (None, "backing off: 200 s", None, "quota: gemini, day", "backing off: 200 s")
    ahead = (3590, 3790, 4000, 80_000, 10)
    for task, why, seconds in zip(tasks, held, ahead, strict=True):
        sql = "update task set held = $2, run_at = clock_timestamp() + make_interval(secs => $3) where id = $1"
        await pool.execute(sql, task, why, float(seconds))
    clock = ServerClock()
    clock.back = 3600.0
    async with pool.acquire() as connection:
        await clock.make_due(connection)
        due = await connection.fetch("select id from task where run_at <= clock_timestamp() order by id")
        assert [row["id"] for row in due] == [tasks[0], tasks[1], tasks[4]]
        await clock.make_due(connection)  # nothing to do any more
    assert clock.back == 0.0
