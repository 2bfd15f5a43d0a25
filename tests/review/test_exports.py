"""What people have said decides what leaves: edited rows as they were left, no rejected ones, and unreviewed ones only
when nobody asked for reviewed rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gristmill.app import App
from gristmill.data.exports import Options
from gristmill.data.kinds import Chunk, Evaluation, Example, Question, Score, Source
from gristmill.operators.operator import Context, operator
from gristmill.review.decisions import decide, undo
from gristmill.review.queues import Review
from gristmill.workflow import Workflow
from tests.by_hand import hand_of


@operator("v_chunks")
async def chunks(source: Source, ctx: Context) -> list[Chunk]:
    text = (await ctx.blobs.read(source.blob)).decode()
    return [Chunk(text=line, ordinal=at) for at, line in enumerate(text.splitlines())]


@operator("v_questions")
async def questions(chunk: Chunk) -> Question:
    return Question(text=f"{chunk.text}?")


@operator("v_answers")
async def answers(question: Question, manner: str = "plain") -> Example:
    return Example(question=question.text, answer=f"{manner} {question.text}")


@operator("v_score")
async def score(example: Example) -> Evaluation:
    return Evaluation(rubric="r", scores=(Score(name="all", value=2.0),), overall=2.0, judge="rules")


async def made_run(app: App, folder: Path, manner: str = "plain") -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    flow = Workflow("reviewed", [chunks, questions, answers.using(manner=manner), score])
    run = await app.start(flow, [folder])
    async with hand_of(app) as hand:
        await hand.drain(run)
    return run


async def answers_of(run: Any, where: str | None = None) -> dict[str, str]:
    return {row.question.rstrip("?"): row.answer async for row in run.rows(where)}


async def test_an_export_of_reviewed_rows_holds_what_people_accepted_or_edited_and_nothing_else(
    app: App, tmp_path: Path
) -> None:
    run = await made_run(app, tmp_path / "in")
    review = Review.of(run)
    one, two, three, four, five = await review.claim("ann", 5)
    assert [piece.body["question"] for piece in (one, two, three, four, five)] == [
        "one?", "two?", "three?", "four?", "five?",
    ]  # fmt: skip
    await review.decide(one.record_id, "accept", "ann", token=one.token)
    edit = await review.decide(two.record_id, "edit", "ann", changes={"answer": "mine"}, token=two.token)
    await review.decide(three.record_id, "reject", "ann", token=three.token)
    await review.decide(four.record_id, "skip", "ann", token=four.token)
    path = tmp_path / "out.jsonl"
    manifest = await run.export(path, options=Options(reviewed=True))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["question"], row["answer"]) for row in rows] == [("one?", "plain one?"), ("two?", "mine")]
    assert [(r["review"], r["reviewer"]) for r in rows] == [
        ("accepted", "ann"),
        ("edited", "ann"),
    ]
    assert rows[1]["record_id"] == str(edit.revision_id)
    assert rows[1]["score"] == 2.0  # of the text before the edit: nobody has judged the new one
    stored = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert (manifest.rows, stored["options"]["reviewed"]) == (2, True)


async def test_every_export_takes_the_persons_words_and_leaves_out_what_he_rejected(app: App, tmp_path: Path) -> None:
    run = await made_run(app, tmp_path / "in")
    one, two, *_ = await Review.of(run).claim("ann", 2)
    await decide(app.pool, one.record_id, "edit", "ann", changes={"answer": "mine"})
    await decide(app.pool, two.record_id, "reject", "ann")
    found = await answers_of(run)
    assert (found["one"], "two" in found, len(found)) == ("mine", False, 4)
    every = {row.question: (row.review, row.left_out) async for row in run.rows(left_out=True)}
    assert every["two?"] == ("rejected", "rejected by ann")
    assert every["five?"] == ("proposed", None)
    await undo(app.pool, "ann")
    await undo(app.pool, "ann")
    assert (await answers_of(run))["one"] == "plain one?"
    assert len(await answers_of(run)) == 5


async def test_a_filter_can_ask_for_states_and_people(app: App, tmp_path: Path) -> None:
    run = await made_run(app, tmp_path / "in")
    one, two, three, *_ = await Review.of(run).claim("ann", 5)
    await Review.of(run).release("ann")
    await decide(app.pool, one.record_id, "accept", "ann")
    await decide(app.pool, two.record_id, "accept", "bob")
    await decide(app.pool, three.record_id, "skip", "bob")
    assert list(await answers_of(run, "review = 'accepted'")) == ["one", "two"]
    assert list(await answers_of(run, "reviewer = 'bob'")) == ["two", "three"]
    assert list(await answers_of(run, "review in ('proposed', 'skipped')")) == ["three", "four", "five"]


async def test_a_run_that_uses_the_same_work_again_has_the_same_reviewed_rows(app: App, tmp_path: Path) -> None:
    run = await made_run(app, tmp_path / "in")
    (one, *_) = await Review.of(run).claim("ann", 1)
    await decide(app.pool, one.record_id, "edit", "ann", changes={"answer": "mine"})
    (tmp_path / "in" / "b.txt").write_text("six\n")
    flow = Workflow("again", [chunks, questions, answers, score])
    again = await app.start(flow, [tmp_path / "in"])
    async with hand_of(app) as hand:
        await hand.drain(again)
    assert await answers_of(again, "review = 'edited'") == {"one": "mine"}
    review = Review.of(again)
    assert [piece.body["question"] for piece in await review.claim("bob", 9)] == [
        "two?", "three?", "four?", "five?", "six?",
    ]  # fmt: skip


async def test_answers_made_anew_are_not_reviewed_and_know_what_was(app: App, tmp_path: Path) -> None:
    run = await made_run(app, tmp_path / "in")
    (one, *_) = await Review.of(run).claim("ann", 1)
    await decide(app.pool, one.record_id, "accept", "ann")
    other = await made_run(app, tmp_path / "in", "fancy")
    assert await answers_of(other, "review != 'proposed'") == {}
    (changed,) = await Review.of(other).claim("bob", 9, by="changed")
    assert (changed.body["answer"], changed.since) == ("fancy one?", one.record_id)


async def test_a_workflow_without_rows_has_nothing_to_review(app: App, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    run = await app.start(Workflow("bare", [chunks]), [tmp_path / "a.txt"])
    with pytest.raises(Exception, match="nothing to review") as caught:
        Review.of(run)
    assert caught.value.code == "V105"  # type: ignore[attr-defined]
