from __future__ import annotations

from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Question
from gristmill.errors import InputError, InvalidOutput
from gristmill.llm.extractive import ExtractiveModel
from gristmill.llm.model import Model
from gristmill.llm.structured import Asker
from gristmill.operators.ask import ask, how_many
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs, ScriptedModel

TEXT = (
    "The feed pump runs at 40 bar. Before it is started, the inlet valve must be open.\n"
    "A pump that runs dry is damaged within two minutes, so the level switch stops it."
)
CHUNK = Chunk(text=TEXT, start=1000, end=1000 + len(TEXT), heading_path=("Pumps", "Starting"))


def asked(question: str, quote: str | None = None) -> dict[str, Any]:
    return {"question": question, "quote": quote}


def context_of(model: Model, language: str = "en") -> Context:
    """As `perform` makes it, but at hand for a look at the notes."""
    return Context(blobs=MemoryBlobs(), model=Asker(model), language=language)


async def questions_of(
    chunk: Chunk, *answers: Any, language: str = "en", **options: Any
) -> tuple[list[Question], dict[str, Any], ScriptedModel]:
    model = ScriptedModel(answers)
    ctx = context_of(model, language)
    produced = await run_operator(ask, [chunk], {}, options, ctx)
    bodies = [entry.body for entry in produced]
    assert all(isinstance(body, Question) for body in bodies)
    return bodies, ctx.notes, model  # type: ignore[return-value]


async def test_questions_point_at_their_evidence_in_the_document() -> None:
    questions, notes, _ = await questions_of(
        CHUNK,
        [asked("At which pressure does it run?", "The feed pump runs at 40 bar."), asked("What is open before?", None)],
        count=2,
    )
    assert [(q.text, q.ordinal) for q in questions] == [
        ("At which pressure does it run?", 0),
        ("What is open before?", 1),
    ]
    assert (questions[0].evidence_start, questions[0].evidence_end) == (1000, 1029)
    assert (questions[1].evidence_start, questions[1].evidence_end) == (None, None)
    assert (notes["asked"], notes["returned"]) == (2, 2)
    assert "dropped" not in notes
    assert "quotes_not_found" not in notes


async def test_a_quote_that_is_not_in_the_chunk_is_not_made_up() -> None:
    questions, notes, _ = await questions_of(CHUNK, [asked("What else?", "The pump is made of stainless steel.")])
    assert questions[0].evidence_start is None
    assert questions[0].evidence_end is None
    assert notes["quotes_not_found"] == 1


async def test_never_more_questions_than_asked_for_are_kept() -> None:
    questions, notes, _ = await questions_of(CHUNK, [asked(f"What is fact {n}?") for n in range(9)], count=3)
    assert [q.text for q in questions] == ["What is fact 0?", "What is fact 1?", "What is fact 2?"]
    assert notes["dropped"] == {"surplus": 6}


async def test_blank_absurd_and_repeated_questions_are_dropped_and_counted() -> None:
    questions, notes, _ = await questions_of(
        CHUNK,
        [asked("  "), asked("???"), asked("x " * 300), asked("What  is it?"), asked("what is IT ?"), asked("Who is?")],
        count=6,
    )
    assert [q.text for q in questions] == ["What  is it?", "Who is?"]
    assert [q.ordinal for q in questions] == [0, 1]
    assert notes["dropped"] == {"blank": 2, "too_long": 1, "repeated": 1}


async def test_a_dropped_question_does_not_take_the_place_of_a_good_one() -> None:
    questions, _, _ = await questions_of(CHUNK, [asked(""), asked("Why?"), asked("why"), asked("How?")], count=2)
    assert [q.text for q in questions] == ["Why?", "How?"]


@pytest.mark.parametrize("text", ["", "   \n", "Contents", "3.1 .......... 17", "12 34 56 | 78 90 | " * 20])
async def test_a_chunk_without_text_to_ask_about_costs_no_call(text: str) -> None:
    questions, notes, model = await questions_of(Chunk(text=text))
    assert questions == []
    assert model.requests == []
    assert "letters" in notes["empty"]


async def test_a_short_chinese_chunk_is_asked_about() -> None:
    text = "给水泵的工作压力为四十巴，启动之前必须打开进口阀门，否则泵会损坏。"
    questions, _, _ = await questions_of(Chunk(text=text), [asked("启动之前必须打开什么？", "必须打开进口阀门")])
    start, end = questions[0].evidence_start, questions[0].evidence_end
    assert text[start:end] == "必须打开进口阀门"


@pytest.mark.parametrize(
    ("characters", "expected"), [(0, 1), (239, 1), (240, 1), (480, 2), (719, 2), (2400, 10), (1_000_000, 10)]
)
def test_the_number_of_questions_follows_the_length_within_bounds(characters: int, expected: int) -> None:
    assert how_many(characters) == expected


def test_an_explicit_number_of_questions_wins_over_the_bounds() -> None:
    assert how_many(10, count=25) == 25


@pytest.mark.parametrize("options", [{"count": -1}, {"characters_per_question": 0}, {"max_count": 0}])
async def test_numbers_out_of_range_fail_without_a_retry(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        await questions_of(CHUNK, **options)


async def test_the_prompt_holds_passage_count_and_language() -> None:
    _, _, model = await questions_of(CHUNK, [asked("Why?")], count=4, language="de")
    request = model.requests[0]
    sent = "\n".join(message.content for message in request.messages)
    assert request.prompt == "ask"
    assert TEXT in sent
    assert "4" in sent.replace(TEXT, "")
    assert "de" in request.fields["language"]


async def test_no_question_at_all_is_an_empty_outcome_with_a_note() -> None:
    questions, notes, _ = await questions_of(CHUNK, [])
    assert questions == []
    assert notes["empty"] == "the model asked nothing"


async def test_text_that_is_no_list_of_questions_never_becomes_questions() -> None:
    with pytest.raises(InvalidOutput):
        await questions_of(CHUNK, "1. What is it?\n2. Why is it?", "Sorry: what is it? why is it?")


async def test_questions_without_any_language_model_have_evidence_too() -> None:
    text = (
        "A feed pump is a pump that brings water into the boiler.\n\n"
        "The inlet valve of the boiler is opened by the operator before the feed pump is started in the morning.\n\n"
        "Every two years the safety valve is tested by an engineer of the Technical Inspection Agency in Hamburg."
    )
    produced = await run_operator(ask, [Chunk(text=text, start=70)], {}, {"count": 3}, context_of(ExtractiveModel()))
    questions = [entry.body for entry in produced]
    assert 1 <= len(questions) <= 3
    for question in questions:
        assert isinstance(question, Question)
        assert question.evidence_start is not None
        assert question.evidence_end is not None
        assert len(text[question.evidence_start - 70 : question.evidence_end - 70]) > 20
