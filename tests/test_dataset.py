"""The dataset of a run: which records are its rows, with what marks and scores; and exports that are inputs again."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.data.exports import Options
from gristmill.data.kinds import (
    Chunk,
    Conversation,
    Document,
    Duplicate,
    Evaluation,
    Example,
    Judgement,
    Question,
    Rejection,
    Score,
    Source,
    Turn,
)
from gristmill.data.kinds import TestItem as Item
from gristmill.db.database import SESSION
from gristmill.errors import UsageError
from gristmill.operators import read_examples
from gristmill.operators.operator import Context, Derived, operator
from gristmill.workflow import Workflow
from tests.by_hand import Hand


@operator("d_document")
async def document(source: Source, ctx: Context) -> Document:
    text = await ctx.blobs.read(source.blob)
    return Document(text_blob=source.blob, characters=len(text), media_type="text/plain", title=source.name.upper())


@operator("d_chunks")
async def chunks(document: Document, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(document.text_blob)).decode()
    return [Chunk(text=line, ordinal=at, heading_path=("Part", line)) for at, line in enumerate(text.splitlines())]


@operator("d_questions")
async def questions(chunk: Chunk) -> list[Question]:
    return [Question(text=f"What about {word}?", label=("words", word)) for word in chunk.text.split()]


@operator("d_answers")
async def answers(question: Question, manner: str = "plain") -> Example:
    return Example(question=question.text, answer=f"{manner} {question.text}", label=question.label, model=manner)


@operator("d_clean")
async def tidy(example: Example) -> Example | None:
    return example.model_copy(update={"answer": "clean " + example.answer})


@operator("d_score")
async def score(example: Example) -> Evaluation:
    value = 4.0 if example.answer.startswith("plain") else 2.0
    return Evaluation(rubric="r", scores=(Score(name="all", value=value),), overall=value, judge="rules")


@operator("d_reject")
async def reject(example: Example, word: str = "two") -> Rejection | None:
    return Rejection(rule="word", reason=f"it says {word}") if word in example.question else None


@operator("d_reject_chunk")
async def reject_chunk(chunk: Chunk) -> Rejection | None:
    return Rejection(rule="chunk", reason="it is about three") if "three" in chunk.text else None


@operator("d_double", barrier=True)
async def double(examples: list[Example]) -> list[Derived[Duplicate]]:
    return [Derived(Duplicate(similarity=1, method="exact"), (1, 0))]


@operator("d_talk")
async def talk(question: Question) -> Conversation:
    turns = (Turn(role="user", content=question.text), Turn(role="assistant", content="Well.", reasoning="Hm."))
    return Conversation(turns=turns, rounds=1, scenario="a shop", model="m")


@operator("d_items")
async def items(chunk: Chunk) -> Item:
    return Item(question=chunk.text, type="single_choice", correct=("B",), options=("a/b", "c"), explanation="So.")


@operator("d_judge")
async def judged(item: Item) -> Judgement:
    return Judgement(answer="B", score=0.5, passed=True, by="rule", model="m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "a.txt").write_text("one two\nthree\n")
    (made / "b.txt").write_text("four\n")
    return made


BASE = [document, chunks, questions, answers]


async def finished(app: App, hand: Hand, steps: list[Any], folder: Path) -> Any:
    run = await app.start(Workflow("data", steps), [folder])
    progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    return run


async def test_a_row_says_where_it_came_from(app: App, hand: Hand, folder: Path) -> None:
    run = await finished(app, hand, BASE, folder)
    rows = [row async for row in run.rows()]
    assert [row.answer.split()[-1] for row in rows] == ["one?", "two?", "three?", "four?"]
    first = rows[0]
    assert (first.source, first.title, first.chunk, first.heading_path) == (
        "a.txt",
        "A.TXT",
        "one two",
        ("Part", "one two"),
    )
    assert (first.label, first.kind, first.score, first.left_out) == (("words", "one"), "example", None, None)
    assert len({row.question_id for row in rows}) == 4
    assert len({row.document for row in rows}) == 2
    assert [row.question async for row in run.rows("label = 'words/two' or source = 'b.txt'")] == [
        "What about two?", "What about four?",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no column"):
        _ = [row async for row in run.rows("lable = 'x'")]


async def test_the_last_of_a_chain_of_revisions_is_the_row_with_the_score_of_the_nearest(
    app: App, hand: Hand, folder: Path
) -> None:
    run = await finished(app, hand, [*BASE, tidy, score.after("d_answers")], folder)
    rows = [row async for row in run.rows()]
    assert [row.answer for row in rows] == [
        f"clean plain What about {word}?" for word in ("one", "two", "three", "four")
    ]
    assert {row.score for row in rows} == {4.0}  # of the revision before: nobody has judged the clean one
    run = await finished(app, hand, [*BASE, tidy, score.after("d_answers", "d_clean")], folder)
    assert {row.score async for row in run.rows()} == {2.0}


async def test_what_a_mark_lies_on_is_left_out_and_comes_with_its_reason_when_asked(
    app: App, hand: Hand, folder: Path
) -> None:
    steps = [*BASE, tidy, reject.after("d_answers"), reject_chunk.after("d_chunks"), double.after("d_clean")]
    run = await finished(app, hand, steps, folder)
    assert [row.question async for row in run.rows()] == ["What about one?", "What about four?"]
    every = [(row.question.split()[-1], row.left_out) async for row in run.rows(left_out=True)]
    assert every[0] == ("one?", None)
    assert every[1][0] == "two?"
    assert every[1][1] in ("word: it says two", "duplicate")  # the first mark of two
    assert every[2:] == [("three?", "chunk: it is about three"), ("four?", None)]
    assert [row.left_out async for row in run.rows("left_out like 'chunk%'", left_out=True)] == [every[2][1]]


async def test_a_slow_disk_does_not_cost_the_connection_that_rows_come_from(
    app: App, hand: Hand, folder: Path, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await finished(app, hand, BASE, folder)
    monkeypatch.setitem(SESSION, "idle_in_transaction_session_timeout", "20ms")
    async with App(database_url, home=tmp_path / "home", workers=0) as hasty:
        same = await hasty.find(run.name)
        seen = 0
        async for _ in same.rows():
            seen += 1
            if seen == 1:
                await asyncio.sleep(0.2)  # the time itself is what is tested
    assert seen == 4


async def test_two_answers_to_one_question_are_two_rows_and_make_a_pair(
    app: App, hand: Hand, folder: Path, tmp_path: Path
) -> None:
    other = answers.using(name="other", manner="fancy").after("d_questions")
    run = await finished(app, hand, [*BASE, other, score.after("d_answers", "other")], folder)
    rows = [row async for row in run.rows()]
    assert len(rows) == 8
    await run.export(tmp_path / "pairs.jsonl", "preference")
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["chosen"][:5], pair["rejected"][:5]) for pair in pairs] == [("plain", "fancy")] * 4


async def test_conversations_and_test_items_are_rows_too(app: App, hand: Hand, folder: Path) -> None:
    run = await finished(app, hand, [*BASE[:3], talk, items.after("d_chunks"), judged.after("d_items")], folder)
    rows = [row async for row in run.rows()]
    talks, exams = ([row for row in rows if row.kind == kind] for kind in ("conversation", "test_item"))
    assert len(talks) == 4
    assert (talks[0].question, talks[0].answer, talks[0].turns[1].reasoning) == ("What about one?", "Well.", "Hm.")
    assert [(row.answer, row.options, row.score) for row in exams] == [("B", ("a/b", "c"), 0.5)] * 3
    nothing = await app.start(Workflow("none", BASE[:2]), [folder])
    with pytest.raises(UsageError) as caught:
        _ = [row async for row in nothing.rows()]
    assert caught.value.code == "U310"


async def test_results_are_tables(app: App, hand: Hand, folder: Path) -> None:
    run = await finished(app, hand, [*BASE, score], folder)
    results = run.results("question like '%o%?'")
    assert [row.score async for row in results] == [4.0] * 4
    table = await results.arrow()
    assert (table.num_rows, table.column("label").to_pylist()[0]) == (4, ["words", "one"])
    assert (await run.results("score < 0").arrow()).num_rows == 0


@pytest.mark.parametrize("library", ["pandas", "polars"])
async def test_results_are_frames_of_the_libraries_that_are_installed(
    app: App, hand: Hand, folder: Path, library: str
) -> None:
    run = await finished(app, hand, BASE, folder)
    try:
        importlib.import_module(library)
    except ImportError:
        with pytest.raises(UsageError, match=f"package {library}"):
            await getattr(run.results(), library)()
        return
    frame = await getattr(run.results(), library)()
    assert next(iter(frame["question"])) == "What about one?"


async def test_an_export_says_what_it_was_made_from_and_is_an_input_again(
    app: App, hand: Hand, folder: Path, tmp_path: Path
) -> None:
    run = await finished(app, hand, BASE, folder)
    path = tmp_path / "again" / "rows.jsonl"
    manifest = await run.export(path, "messages", Options(where="label != 'words/two'"))
    stored = json.loads((path.parent / "rows.jsonl.manifest.json").read_text())
    assert (stored["run"], stored["workflow"], stored["rows"]) == (run.name, "data", 3)
    assert stored["options"] == {"where": "label != 'words/two'", "language": "en"}
    assert stored["files"][0]["sha256"] == manifest.sha256
    with path.open("a") as file:
        file.write("not a row\n")
    again = await app.start(Workflow("again", [read_examples, tidy]), [path])
    progress, seen = await hand.drain(again)
    assert progress.state == "completed", await again.failures()
    rows = [row async for row in again.rows()]
    assert [row.answer.split()[-1] for row in rows] == ["one?", "three?", "four?"]
    assert [row.model for row in rows] == ["plain"] * 3
    notes = json.loads(seen[0][1].value.work.notes)
    assert (notes["read"], notes["rejected"]) == (3, 1)
    assert notes["first_rejected"][0].startswith("line 4: not JSON")


async def test_a_file_without_one_row_of_use_fails_and_names_the_option(app: App, hand: Hand, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "Why?", "a": "So."}\n')
    run = await app.start(Workflow("again", [read_examples]), [tmp_path / "rows.jsonl"])
    await hand.drain(run)
    failed = (await run.failures())[0]
    assert failed.code == "P252"
    assert "line 1: its fields (q, a) are of no known shape" in failed.message
    named = read_examples.using(fields={"question": "q", "answer": "a"})
    run = await app.start(Workflow("again", [named]), [tmp_path / "rows.jsonl"])
    await hand.drain(run)
    assert [(row.question, row.answer) async for row in run.rows()] == [("Why?", "So.")]
