from __future__ import annotations

import json
from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Example, Question
from gristmill.errors import InputError, InvalidOutput
from gristmill.llm.model import Answer
from gristmill.llm.structured import Asker
from gristmill.operators.answer import answer
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs, ScriptedModel, perform

TEXT = "The feed pump runs at 40 bar.\nBefore it is “started”, the inlet valve must be open."
CHUNK = Chunk(text=TEXT, start=500, end=500 + len(TEXT))
QUESTION = Question(text="What must be open before the feed pump is started?", ordinal=3)


async def example_of(*answers: Any) -> tuple[Example | None, dict[str, Any], ScriptedModel]:
    model = ScriptedModel(answers)
    ctx = Context(blobs=MemoryBlobs(), model=Asker(model))
    produced = await run_operator(answer, [QUESTION], {"chunk": [CHUNK]}, {}, ctx)
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
    sent = "\n".join(message.text for message in model.requests[0].messages)
    assert model.requests[0].prompt == "answer"
    assert QUESTION.text in sent
    assert TEXT in sent


LABELLED = Question(text="What is the pump driven by?", answer_type="label", labels=("a motor", "Steam", "nobody says"))
SHAPED = Question(
    text="Which pressure?", answer_type="json",
    json_schema='{"type": "object", "properties": {"bar": {"$ref": "#/$defs/bar"}}, "required": ["bar"],'
    ' "$defs": {"bar": {"type": "integer", "minimum": 0}}}',
)  # fmt: skip


async def test_a_label_answer_is_one_of_the_labels_or_it_is_asked_for_again() -> None:
    model = ScriptedModel([{"answer": "by hand", "quote": None}, {"answer": " steam", "quote": None}])
    (example,) = await perform(answer, LABELLED, CHUNK, model=model)
    assert isinstance(example, Example)
    assert (example.answer, example.answer_type) == ("Steam", "label")
    assert "- nobody says" in model.requests[0].messages[-1].text
    assert model.requests[1].attempt == 1
    with pytest.raises(InvalidOutput):
        await perform(answer, LABELLED, CHUNK, model=ScriptedModel([{"answer": "wind"}, {"answer": "water"}]))


async def test_labels_that_differ_in_case_only_are_told_apart() -> None:
    question = LABELLED.model_copy(update={"labels": ("C", "c")})
    for said in ("C", "c"):
        (example,) = await perform(answer, question, CHUNK, model=ScriptedModel([{"answer": said}]))
        assert isinstance(example, Example)
        assert example.answer == said


async def test_a_json_answer_follows_the_schema_of_its_question() -> None:
    model = ScriptedModel([{"answer": {"bar": -1}}, {"answer": {"bar": 40}, "quote": "runs at 40 bar"}])
    (example,) = await perform(answer, SHAPED, CHUNK, model=model)
    assert isinstance(example, Example)
    assert (json.loads(example.answer), example.answer_type, example.grounded) == ({"bar": 40}, "json", True)
    assert "$.bar: -1 is less than the minimum of 0" in model.requests[1].messages[-1].text
    schema = model.requests[0].schema
    assert schema is not None
    assert schema["$defs"] == {"bar": {"type": "integer", "minimum": 0}}
    assert schema["properties"]["answer"]["anyOf"][0]["properties"] == {"bar": {"$ref": "#/$defs/bar"}}


