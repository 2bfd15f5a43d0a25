"""Cleaning, marking, scoring and examinations through the real performer, database and ledger."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data.kinds import KINDS, content_hash
from gristmill.operators import (
    answer,
    ask,
    chunk_quality,
    dedup,
    embed_questions,
    filter_chunks,
    judge,
    parse,
    read_examples,
    split,
    take_test,
)
from gristmill.operators import test_items as make_items
from gristmill.testing import ScriptedModel
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow
from tests.by_hand import Hand
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]

ROWS = [
    {"question": "What  is a pump ?", "answer": "A pump moves water , and never runs at 3.14 bar !!"},
    {"question": "what is a PUMP?", "answer": "A machine that moves water from here to there."},
    {"question": "What is a valve?", "answer": "It says: #### $$$$ %%%% ^^^^ &&&& **** (((( ))))"},
]


@pytest.fixture
async def app(
    database_url: str, tmp_path: Path, model_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:  # fmt: skip
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = Settings(
        database_url=database_url, home=tmp_path / "home", openai_base_url=model_server.base_url, workers=0
    )
    async with App(settings=settings) as opened:
        yield opened


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    made = tmp_path / "rows.jsonl"
    made.write_text("\n".join(map(json.dumps, ROWS)))
    return made


async def made_by(app: App, run: Any, name: str) -> list[tuple[Any, list[int], int]]:
    """What the step has made: body, parents, id."""
    found = await app.pool.fetch(
        """select r.id, r.kind, r.body,
               (select array_agg(parent_id order by ordinal) from lineage where record_id = r.id) as parents
           from run_record m join record r on r.id = m.record_id
               join step s on s.run_id = m.run_id and s.ordinal = m.step
           where m.run_id = $1 and s.name = $2 order by m.place, r.id""",
        run.id, name,
    )  # fmt: skip
    return [(KINDS[row["kind"]].model_validate_json(row["body"]), row["parents"], row["id"]) for row in found]


async def test_a_dataset_is_cleaned_as_revisions_and_what_is_unfit_is_marked(app: App, hand: Hand, rows: Path) -> None:
    run = await app.start(find_workflow("clean"), [rows])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", progress
    old, new = await made_by(app, run, "read_examples"), await made_by(app, run, "clean")
    assert next((body.question, body.answer) for body, _, _ in new) == (
        "What is a pump?", "A pump moves water, and never runs at 3.14 bar!",
    )  # fmt: skip
    assert [body.question for body, _, _ in old] == [row["question"] for row in ROWS]  # nothing is lost
    assert [parents for _, parents, _ in new] == [[number] for _, _, number in old]
    marks = await made_by(app, run, "filter_examples") + await made_by(app, run, "dedup")
    numbers = [number for _, _, number in new]
    assert [(body.kind, parents) for body, parents, _ in marks] == [
        ("rejection", [numbers[2]]), ("duplicate", [numbers[1], numbers[0]]),
    ]  # fmt: skip
    again = await app.start(find_workflow("clean"), [rows], fresh=True)
    _, seen = await hand.drain(again)
    assert {outcome.name for _, outcome in seen} == {"reused"}


async def test_what_is_marked_among_chunks_is_asked_nothing(app: App, hand: Hand, tmp_path: Path) -> None:
    text = "The feed pump runs at 40 bar and must never run dry. The valve opens at 60 bar, and closes at 50 bar."
    (tmp_path / "pump.md").write_text(f"# Pump\n\n{text}\n\n# Again\n\n{text}\n\n# Index\n\n{text[:50]}\n\n# Empty\n")
    flow = Workflow("fit", [
        parse, split.using(size=130, minimum=0), chunk_quality.using(per="item"),
        filter_chunks.using(must_match="valve"), ask, answer,
    ])  # fmt: skip
    run = await app.start(flow, [tmp_path / "pump.md"], model="extractive")
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    chunks = {number: body for body, _, number in await made_by(app, run, "split")}
    marks = [(body, parents) for body, parents, _ in await made_by(app, run, "chunk_quality") if body.kind != "chunk"]
    assert [(body.rule, chunks[parents[0]].text) for body, parents in marks] == [("heading_only", "# Empty")]
    fit = [(body, number) for body, _, number in await made_by(app, run, "filter_chunks") if body.kind == "chunk"]
    assert [body.heading_path for body, _ in fit] == [("Pump",), ("Again",)]
    asked = {parents[0] for _, parents, _ in await made_by(app, run, "ask")}
    assert asked == {number for _, number in fit}
    assert {row.heading_path for row in [row async for row in run.results()]}


async def test_a_dataset_is_scored_by_a_judge_and_by_rules(
    app: App, hand: Hand, rows: Path, model_server: ScriptedServer
) -> None:  # fmt: skip
    run = await app.start(find_workflow("evaluate"), [rows], model="openai:scripted")
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    examples = {number: body for body, _, number in await made_by(app, run, "read_examples")}
    for step, by in (("evaluate", "openai:scripted"), ("evaluate_rules", "rules")):
        made = await made_by(app, run, step)
        assert sorted(parents[0] for _, parents, _ in made) == sorted(examples)
        for body, parents, _ in made:
            assert body.judge == by
            assert body.subject == content_hash(examples[parents[0]]).hex()
    assert (await model_server.stats())["requests"] == len(ROWS)


async def test_questions_that_say_the_same_in_vectors_are_marked(app: App, hand: Hand, rows: Path) -> None:
    flow = Workflow("near", [
        read_examples, embed_questions.using(model="hashed"),
        dedup.using(method="vectors", threshold=0.5).after("read_examples", "embed_questions"),
    ])  # fmt: skip
    run = await app.start(flow, [rows])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    numbers = [number for _, _, number in await made_by(app, run, "read_examples")]
    marks = await made_by(app, run, "dedup")
    assert (numbers[1], numbers[0]) in [tuple(parents) for _, parents, _ in marks]


class ByName:
    """Models by their names, in the place of those that the worker would open."""

    def __init__(self, models: dict[str, ScriptedModel]) -> None:
        self.models = models

    async def open(self, spec: str) -> ScriptedModel:
        return self.models[spec]


async def test_an_examination_is_set_taken_and_judged_by_models_of_their_own(
    app: App, hand: Hand, tmp_path: Path
) -> None:  # fmt: skip
    source = tmp_path / "pump.txt"
    source.write_text("The feed pump runs at 40 bar. It must never run dry. Its valve is made of brass.")
    items = [
        {"type": "true_false", "question": "It may run dry.", "correct": ["false"]},
        {"type": "open", "question": "Why is brass used?", "correct": ["It does not rust."]},
    ]
    models = ByName({
        "openai:teacher": ScriptedModel([items, {"comment": "half", "score": 0.5}]),
        "openai:candidate": ScriptedModel([{"answer": "false"} if n else {"answer": "Nobody knows."} for n in (1, 0)]),
    })  # fmt: skip
    hand.performer.models = models
    flow = Workflow("exam", [
        parse, split, make_items.using(count=2, ratios={"true_false": 1, "open": 1}, model="openai:teacher"),
        take_test.using(model="openai:candidate"), judge.using(model="openai:teacher"),
    ])  # fmt: skip
    assert [spec.operator.name for spec in flow.steps] == [
        spec.operator.name for spec in find_workflow("exam").steps
    ]  # fmt: skip
    run = await app.start(flow, [source])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    judged = {body.answer: (body.score, body.by) for body, _, _ in await made_by(app, run, "judge")}
    assert judged == {"false": (1.0, "rule"), "Nobody knows.": (0.5, "scripted")}
