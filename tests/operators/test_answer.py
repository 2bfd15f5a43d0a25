from __future__ import annotations

from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Example, Question
from gristmill.errors import InvalidOutput
from gristmill.llm.structured import Asker
from gristmill.operators.answer import answer
from gristmill.operators.operator import Context, run_operator
from gristmill.testing import MemoryBlobs, ScriptedModel

TEXT = "The feed pump runs at 40 bar.\nBefore it is “started”, the inlet valve must be open."
CHUNK = Chunk(text=TEXT, start=500, end=500 + len(TEXT))
QUESTION = Question(text="What must be open before the feed pump is started?", ordinal=3)


async def example_of(*answers: Any) -> tuple[Example | None, dict[str, Any], ScriptedModel]:
    model = ScriptedModel(answers)
    ctx = Context(blobs=MemoryBlobs(), model=Asker(model))
    produced = await run_operator(answer, [QUESTION], {"chunk": CHUNK}, {}, ctx)
    bodies = [entry.body for entry in produced]
    assert len(bodies) <= 1
    return (bodies[0] if bodies else None), ctx.notes, model  # type: ignore[return-value]


async def test_an_answer_carries_the_words_of_the_document_and_their_place() -> None:
    example, _, _ = await example_of(
        {"answer": "The inlet valve must be open.", "quote": 'before it is "started", the  inlet valve must be open'}
    )
    assert example is not None
    assert example.question == QUESTION.text
    assert example.answer == "The inlet valve must be open."
    assert example.quote == "Before it is “started”, the inlet valve must be open"
    assert example.evidence_start is not None
    assert example.evidence_end is not None
    assert TEXT[example.evidence_start - 500 : example.evidence_end - 500] == example.quote
    assert example.model == "scripted"


@pytest.mark.parametrize("text", [None, "", "  \n"])
async def test_a_passage_without_the_answer_gives_nothing_and_says_so(text: str | None) -> None:
    example, notes, _ = await example_of({"answer": text, "quote": None})
    assert example is None
    assert notes["empty"] == "the passage does not contain the answer"


async def test_an_answer_that_was_left_out_is_malformed_and_not_empty() -> None:
    with pytest.raises(InvalidOutput):
        await example_of({"content": "The inlet valve."}, {})


@pytest.mark.parametrize(
    ("quote", "note"),
    [
        ("The valve is made of brass and bolted on.", "not found in the passage"),
        (None, "none given"),
        ("", "none given"),
    ],
)
async def test_an_answer_whose_quote_is_not_found_is_kept_without_evidence(quote: str | None, note: str) -> None:
    example, notes, _ = await example_of({"answer": "The inlet valve.", "quote": quote})
    assert example is not None
    assert (example.quote, example.evidence_start, example.evidence_end) == (None, None, None)
    assert notes["quote"] == note


async def test_the_prompt_holds_question_and_passage() -> None:
    _, _, model = await example_of({"answer": "The inlet valve.", "quote": None})
    sent = "\n".join(message.content for message in model.requests[0].messages)
    assert model.requests[0].prompt == "answer"
    assert QUESTION.text in sent
    assert TEXT in sent
