"""An operator that can do with less: what stands in for an answer is an outcome of its own, with its reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data.kinds import Source
from gristmill.db.database import transaction
from gristmill.engine import history, queue
from gristmill.engine.performer import Outcome
from gristmill.engine.queue import Task
from gristmill.engine.state import STATES
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.review.decisions import decide
from gristmill.run import Run
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow
from tests.by_hand import Hand, hand_of
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]


class Label(BaseModel):
    text: str


@operator("t_label", model=True)
async def label(source: Source, ctx: Context) -> list[Label]:
    fallback: list[Label] = []
    given: list[Label] = await ctx.model.generate(f"Labels for {source.name}.", list[Label], otherwise=fallback)
    return given


async def test_a_stand_in_is_never_an_empty_success(
    database_url: str, model_server: ScriptedServer, tmp_path: Path
) -> None:
    await model_server.control(faults=[{"kind": "refusal"}])
    (tmp_path / "a.txt").write_text("one")
    mine = {"mine": {"provider": "vllm", "model": "scripted", "base_url": model_server.base_url}}
    settings = Settings.model_validate({"database_url": database_url, "home": tmp_path / "home", "models": mine})
    async with App(database_url, settings=settings.model_copy(update={"workers": 0})) as app, hand_of(app) as hand:
        flow = Workflow("labels", [label])
        progress, seen = await hand.drain(await app.start(flow, [tmp_path / "a.txt"], model="mine"))
        assert progress.state == "completed"
        assert [outcome.name for _, outcome in seen] == ["degraded"]
        row = await app.pool.fetchrow("select outcome, notes from work where kind = 't_label'")
    assert row["outcome"] == "degraded"
    assert json.loads(row["notes"])["degraded"].startswith("refused: ")


@pytest.fixture
async def hand(database_url: str, tmp_path: Path, model_server: ScriptedServer) -> AsyncIterator[Hand]:
    """A worker in the test's loop, whose App knows the model "mine"; four texts wait in the folder `texts`."""
    (tmp_path / "texts").mkdir()
    for name in ("ada", "bob", "cyd", "dan"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"The miller {name.title()} Byron lives in Winterthur.\n")
    mine = {"mine": {"provider": "vllm", "model": "scripted", "base_url": model_server.base_url}}
    settings = Settings.model_validate({"database_url": database_url, "home": tmp_path / "home", "models": mine})
    async with App(database_url, settings=settings.model_copy(update={"workers": 0})) as app, hand_of(app) as made:
        yield made


async def members(run: Run, kind: str) -> list[dict[str, Any]]:
    """What a run has of a kind, by input: outcome of the body, id."""
    rows = await run.app.pool.fetch(
        "select i.name, r.id, r.body::json ->> 'outcome' as outcome "
        "from run_record m join record r on r.id = m.record_id join item i on i.id = m.item_id "
        "where m.run_id = $1 and r.kind = $2 order by i.name, r.id",
        run.id, kind,
    )  # fmt: skip
    return [dict(row) for row in rows]


async def check_counters(app: App) -> None:
    """Counters add up to the states of the tasks, and no outcome is counted below nought."""
    counted = await app.pool.fetch(
        "select run_id, step, name, sum(n)::int as n from (select * from counter union all "
        "select run_id, step, name, n from counter_delta) as moved group by 1, 2, 3 having sum(n) <> 0"
    )
    states = await app.pool.fetch("select run_id, step, state, count(*)::int as n from every_task group by 1, 2, 3")
    assert {tuple(row) for row in states} == {tuple(row) for row in counted if row["name"] in STATES}
    assert all(row["n"] > 0 for row in counted)


async def test_what_is_degraded_is_asked_again_with_all_that_was_made_from_it(
    hand: Hand, tmp_path: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 4}])  # two pieces, each asked twice
    app = hand.app
    run = await app.start(find_workflow("relations"), [tmp_path / "texts"], model="mine")
    progress, _ = await hand.drain(run)
    assert {step.name: step.degraded for step in progress.steps if step.degraded} == {"extract": 2, "relate": 2}
    texts = tmp_path / "texts"
    other = await app.start(find_workflow("relations"), [texts / "ada.txt", texts / "bob.txt"], model="mine")
    await hand.drain(other)
    shared = await members(other, "entities")
    before = await members(run, "entities")
    degraded = [one for one in before if one["outcome"] == "degraded"]
    decided = degraded[0]
    word = {"entities": [{"id": "e1", "start": 0, "end": 3, "text": "The", "label": "PERSON"}]}
    await decide(app.pool, decided["id"], "edit", "Ada", changes=word)

    assert await run.retry() == 0  # a stand-in is no failure
    assert await run.retry(degraded=True) == 2  # the other one, and the relations of the one that was decided
    await check_counters(app)
    progress, seen = await hand.drain(run)
    assert progress.state == "completed"
    assert sorted(task.kind for task, _ in seen) == ["extract", "relate", "relate"]
    after = await members(run, "entities")
    assert [one["name"] for one in after] == [one["name"] for one in before]
    assert {one["outcome"] for one in after if one["id"] != decided["id"]} <= {"ok", "empty"}
    assert decided in after
    assert len(await members(run, "relations")) == 4
    assert {step.name: (step.total, step.degraded) for step in progress.steps} == {
        "parse": (4, 0), "split": (4, 0), "extract": (4, 1), "relate": (4, 1),
    }  # fmt: skip
    await check_counters(app)

    assert await members(other, "entities") == shared  # what others have of it is theirs
    calls = (await model_server.stats())["requests"]
    assert await other.retry(degraded=True) >= 1
    _, seen = await hand.drain(other)
    assert "reused" in {outcome.name for _, outcome in seen}
    assert (await model_server.stats())["requests"] == calls  # and what was asked meanwhile is not asked twice


