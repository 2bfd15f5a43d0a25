"""Reasoning made or smoothed afterwards, and grounding asked for: steps of their own that never cost the answer."""

from __future__ import annotations

import pytest

from gristmill.data.kinds import Chunk, Example
from gristmill.errors import ModelUnavailable
from gristmill.operators import check_grounding, polish_reasoning, synthesize_reasoning
from gristmill.operators.operator import Operator
from gristmill.testing import ScriptedModel, perform

EXAMPLE = Example(question="How hot?", answer="90 degrees.", quote="It runs at 90 degrees.", grounded=True)
THOUGHT = EXAMPLE.model_copy(update={"reasoning": "Hm. 90.", "reasoning_origin": "native"})
CHUNK = Chunk(text="It runs at 90 degrees.")


async def test_missing_reasoning_is_synthesized_and_says_so() -> None:
    model = ScriptedModel(["<think>They want thoughts.</think>The passage says 90."])
    (made,) = await perform(synthesize_reasoning, EXAMPLE, model=model)
    expected = {"reasoning": "The passage says 90.", "reasoning_origin": "synthesized"}
    assert made == EXAMPLE.model_copy(update=expected)
    assert EXAMPLE.quote is not None
    assert EXAMPLE.quote in model.requests[0].messages[-1].text


async def test_reasoning_that_is_there_is_not_paid_for_again() -> None:
    assert await perform(synthesize_reasoning, THOUGHT, model=ScriptedModel([])) == [THOUGHT]
    assert await perform(polish_reasoning, EXAMPLE, model=ScriptedModel([])) == [EXAMPLE]
    assert await perform(check_grounding, EXAMPLE, CHUNK, model=ScriptedModel([])) == [EXAMPLE]


async def test_polishing_changes_the_reasoning_and_nothing_else() -> None:
    (made,) = await perform(polish_reasoning, THOUGHT, model=ScriptedModel(["It is 90."]))
    assert made == THOUGHT.model_copy(update={"reasoning": "It is 90."})


@pytest.mark.parametrize(
    ("step", "example"),
    [(synthesize_reasoning, EXAMPLE), (polish_reasoning, THOUGHT), (check_grounding, THOUGHT)],
)
async def test_an_answer_survives_a_side_call_that_gives_nothing_of_use(step: Operator, example: Example) -> None:
    inputs = (example, CHUNK) if step is check_grounding else (example,)
    options = {"again": True} if step is check_grounding else {}
    made = await perform(step, *inputs, model=ScriptedModel(["", ""]), options=options)
    assert made == [example]
    with pytest.raises(ModelUnavailable):  # that may pass: the step is tried again
        await perform(step, *inputs, model=ScriptedModel([ModelUnavailable("away")]), options=options)


async def test_the_model_judges_what_no_quote_supports() -> None:
    doubted = EXAMPLE.model_copy(update={"grounded": False, "quote": None})
    for supported in (True, False):
        model = ScriptedModel([{"supported": supported, "unsupported": None if supported else "90 degrees"}])
        (made,) = await perform(check_grounding, doubted, CHUNK, model=model)
        assert isinstance(made, Example)
        assert made.grounded is supported
