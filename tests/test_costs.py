"""What a run costs: foreseen, limited, looked up, moved and pruned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.cli.plan import forecast, show_forecast, truth, truth_lines
from gristmill.config import Settings
from gristmill.data.kinds import Chunk, Source
from gristmill.data.scan import scan
from gristmill.errors import BudgetSpent, InputError, ModelSetupError
from gristmill.llm import calls
from gristmill.llm.budget import standing
from gristmill.llm.model_settings import ModelSettings
from gristmill.llm.prices import Caps, Price
from gristmill.operators import answer, ask
from gristmill.operators.operator import Context, operator
from gristmill.run import Run
from gristmill.workflow import Workflow
from tests.by_hand import Hand
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]
MODEL = "openai:scripted"
PRICES = {MODEL: Price(input=Decimal(1000), output=Decimal(0))}


@operator("costs_lines")
async def lines(source: Source, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(source.blob)).decode()
    return [Chunk(text=line) for line in text.splitlines()]


FLOW = Workflow("costs", [lines, ask.using(count=1), answer])


@pytest.fixture
async def app(
    database_url: str, tmp_path: Path, model_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = Settings(
        database_url=database_url,
        home=tmp_path / "home",
        openai_base_url=model_server.base_url,
        prices=PRICES,
        workers=0,
    )
    async with App(settings=settings) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    for number in range(3):
        text = [
            f"Mill {number}-{line} is a building that grinds {line + 2} tons of grain a day for Ypsilon {line}."
            for line in range(3)
        ]
        (made / f"mill-{number}.txt").write_text("\n".join(text))
    return made


async def command(app: App, *arguments: str) -> dict[str, Any]:
    """What a command prints with --json; in this process, on a thread."""
    environment = {"GRISTMILL_DATABASE_URL": app.url}
    every = [*arguments, "--home", str(app.settings.home), "--json"]
    done = await asyncio.to_thread(CliRunner().invoke, gristmill, every, env=environment)
    assert done.exit_code == 0, (done.output, done.exception)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


async def go_on(app: App, run: Run, hand: Hand) -> None:
    await run.resume()
    await app.pool.execute("UPDATE task SET run_at = clock_timestamp() WHERE state = 'available'")
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"


async def test_a_run_is_foreseen_stops_before_its_budget_is_passed_and_goes_on_when_it_was_raised(
    app: App, hand: Hand, folder: Path, model_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = FLOW.with_model(MODEL)
    plan = await forecast(app, flow, [folder])
    assert (plan["files"], plan["sampled"], plan["calls"][1], plan["known"][1]) == (3, 3, 18, 0)
    low, likely, high = plan["cost"]["USD"]
    assert 0 < low <= likely <= high
    assert any("is a guess" in note or "are a guess" in note for note in plan["assumed"])
    assert (await model_server.stats())["requests"] == 0

    half = round(likely / 2, 2)
    run = await app.start(FLOW, [folder], model=MODEL, budget=half)
    seen = await hand.work()
    refused = [outcome for _, outcome in seen if isinstance(outcome, BudgetSpent)]
    assert len(refused) >= 1
    assert "gristmill budget set run" in refused[0].hint
    assert (await run.progress()).state == "paused"
    spent = await app.pool.fetchval("SELECT sum(cost) FROM call")
    assert 0 < spent <= Decimal(str(half))
    (why,) = {reason for _, reason, _ in await run.held_by()}
    assert why == f"budget: run {half:.2f} USD, spent {spent:.2f}"
    told = {one["scope"]: one for one in (await command(app, "budget"))["budgets"]}
    assert Decimal(told["run"]["spent"]) == Decimal(told["project"]["spent"]) == spent
    assert (Decimal(told["run"]["cap"]), told["project"]["cap"]) == (Decimal(str(half)), None)

    assert (await command(app, "budget", "set", "run", "1000"))["cap"] == "1000"
    app.models._budgets._known.clear()  # or wait two seconds
    await go_on(app, run, hand)
    assert len([event async for event in run.events() if event.name == "budget.spent"]) == 1
    stats = await model_server.stats()
    assert (stats["requests"], stats["repeated"]) == (18, 0)  # nothing that was finished was paid again
    usage = await app.models.usage(run.id)
    compared = await truth(run, usage, 3.0)
    assert compared is not None
    assert (compared["foreseen"]["calls"], compared["truth"]["calls"]) == (plan["calls"], 18)
    assert any(f"it cost {Decimal(usage['cost']['USD']):.2f} USD" in line for line in truth_lines(compared))

    again = await forecast(app, flow, [folder])
    assert (again["calls"], again["known"][1], again["cost"]) == ([0, 0, 0], 18, {})  # the ledger has all answers
    more = await forecast(app, Workflow("costs", [lines, ask.using(count=2), answer]).with_model(MODEL), [folder])
    assert not any("ask: answers of" in note for note in more["assumed"])  # their length is known from the past
    show_forecast(more)
    assert "calls of openai:scripted" in capsys.readouterr().out


async def test_a_model_that_asks_in_batches_is_foreseen_at_the_price_of_batches(
    app: App, folder: Path, tmp_path: Path, model_server: ScriptedServer
) -> None:
    single = await forecast(app, FLOW.with_model(MODEL), [folder])
    made = ModelSettings(provider="openai", model="scripted", base_url=model_server.base_url, batch=True)
    settings = app.settings.model_copy(update={"models": {"overnight": made}})
    async with App(settings=settings) as other:
        batched = await forecast(other, FLOW.with_model("overnight"), [folder])
    assert batched["calls"] == single["calls"]
    assert batched["cost"]["USD"] == [pytest.approx(one / 2) for one in single["cost"]["USD"]]
    assert any("asks in batches" in note for note in batched["assumed"])


async def test_costs_are_known_by_run_model_day_task_step_and_record(app: App, hand: Hand, folder: Path) -> None:
    run = await app.start(FLOW, [folder], model=MODEL)
    await hand.drain(run)
    total = Decimal((await app.models.usage(run.id))["cost"]["USD"])
    assert total > 0
    for by in ("run", "model", "day", "task", "step"):
        assert sum(row["cost"] for row in await calls.cost(app.pool, by)) == total, by
    assert {row["name"] for row in await calls.cost(app.pool, "step")} == {f"{run.name} ask", f"{run.name} answer"}
    records = {row["record"]: row for row in await calls.cost(app.pool, "record", run=run.id)}
    async for row in run.rows():
        found = records[int(row.record_id)]
        assert found["cost"] > found["own_cost"] > 0  # its answer, and its share of the questions
    listed = (await command(app, "calls", "--run", run.name, "--state", "ok"))["calls"]
    assert len(listed) == 18
    shown = await command(app, "calls", "show", listed[0]["key"][:12])
    assert (shown["cost"], shown["whose"]["run"]) == (listed[0]["cost"], run.name)
    assert json.loads(shown["response"])["choices"]
    summed = await command(app, "calls", "cost", "--by", "model", "--since", "1h")
    assert [row["name"] for row in summed["rows"]] == [MODEL]


async def test_answers_are_pruned_unless_a_run_may_need_them_and_move_to_another_database(
    app: App, hand: Hand, folder: Path, model_server: ScriptedServer
) -> None:
    run = await app.start(FLOW, [folder], model=MODEL)
    await hand.drain(run)
    file = app.settings.home / "calls.jsonl"
    assert (await command(app, "calls", "export", str(file)))["calls"] == 18
    plan = await command(app, "calls", "prune", "--older-than", "0d", "--dry-run")
    assert (plan["calls"], plan["removed"], plan["spared"]) == (18, 0, 0)
    await app.pool.execute("UPDATE run SET state = 'paused'")  # it may ask again
    kept = await command(app, "calls", "prune", "--older-than", "0d")
    assert (kept["removed"], kept["spared"], kept["because"]) == (0, 18, [f"{run.name} (paused)"])
    await app.pool.execute("""UPDATE run SET definition = '{"steps": [{"model": "a name nobody knows"}]}'""")
    assert (await command(app, "calls", "prune", "--older-than", "0d"))["spared"] == 18
    await app.pool.execute("UPDATE run SET state = 'completed'")
    assert (await command(app, "calls", "prune", "--older-than", "0d"))["removed"] == 18

    assert await calls.imported(app.pool, file) == (18, 18)
    assert await calls.imported(app.pool, file) == (18, 0)
    assert await calls.cost(app.pool, "model") == []  # paid elsewhere
    await app.pool.execute("DELETE FROM work WHERE kind IN ('ask', 'answer')")
    await app.pool.execute("DELETE FROM record WHERE kind IN ('question', 'example')")
    second = await app.start(FLOW, [folder], model=MODEL, fresh=True)
    progress, seen = await hand.drain(second)
    assert progress.state == "completed", seen
    usage = await app.models.usage(second.id)
    assert (usage["calls"], usage["from_ledger"]) == (0, 18)
    assert (await model_server.stats())["requests"] == 18
    file.write_text(file.read_text() + '{"schema": "gristmill.call/1", "key": "00"}\n')
    with pytest.raises(InputError, match="line 19"):
        await calls.imported(app.pool, file)


async def test_a_run_that_wants_everything_fresh_uses_nothing_of_others_and_pays_nothing_twice_itself(
    app: App, hand: Hand, folder: Path, model_server: ScriptedServer
) -> None:
    first = await app.start(FLOW, [folder], model=MODEL)
    await hand.drain(first)
    apart = await app.start(FLOW, [folder], model=MODEL, reuse=False)
    await hand.drain(apart)
    assert apart.id != first.id
    usage = await app.models.usage(apart.id)
    assert (usage["calls"], usage["from_ledger"]) == (18, 0)
    assert (await app.start(FLOW, [folder], model=MODEL, reuse=False)).id == apart.id
    await app.pool.execute("DELETE FROM work WHERE kind = 'ask'")
    await app.pool.execute("UPDATE task SET state = 'available', worker_id = null WHERE kind = 'ask'")
    await app.pool.execute("UPDATE run SET state = 'running' WHERE id = $1", apart.id)
    await hand.work()
    assert (await app.models.usage(apart.id))["from_ledger"] == 9
    assert (await model_server.stats())["requests"] == 36


async def test_a_strict_budget_refuses_a_model_without_a_price_before_anything_is_stored(
    database_url: str, tmp_path: Path, folder: Path, model_server: ScriptedServer
) -> None:
    settings = Settings(
        database_url=database_url, home=tmp_path / "home", openai_base_url=model_server.base_url, workers=0,
        budget=Caps(project=Decimal(5), strict=True),
    )  # fmt: skip
    async with App(settings=settings) as app:
        with pytest.raises(ModelSetupError) as caught:
            await app.start(FLOW, [folder], model=MODEL)
        assert caught.value.code == "M110"
        assert await app.pool.fetchval("SELECT count(*) FROM run") == 0
        assert [one.spent for one in await standing(app.pool)] == [0, 0]


async def test_a_run_that_a_day_s_budget_holds_goes_on_when_the_next_day_begins(app: App, folder: Path) -> None:
    from gristmill.engine.workflow import start_waiting

    run = await app.start(FLOW, [folder], model=MODEL)
    hold = (
        "UPDATE run SET state = 'paused', held = 'budget: day', held_until = clock_timestamp() + $2::interval"
        " WHERE id = $1"
    )
    async with app.pool.acquire() as connection:
        await connection.execute(hold, run.id, timedelta(hours=1))
        await start_waiting(connection)
        assert (await run.progress()).state == "paused"
        await connection.execute(hold, run.id, timedelta(0))
        await start_waiting(connection)
    assert (await run.progress()).state == "running"


async def test_a_plan_counts_many_files_without_keeping_them(tmp_path: Path) -> None:
    from gristmill.forecast_inputs import KEPT, count

    for number in range(300):
        (tmp_path / f"{number}.txt").write_text("x" * (number % 7 + 1))
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    inputs = count([tmp_path])
    (part,) = inputs.strata.values()
    assert (part.files, len(part.candidates), inputs.unreadable) == (300, KEPT, 1)
    ordered, as_they_come = list(scan([tmp_path])), list(scan([tmp_path], ordered=False))
    assert sorted(as_they_come, key=lambda found: found.name) == sorted(ordered, key=lambda found: found.name)