@pytest.mark.parametrize("value", [0, False, "", [], {}, "0"])
async def test_an_empty_value_is_an_answer_where_the_schema_allows_it(value: Any) -> None:
    question = SHAPED.model_copy(update={"json_schema": "{}"})
    (example,) = await perform(answer, question, CHUNK, model=ScriptedModel([{"answer": value}]))
    assert isinstance(example, Example)
    assert json.loads(example.answer) == value


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (LABELLED.model_copy(update={"labels": ()}), "T220"),
        (LABELLED.model_copy(update={"labels": ("a", " ")}), "T220"),
        (SHAPED.model_copy(update={"json_schema": None}), "T221"),
        (SHAPED.model_copy(update={"json_schema": "{"}), "T221"),
        (SHAPED.model_copy(update={"json_schema": "[]"}), "T221"),
        (SHAPED.model_copy(update={"json_schema": '{"type": "number of bars"}'}), "T221"),
        (SHAPED.model_copy(update={"json_schema": '{"$ref": "#/$defs/gone"}'}), "T221"),
        (SHAPED.model_copy(update={"json_schema": '{"$ref": "http://127.0.0.1:9/schema.json"}'}), "T221"),
        (SHAPED.model_copy(update={"json_schema": '{"properties": {"a": {"$ref": "#"}}}'}), "T221"),
        (SHAPED.model_copy(update={"json_schema": '{"a":' * 5000 + "1" + "}" * 5000}), "T221"),
    ],
)
async def test_a_question_whose_form_cannot_be_used_is_an_error_before_anything_is_paid(
    question: Question, code: str
) -> None:
    model = ScriptedModel([])
    with pytest.raises(InputError) as caught:
        await perform(answer, question, CHUNK, model=model)
    assert caught.value.code == code
    assert not model.requests


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (Answer('{"answer": "Steam."}', "m", reasoning=" It boils. "), ("It boils.", "native")),
        (Answer('<think>It {boils}.</think>\n{"answer": "Steam."}', "m"), ("It {boils}.", "inline")),
        (Answer('<THINKING>One.</THINKING><think>Two.</think>{"answer": "x"}', "m"), ("One.\n\nTwo.", "inline")),
        (Answer('It boils.\n</think>\n{"answer": "Steam."}', "m"), ("It boils.", "inline")),
        (Answer('<think>inline</think>{"answer": "x"}', "m", reasoning="native"), ("native", "native")),
        (Answer('{"answer": "Write <think>x</think> first."}', "m"), (None, None)),
        (Answer('<think> </think>{"answer": "Steam."}', "m"), (None, None)),
    ],
)
async def test_reasoning_is_kept_with_its_origin_or_dropped(said: Answer, kept: tuple[str | None, str | None]) -> None:
    (example,) = await perform(answer, QUESTION, CHUNK, model=ScriptedModel([said]))
    assert isinstance(example, Example)
    assert (example.reasoning, example.reasoning_origin) == kept
    assert example.answer in ("Steam.", "x", "Write <think>x</think> first.")
    (example,) = await perform(answer.using(reasoning="drop"), QUESTION, CHUNK, model=ScriptedModel([said]))
    assert isinstance(example, Example)
    assert (example.reasoning, example.reasoning_origin) == (None, None)


async def test_an_example_says_whether_the_passage_supports_it_unless_nobody_looked() -> None:
    found, missing = {"answer": "40 bar.", "quote": "runs at 40 bar"}, {"answer": "9 bar.", "quote": "runs at 9 bar"}
    for said, grounded in ((found, True), (missing, False)):
        (example,) = await perform(answer, QUESTION, CHUNK, model=ScriptedModel([said]))
        assert isinstance(example, Example)
        assert example.grounded is grounded
        (example,) = await perform(answer.using(grounded=False), QUESTION, CHUNK, model=ScriptedModel([said]))
        assert isinstance(example, Example)
        assert example.grounded is None


async def test_a_question_without_a_chunk_is_answered_from_what_the_model_knows() -> None:
    model = ScriptedModel([{"answer": "Steam."}])
    (example,) = await perform(answer, QUESTION, model=model)
    assert isinstance(example, Example)
    assert (example.answer, example.grounded, example.quote) == ("Steam.", None, None)
    assert model.requests[0].prompt == "answer_open"
    with pytest.raises(InputError, match="about a picture"):
        await perform(answer, QUESTION.model_copy(update={"image": "0" * 64}), model=ScriptedModel([]))
