"""The questions side as whole runs: a real performer, a real database, a model over a real connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gristmill.app import App
from gristmill.cli import gristmill
from gristmill.cli.plan import forecast
from gristmill.config import Settings
from gristmill.data import records
from gristmill.data.kinds import Chunk, Document, Example, LabelTree, Question, Source, Topic
from gristmill.errors import InputError, UsageError
from gristmill.operators import (
    answer,
    ask,
    assign_labels,
    dedup_documents,
    distill_questions,
    ga_pairs,
    label_tree,
    pair_chunks,
    questions_from_template,
    read_topics,
    topics,
)
from gristmill.operators.operator import Context, operator
from gristmill.run import Run
from gristmill.workflow import Workflow
from gristmill.workflow_files import assign, find_workflow
from tests.by_hand import hand_of
from tests.llm.conftest import ScriptedServer, model_server, scripted_server

__all__ = ["model_server", "scripted_server"]
MODEL = "openai:scripted"


@operator("t_questions_read")
async def read(source: Source, ctx: Context) -> Document:
    text = (await ctx.blobs.read(source.blob)).decode()
    return Document(text_blob=await ctx.blobs.write(text.encode()), characters=len(text), media_type="text/plain")


@operator("t_questions_cut")
async def cut(document: Document, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(document.text_blob)).decode()
    return [Chunk(text=line, ordinal=n) for n, line in enumerate(text.splitlines())]


TEMPLATES = [{"name": "kind", "question": "Which kind is it?", "answer_type": "label", "labels": ["a law", "a manual"]}]
AUDIENCES = Workflow(
    "audiences",
    [read, cut, ga_pairs.using(n=2).after("t_questions_read"),
     pair_chunks.using(per="item").after("t_questions_cut", "ga_pairs"),
     ask.using(count=1, avoid_existing=False)],
)  # fmt: skip
LABELS = Workflow(
    "labels",
    [read, cut, ask.using(count=2), label_tree.after("t_questions_read"),
     assign_labels.after("ask", "label_tree"), answer],
)  # fmt: skip
PLAIN = Workflow("plain", [read, cut, ask.using(count=1)])


@pytest.fixture
def settings(
    database_url: str, tmp_path: Path, model_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Settings(
        database_url=database_url, home=tmp_path / "home", openai_base_url=model_server.base_url, workers=0,
        prompts=tmp_path / "prompts",
    )  # fmt: skip


@pytest.fixture
async def app(settings: Settings, tmp_path: Path) -> AsyncIterator[App]:
    (tmp_path / "prompts" / "en").mkdir(parents=True)
    async with App(settings=settings) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    for name in "ab":
        lines = [f"Part {name}{n} of the feed pump is made of brass and lasts for {n + 2} years." for n in range(2)]
        (made / f"{name}.txt").write_text("\n".join(lines))
    return made


async def drained(app: App, flow: Workflow, sources: Path, state: str = "completed") -> tuple[Run, int]:
    """The run after its end, and how many calls it has paid."""
    before = await app.pool.fetchval("select count(*) from call")
    run = await app.start(flow, [sources], model=MODEL)
    async with hand_of(app) as hand:
        progress, _ = await hand.drain(run)
    assert progress.state == state, await run.failures()
    return run, await app.pool.fetchval("select count(*) from call") - before


async def bodies(app: App, run: Run, step: str, kind: Any) -> list[Any]:
    place = [spec.name for spec in run.workflow.steps].index(step)
    rows = await app.pool.fetch(records.SQL["of_run"], run.id, place)
    return [kind.model_validate_json(row["body"]) for row in rows]


async def test_every_chunk_is_asked_about_for_every_audience_of_its_document(app: App, folder: Path) -> None:
    run, calls = await drained(app, AUDIENCES, folder)
    questions = await bodies(app, run, "ask", Question)
    assert len(questions) == 8  # 2 documents, 2 chunks each, 2 audiences
    assert len({question.audience for question in questions}) == 4
    assert calls == 2 + 8
    (folder / "c.txt").write_text("Part c0 of the feed pump is made of steel and lasts for nine long years.")
    again, calls = await drained(app, AUDIENCES, folder)
    assert again.id == run.id
    assert calls == 1 + 2  # what there was is not asked about again


async def test_questions_keep_their_chunk_when_they_get_a_label(app: App, folder: Path) -> None:
    run, calls = await drained(app, LABELS, folder)
    (tree,) = await bodies(app, run, "label_tree", LabelTree)
    assert len(tree.paths) == 2
    labelled = await bodies(app, run, "assign_labels", Question)
    asked = await bodies(app, run, "ask", Question)
    assert sorted(question.text for question in labelled) == sorted(question.text for question in asked)
    assert {question.label for question in labelled} == {("Other",)}
    examples = await bodies(app, run, "answer", Example)
    assert len(examples) == len(asked) == 8
    assert all(example.label == ("Other",) and example.grounded for example in examples)
    assert calls == 4 + 1 + 1 + 8
    _, calls = await drained(app, LABELS, folder)
    assert calls == 0


@operator("t_questions_no_tree", barrier=True)
async def no_tree(documents: list[Document]) -> LabelTree:
    raise InputError("no tree today")


async def test_the_tree_of_a_run_is_printed_and_taken_over_by_the_next(app: App, folder: Path) -> None:
    def invoke(*arguments: str) -> Any:
        environment = {"GRISTMILL_DATABASE_URL": app.settings.database_url, "GRISTMILL_HOME": str(app.settings.home)}
        return CliRunner().invoke(gristmill, [*arguments], env=environment, standalone_mode=False)

    tree = Workflow("tree", [read, label_tree])
    first, _ = await drained(app, tree, folder)
    shown = await asyncio.to_thread(invoke, "labels", first.name, "--json")
    paths = json.loads(shown.output)["paths"]
    assert shown.exit_code == 0
    assert (await asyncio.to_thread(invoke, "labels")).output == "\n".join(paths) + "\n"
    kept, calls = await drained(app, assign(tree, {"label_tree.paths": paths, "label_tree.action": "keep"}), folder)
    (body,) = await bodies(app, kept, "label_tree", LabelTree)
    assert body.origin == "kept"
    assert [" > ".join(path) for path in body.paths] == paths
    assert calls == 0
    other, _ = await drained(app, Workflow("only", [read]), folder)
    refused = await asyncio.to_thread(invoke, "labels", other.name)
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.code == "U307"


async def test_a_tree_that_fails_costs_no_question_and_no_answer(app: App, folder: Path) -> None:
    steps = [no_tree.after("t_questions_read"), assign_labels.after("ask", "t_questions_no_tree")]
    flow = Workflow("no tree", [read, cut, ask.using(count=1), *steps, answer])
    run, calls = await drained(app, flow, folder, "partial")
    assert [piece.step for piece in await run.failures()] == ["t_questions_no_tree"]
    examples = await bodies(app, run, "answer", Example)
    assert len(examples) == 4
    assert {example.label for example in examples} == {None}
    assert calls == 4 + 4


async def test_a_template_more_costs_the_answers_to_its_own_questions_only(app: App, folder: Path) -> None:
    def flow(templates: list[dict[str, Any]]) -> Workflow:
        return Workflow("templates", [read, cut, questions_from_template.using(templates=templates), answer])

    run, calls = await drained(app, flow(TEMPLATES), folder)
    assert {example.answer for example in await bodies(app, run, "answer", Example)} == {"a law"}
    assert calls == 4
    more, calls = await drained(app, flow([*TEMPLATES, {"name": "age", "question": "How old does it get?"}]), folder)
    assert len(await bodies(app, more, "answer", Example)) == 8
    assert calls == 4


async def test_topics_become_questions_and_answers_without_any_document(app: App, tmp_path: Path) -> None:
    file = tmp_path / "topics.txt"
    file.write_text("Pumps > Starting\nValves\n")

    def flow(count: int) -> Workflow:
        chosen = (topics.using(levels=1, per_level=2), distill_questions.using(count=count))
        return Workflow("topics", [read_topics, *chosen, answer])

    run, calls = await drained(app, flow(3), file)
    leaves = await bodies(app, run, "topics", Topic)
    assert [leaf.path[:1] for leaf in leaves] == [("Pumps",), ("Pumps",), ("Valves",), ("Valves",)]
    assert ("Pumps", "Starting") in [leaf.path for leaf in leaves]
    examples = await bodies(app, run, "answer", Example)
    assert len(examples) == 12
    assert {example.label for example in examples} == {leaf.path for leaf in leaves}
    assert calls >= 2 + 4 + 3
    _, calls = await drained(app, flow(3), file)
    assert calls == 0


OWN = "---\nname: ask\nversion: 1\nfields: {}\n---\n# user\nWrite 2 questions. {{}} {}\n"


async def test_a_prompt_of_the_project_wins_and_a_change_redoes_what_depends_on_it(
    app: App, folder: Path, tmp_path: Path, model_server: ScriptedServer
) -> None:
    _, calls = await drained(app, PLAIN, folder)
    assert calls == 4
    own = tmp_path / "prompts" / "en" / "ask.md"
    own.write_text(OWN.format("passage, headings", "About: {passage} {headings}"))
    run, calls = await drained(app, PLAIN, folder)
    assert calls == 4
    asked = json.dumps(await model_server.last())
    assert "About: Part" in asked
    same, calls = await drained(app, PLAIN, folder)
    assert (same.id, calls) == (run.id, 0)
    own.write_text(own.read_text().replace("About", "On"))
    _, calls = await drained(app, PLAIN, folder)
    assert calls == 4
    own.unlink()
    _, calls = await drained(app, PLAIN, folder)
    assert calls == 0


async def test_a_step_may_name_a_prompt_of_the_project(app: App, folder: Path, tmp_path: Path) -> None:
    flow = Workflow("named", [read, cut, ask.using(count=1, prompt="mine")])
    with pytest.raises(UsageError, match="mine"):
        await app.start(flow, [folder], model=MODEL)
    (tmp_path / "prompts" / "en" / "mine.md").write_text(OWN.format("passage", "Mine: {passage}"))
    run, calls = await drained(app, flow, folder)
    assert calls == 4
    assert len(await bodies(app, run, "ask", Question)) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [(OWN.format("pasage", "{pasage}"), "pasage"), (OWN.format("passage", "{passage} {langauge}"), "langauge"),
     (OWN.format("passage", "no place"), "does not use it"), ("no header", "header")],
)  # fmt: skip
async def test_a_prompt_that_cannot_be_filled_is_an_error_before_the_run(
    app: App, folder: Path, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "prompts" / "en" / "ask.md").write_text(text)
    with pytest.raises(UsageError, match=said):
        await app.start(PLAIN, [folder], model=MODEL)
    with pytest.raises(UsageError, match=said):
        await forecast(app, PLAIN.with_model(MODEL), [folder])
    assert await app.pool.fetchval("select count(*) from run where key is not null") == 0


async def test_a_folder_of_prompts_that_is_not_there_is_an_error_before_the_run(
    app: App, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts" / "en").rmdir()
    (tmp_path / "prompts").rmdir()
    with pytest.raises(UsageError, match="prompts"):
        await app.start(PLAIN, [folder], model=MODEL)


@pytest.mark.parametrize("name", ["distill", "qa-labels", "qa-audiences"])
def test_the_shipped_workflows_of_questions_fit_together(name: str) -> None:
    flow = find_workflow(name)
    assert [spec.name for spec in flow.steps][-2:] == ["answer", "dedup"]


async def test_of_documents_that_say_nearly_the_same_one_is_asked_about(app: App, tmp_path: Path) -> None:
    mills = tmp_path / "mills"
    mills.mkdir()
    lines = [
        f"Wheel number {number} turns {number} stones. Their flour goes to town {number}." for number in range(1, 9)
    ]
    (mills / "a.txt").write_text("\n".join(lines))
    (mills / "b.txt").write_text("\n".join([*lines[:7], "Nobody knows."]))
    (mills / "c.txt").write_text("A windmill has four sails. They turn with the wind all day.")
    flow = [read, dedup_documents.using(threshold=0.7), cut, ask.using(count=1), answer]
    async with hand_of(app) as hand:
        alone = await app.start(Workflow("plain", [read, cut, *flow[3:]]), [mills / "b.txt"], model=MODEL)
        await hand.drain(alone)  # its questions about what is the same are made of b
        run = await app.start(Workflow("new", flow), [mills], model=MODEL)
        progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    assert {step.name: step.completed for step in progress.steps}["t_questions_cut"] == 2
    rows = [row async for row in run.rows()]
    assert len(rows) == 9
    assert {row.chunk for row in rows} == {*lines, "A windmill has four sails. They turn with the wind all day."}
