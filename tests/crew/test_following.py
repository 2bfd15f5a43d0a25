"""Settings that change while a crew works: what is safe is in force at once, what is wrong is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.config import load_settings
from gristmill.crew import orders
from gristmill.crew.following import Following
from gristmill.crew.places import places, take_crew
from gristmill.db.database import RECONNECT, open_pool


async def test_changed_settings_are_in_force_and_wrong_ones_change_nothing(
    pool: asyncpg.Pool[Any], tmp_path: Path
) -> None:
    file = tmp_path / "gristmill.toml"

    def write(text: str) -> None:
        file.write_text(text)

    def load() -> Any:
        return load_settings(tmp_path, {"HOME": str(tmp_path)})

    async def now(scale: dict[str, int] | None = None) -> list[tuple[str, bool, int]]:
        await follow(scale or {})
        found = [place for place in await places(pool, "mill") if not place.dropped]
        return [(place.name, place.enabled, place.settings["pools"].get("model", 0)) for place in found]

    write("[workers.a]\ncount = 2\n")
    hold = await take_crew(pool, "mill", tmp_path)
    told: list[str] = []
    follow = Following(pool, hold, load(), load, api=False, tell=told.append)
    assert await now() == [("a-1", True, 32), ("a-2", True, 32)]

    write(
        "most_workers = 3\n[workers.a]\npools = {model = 5}\n[workers.b]\nenabled = false\n"
        "[limits.x]\nrequests_per_minute = 7\n"
    )
    assert await now() == [("a-1", True, 5), ("b-1", False, 32)]
    assert await pool.fetchval("select most from crew") == 3
    assert await pool.fetchval("select count(*) from quota where name = 'x'") == 1
    assert told == ["changed settings are in force: limits, crew, most_workers"]

    write("lease = 9999\n[workers.c]\n")
    assert [name for name, _, _ in await now()] == ["a-1", "b-1"]
    assert f"lease = 9999: should be less than or equal to 600, from 2 to 600 ({file}:1)" in await pool.fetchval(
        "select problem from crew"
    )
    write('[limits."a,b"]\nrequests_per_minute = 7\n')
    assert [name for name, _, _ in await now()] == ["a-1", "b-1"]
    assert "cannot be the name of a limit" in await pool.fetchval("select problem from crew")
    write("lease = 20\n[workers.c]\n")
    assert [name for name, _, _ in await now()] == ["c-1"]
    assert await pool.fetchval("select problem is null from crew")
    assert "started from now on: lease" in told[-1]

    await orders.scale(pool, "mill", "c", 2, by="me")
    assert [name for name, _, _ in await now({"c": 2})] == ["c-1", "c-2"]
    await orders.scale(pool, "mill", "c", None, by="me")
    assert await pool.fetchval("select scale from crew") == "{}"
    assert [name for name, _, _ in await now()] == ["c-1"]


async def test_a_change_is_in_force_although_the_database_went_away_in_the_middle_of_it(
    pool: asyncpg.Pool[Any], database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "gristmill.toml"
    file.write_text("[workers.a]\n")

    def load() -> Any:
        return load_settings(tmp_path, {"HOME": str(tmp_path)})

    hold = await take_crew(pool, "mill", tmp_path)
    async with await open_pool(database_url, size=1) as own:
        backend = await own.fetchval("select pg_backend_pid()")
        follow = Following(own, hold, load(), load, api=False, tell=lambda _: os.kill(backend, signal.SIGTERM))
        await follow({})
        file.write_text("[workers.a]\ncount = 2\n")
        with pytest.raises(RECONNECT):
            await follow({})
        await follow({})
    assert [place.name for place in await places(pool, "mill")] == ["a-1", "a-2"]
