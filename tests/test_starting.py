"""The task `run.start`, performed by a real worker of a real App."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gristmill import starting
from gristmill.app import App
from gristmill.db.database import transaction
from gristmill.engine import schedule
from gristmill.engine.worker import Worker, WorkerSettings
from gristmill.errors import InputError, TransientError, UsageError
from gristmill.handlers import Handlers
from tests.engine.conftest import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("A sieve is a part of the mill.\n")
    return made


async def test_the_tick_of_a_schedule_starts_a_run_and_the_next_one_takes_in_what_is_new(
    app: App, folder: Path
) -> None:
    payload = json.dumps(starting.start_options([folder]))
    async with transaction(app.pool) as connection:
        await schedule.add(
            connection, schedule.NewSchedule("nightly", starting.RUN_START, cron="0 3 * * *", payload=payload)
        )
    worker = Worker(app.url, Handlers(starting.HANDLERS, app), WorkerSettings(poll=0.1))
    working = asyncio.create_task(worker.run())

    async def tick() -> None:
        await app.pool.execute("update schedule set next_at = next_at - interval '1 day'")
        done = await app.pool.fetchval("select count(*) from task where kind = 'run.start' and state = 'completed'")

        async def one_more() -> bool:
            sql = "select count(*) from task where kind = 'run.start' and state = 'completed'"
            return bool(await app.pool.fetchval(sql) > done)

        await until(one_more)

    try:
        await tick()
        run = await app.last()
        assert await app.pool.fetchval("select count(*) from item where run_id = $1", run.id) == 1
        (folder / "b.txt").write_text("A hopper holds grain.\n")
        await app.pool.execute("update schedule set id = default")  # other keys: the same two nights once more
        await tick()
        assert (await app.last()).id == run.id
        assert await app.pool.fetchval("select count(*) from item where run_id = $1", run.id) == 2
    finally:
        worker.stop()
        await working


async def test_a_folder_that_is_not_there_is_waited_for_and_takes_nothing_out_of_the_run(
    app: App, folder: Path
) -> None:
    payload = starting.start_options([folder])
    await starting.start_run(payload, app)
    folder.rename(folder.with_name("away"))
    with pytest.raises(TransientError, match="not there") as caught:
        await starting.start_run(payload, app)
    assert caught.value.code == "T320"
    assert await app.pool.fetchval("select state from item") == "active"


@pytest.mark.parametrize(
    "payload",
    [{}, {"paths": 1}, {"paths": ["x"], "workflow": "none"}, {"paths": ["x"], "workflow": "qa", "set": ["x"]}],
)
async def test_a_payload_that_can_never_be_started_fails_at_once(app: App, payload: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        await starting.start_run(payload, app)
    assert caught.value.code == "T321"


async def test_what_cannot_be_started_is_refused_before_it_is_scheduled(folder: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        starting.start_options([folder / "nothing"])
    with pytest.raises(UsageError, match="no workflow"):
        starting.start_options([folder], "none")