@operator("t_label_but_bob", model=True)
async def label_but_bob(source: Source, ctx: Context) -> list[Label]:
    if source.name == "bob.txt":
        raise InputError("not he")
    return await label.function(source, ctx)  # type: ignore[no-any-return]


async def test_what_failed_and_what_is_degraded_begin_anew_in_one_commit(
    hand: Hand, tmp_path: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 2}])
    run = await hand.app.start(Workflow("labels", [label_but_bob]), [tmp_path / "texts"], model="mine")
    progress, _ = await hand.drain(run)
    assert (progress.failed, progress.steps[0].degraded) == (1, 1)
    assert await run.retry(degraded=True, look=False) == 2
    commits = "select count(*), count(distinct xmin::text) from task where run_id = $1 and state = 'available'"
    assert tuple(await hand.app.pool.fetchrow(commits, run.id)) == (2, 1)


async def test_a_piece_that_leaves_for_the_history_meanwhile_is_taken_back_there(
    hand: Hand, tmp_path: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 2}])
    pool = hand.app.pool
    run = await hand.app.start(Workflow("labels", [label]), [tmp_path / "texts"], model="mine")
    await hand.drain(run)
    piece = await pool.fetchval("select task_id from work where outcome = 'degraded'")
    await pool.execute(
        "select make_history_week(date_trunc('week', ended_at at time zone 'UTC')::date) from task where id = $1", piece
    )
    async with transaction(pool) as mover:
        assert await mover.fetchval(history.SQL["move"], [piece]) == 1
        again = asyncio.create_task(run.retry(degraded=True, look=False))
        blocked = (
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(4):
            while not await mover.fetchval(blocked):
                await asyncio.sleep(0.01)
    assert await again == 1
    assert await pool.fetchval("select state from task_history where id = $1", piece) == "cancelled"
    await check_counters(hand.app)


async def test_a_panel_votes_anew_when_one_of_its_annotators_is_asked_again(
    hand: Hand, tmp_path: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 2}])
    run = await hand.app.start(find_workflow("rate-panel"), [tmp_path / "texts"], model="mine")
    await hand.drain(run)
    assert [one["outcome"] for one in await members(run, "rating")].count("degraded") == 1
    assert await run.retry(degraded=True) == 1
    progress, _ = await hand.drain(run)
    ratings = await members(run, "rating")
    assert progress.state == "completed"
    assert len(ratings) == 4 * 4  # three annotators and the panel
    assert {one["outcome"] for one in ratings} == {"ok"}
    report = await hand.app.pool.fetchval(
        "select count(*) from run_record m join record r on r.id = m.record_id "
        "where m.run_id = $1 and r.kind = 'agreement'",
        run.id,
    )  # fmt: skip
    assert report == 1
    await check_counters(hand.app)


async def test_asking_again_in_the_middle_of_a_run_stops_what_works_on_a_stand_in(
    hand: Hand, tmp_path: Path, model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 2}])
    run = await hand.app.start(find_workflow("relations"), [tmp_path / "texts"], model="mine")
    held: list[tuple[Task, Outcome]] = []
    while tasks := await hand.claim():
        for task in tasks:
            outcome = await hand.performer.perform(task)
            if task.kind == "relate":
                held.append((task, outcome))
            else:
                await hand.settle((task, outcome))
    assert [outcome.name for _, outcome in held].count("degraded") == 1
    assert await run.retry(degraded=True) == 1
    late = next(entry for entry in held if entry[1].name == "degraded")
    async with transaction(hand.app.pool) as connection:
        assert await queue.settle(connection, hand.claimer, [(late[0], "degraded")]) == set()  # it was taken away
    for entry in held:
        if entry is not late:
            await hand.settle(entry)
    progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    assert sum(step.degraded for step in progress.steps) == 0
    assert len(await members(run, "entities")) == len(await members(run, "relations")) == 4
    await check_counters(hand.app)
