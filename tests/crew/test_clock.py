"""Clocks that are wrong, and clocks that are set while everything runs: of the workers, and of the database."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.crew import log_files
from gristmill.db.embedded import psql_path
from tests.crew.conftest import make_documents, until
from tests.crew.test_up import all_work, ended, listed
from tests.own_postgres import OwnPostgres, own_folder
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime")]
SETTINGS = """
beat = 0.5
lease = 4
shutdown = 5
crew_name = "mill"
[workers.mill]
count = 2
"""


class Clock:
    """The clock of whoever is started with `environment`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set(self, seconds: int) -> None:
        """So many seconds wrong from now on; within a second everybody knows."""
        self._file.with_suffix(".new").write_text(f"{seconds:+d}")
        self._file.with_suffix(".new").replace(self._file)
        self._file.chmod(0o644)


def prepare(home: Home, files: int) -> None:
    (home.folder / "gristmill.toml").write_text(SETTINGS)
    make_documents(home.folder / "documents", files)


async def done(home: Home, size: int) -> None:
    """A run that the crew does, with chunks of its own."""
    told = ("run", "documents", "--workers", "0", "--quiet", "--model", "extractive", "--set", f"split.size={size}")
    code, _, err = await home.call(*told)
    assert (code, "6 rows" in err) == (0, True), err


async def test_workers_whose_clock_is_wrong_or_stepped_work_on(
    make_home: Callable[..., Home], database_url: str, pool: asyncpg.Pool[Any], tmp_path: Path
) -> None:
    home = make_home(GRISTMILL_DATABASE_URL=database_url)
    prepare(home, 6)
    clock = Clock(tmp_path / "clock")
    crew = home.start("up", "--no-api", **clock.environment)
    before = await all_work(pool, 2)
    for number, step in enumerate((3600, -3600, -86_400)):
        clock.set(step)
        await done(home, 800 + number)
    assert {name: row["id"] for name, row in (await listed(pool)).items()} == {k: v["id"] for k, v in before.items()}
    # One that begins a day behind the others is as good as they.
    os.kill(before["mill-1"]["pid"], 9)
    await until(lambda: _other(pool, "mill-1", before["mill-1"]["id"]), 60)
    await done(home, 900)
    assert await pool.fetchval("select max(restarts) from crew_place") == 1
    assert await pool.fetchval("select count(*) from run where state = 'completed'") == 4
    assert (await home.call("down"))[0] == 0
    assert (await ended(crew))[0] == 0
    lines = [log_files.parsed(line) for line in home.logs().splitlines() if line]
    assert not [line for line in lines if line.get("level") in ("error", "critical")]


async def _other(pool: asyncpg.Pool[Any], name: str, former: int) -> bool:
    found = await listed(pool)
    return name in found and found[name]["id"] != former


@pytest.fixture
async def stepped() -> AsyncIterator[tuple[Clock, str]]:
    """A PostgreSQL of its own whose clock can be set, and its URL."""
    with own_folder() as folder:
        clock = Clock(folder / "clock")
        server = OwnPostgres(psql_path().parent, folder / "server")
        server.make()
        server.environment |= clock.environment
        await server.start()
        await server.ask("create database gristmill")
        yield clock, server.url
        server.end()


async def test_a_step_of_the_databases_clock_loses_and_doubles_nothing(
    make_home: Callable[..., Home], stepped: tuple[Clock, str]
) -> None:
    clock, url = stepped
    home = make_home(GRISTMILL_DATABASE_URL=url)
    prepare(home, 6)
    crew = home.start("up", "--no-api")
    database = await asyncpg.create_pool(url, min_size=1, max_size=2)
    await until(lambda: database.fetchval("select to_regclass('crew_place') is not null"), 60)
    await all_work(database, 2)
    for number, step in enumerate((3600, 0, -5)):
        running = asyncio.create_task(done(home, 800 + number))
        began = "select count(*) > $1 from run where exists (select from task where run_id = run.id and attempt > 0)"
        await until(functools.partial(database.fetchval, began, number), 60)
        clock.set(step)
        await running
        await all_work(database, 2)
    assert await database.fetchval("select count(*) from run where state = 'completed'") == 3
    assert await database.fetchval("select count(*) from task where state in ('failed', 'quarantined')") == 0
    assert not await database.fetchval("select bool_or(blacklisted) from crew_place")
    await database.close()
    assert (await home.call("down"))[0] == 0
    assert (await ended(crew))[0] == 0
