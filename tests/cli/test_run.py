"""gristmill run --after and --events, and retry of what is paused, as commands in processes of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gristmill.app import App
from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url, GRISTMILL_WORKERS="1")
    for name in ("first", "second"):
        (made.folder / f"{name}.md").write_text(f"A {name} sieve is a part of the mill that holds 5 units of grain.\n")
    return made


async def test_a_run_begins_after_another_one_and_tells_as_much_as_was_asked_for(home: Home, database_url: str) -> None:
    async with App(database_url, home=home.home, workers=0) as app:
        first = await app.start("qa", [home.folder / "first.md"], model="extractive")
        code, _, err = await home.call("run", "second.md", "--after", first.name, "--events", "tasks", "--workers", "1")
        assert code == 0, err
        assert f"waits for {first.name} (running)" in err
        second = await app.last()
        assert second.id != first.id
        ends = await app.pool.fetch("select run_id from event where name = 'run.end' order by seq")
        assert [row["run_id"] for row in ends] == [first.id, second.id]
        told = await app.pool.fetch("select distinct run_id from event where name = 'step.end'")
        assert [row["run_id"] for row in told] == [second.id]


async def test_a_run_whose_turn_never_comes_says_what_to_do_and_is_kept(home: Home, database_url: str) -> None:
    async with App(database_url, home=home.home, workers=0) as app:
        first = await app.start("qa", [home.folder / "first.md"], model="extractive")
        await app.pool.execute("update run set state = 'partial', ended_at = clock_timestamp() where id = $1", first.id)
        code, out, err = await home.call("run", "second.md", "--after", first.name, "--workers", "1", "--json")
        assert (code, '"state": "waiting"' in out) == (4, True), err
        assert f"which ended partial: gristmill retry {first.name}" in err
        assert (await (await app.last()).progress()).state == "waiting"


async def test_a_retry_leaves_a_paused_run_paused_and_says_so(home: Home, database_url: str) -> None:
    async with App(database_url, home=home.home, workers=0) as app:
        run = await app.start("qa", [home.folder / "first.md"], model="extractive")
        task = await app.pool.fetchval("update task set state = 'failed' returning id")
        await run.pause()
        code, document = await home.json("retry")
        assert (code, document["state"], document["again"]) == (4, "paused", 1)
        assert await app.pool.fetchval("select state from task where id = $1", task) == "available"
        assert (await run.progress()).state == "paused"
        assert await run.resume()
        assert (await run.progress()).state == "running"


async def test_a_run_stops_before_its_budget_says_how_to_go_on_and_pays_nothing_twice(
    home: Home, database_url: str, model_server: ScriptedServer
) -> None:
    (home.folder / "gristmill.toml").write_text('[prices."openai:scripted"]\ninput = 1000\noutput = 1000\n')
    told = ("run", "first.md", "second.md", "--model", "openai:scripted", "--workers", "1")
    code, _, err = await home.call(*told, "--budget", "0.05")
    assert (code, "raise it with --budget AMOUNT" in err) == (4, True), err
    code, document = await home.json("budget")
    (mine,) = [one for one in document["budgets"] if one["scope"] == "run"]
    assert 0 <= float(mine["spent"]) <= 0.05
    code, document = await home.json(*told, "--budget", "100")
    assert (code, document["state"]) == (0, "completed")
    assert (await model_server.stats())["repeated"] == 0
