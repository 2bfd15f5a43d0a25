"""gristmill pools and gristmill workers, as commands in processes of their own, with a real worker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.engine.conftest import until
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url)
    (made.folder / "gristmill.toml").write_text("beat = 0.5\n")
    (made.folder / "mill.md").write_text("A sieve is a part of the mill that holds 5 units of grain.\n")
    return made


async def test_pools_are_listed_limited_paused_and_resumed(home: Home, pool: asyncpg.Pool[Any]) -> None:
    code, document = await home.json("pools", "limit", "model", "8")
    assert (code, document["schema"], document["changed"], document["limit"]) == (0, "gristmill.pool/1", True, 8)
    code, out, _ = await home.call("pools", "pause", "model")
    assert (code, out) == (0, "model is paused: gristmill pools resume model\n")
    code, out, _ = await home.call("pools")
    assert "at most 8  paused" in out
    assert await home.json("pools", "resume", "model") == (
        0, {"schema": "gristmill.pool/1", "name": "model", "what": "resume", "changed": True}
    )  # fmt: skip
    bodies = await pool.fetch("select body from event_inbox where name = 'pool.changed' order by id")
    assert [json.loads(row["body"])["what"] for row in bodies] == ["limit", "pause", "resume"]
    assert all("@" in json.loads(row["body"])["by"] for row in bodies)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pools", "pause", "modle"), ('did you mean "model"?', "U361", "--new")),
        (("pools", "limit", "model", "many"), ("U360", "a whole number from 0, or none")),
        (("workers", "pause", "nobody"), ("U362", "no worker runs now")),
        (("workers", "stop"), ("U363", "--all")),
    ],
)
async def test_what_fits_nothing_is_refused_with_the_nearest_name(
    home: Home, pool: asyncpg.Pool[Any], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, _, err = await home.call(*arguments)
    assert code == 2
    assert all(word in err for word in words), err
    assert await pool.fetchval("select count(*) from pool") == 0


async def state_of(pool: asyncpg.Pool[Any], wanted: str) -> None:
    sql = "select true from worker where state = $1 and postmaster_started is not null"
    await until(lambda: pool.fetchval(sql, wanted))


async def test_a_worker_is_listed_paused_resumed_and_stopped(home: Home, pool: asyncpg.Pool[Any]) -> None:
    worker = home.start("worker", "--name", "miller")
    await state_of(pool, "alive")
    code, document = await home.json("workers")
    (miller,) = document["workers"]
    assert (code, miller["name"], miller["state"], miller["tasks"]) == (0, "miller", "alive", 0)
    assert miller["pools"]["parse"] == 1
    code, out, _ = await home.call("workers", "pause", "miller")
    assert (code, out) == (0, f"{miller['id']} miller claims nothing more: gristmill workers resume\n")
    code, stopped = await home.json("workers", "stop", "--all")
    assert (code, stopped["order"], stopped["changed"]) == (0, "drain", 1)
    assert await asyncio.to_thread(worker.wait, 20) == 0
    code, out, err = await home.call("workers")
    assert (code, "miller" in out, "stopped" in out, "no worker runs" in err) == (0, True, True, True)


@pytest.mark.thorough
async def test_workers_of_a_command_that_were_told_to_stop_are_not_started_again(
    home: Home, pool: asyncpg.Pool[Any]
) -> None:
    await home.call("pools", "pause", "parse")
    process = home.start("run", "mill.md", "--workers", "1")
    await state_of(pool, "alive")
    code, stopped = await home.json("workers", "stop", "--all")
    assert (code, stopped["changed"]) == (0, 1)
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 3
    assert "told to stop" in err
    assert "error[E120]" in err
    assert await pool.fetchval("select count(*) from worker") == 1
