"""Conversations: who says what, what stands before the model, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from gristmill.data.kinds import Chunk, Conversation, Question, Turn
from gristmill.errors import InputError, InvalidOutput, ModelRefused, ModelUnavailable, WorkflowError
from gristmill.llm.model import Answer
from gristmill.llm.structured import Asker
from gristmill.operators import conversation
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs, ScriptedModel, perform

CHUNK = Chunk(text="A mill has two stones. The lower one lies still.")
QUESTION = Question(text="How many stones has a mill?", label=("mills",))


async def talk(*answers: Any, **options: Any) -> tuple[Conversation, dict[str, Any], ScriptedModel]:
    model = ScriptedModel(answers)
    notes: dict[str, Any] = {}
    ctx = Context(blobs=MemoryBlobs(), model=Asker(model, notes=notes), notes=notes)
    (made,) = await run_operator(conversation, [QUESTION], {"chunk": [CHUNK]}, options, ctx)
    assert isinstance(made.body, Conversation)
    return made.body, ctx.notes, model


def said(made: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in made.turns]


WHOLE = ("Two.", {"message": "Which one moves?"}, "The upper.", {"message": "And the lower?"}, "It lies still.")


async def test_every_turn_is_a_call_that_sees_the_passage_and_all_that_was_said() -> None:
    made, notes, model = await talk(*WHOLE)
    assert said(made) == [
        ("user", "How many stones has a mill?"), ("assistant", "Two."), ("user", "Which one moves?"),
        ("assistant", "The upper."), ("user", "And the lower?"), ("assistant", "It lies still."),
    ]  # fmt: skip
    assert (made.rounds, made.label, made.model) == (3, ("mills",), "scripted")
    assert notes == {"calls": 5}
    assert [request.prompt for request in model.requests] == [
        "conversation_reply", "conversation_ask", "conversation_reply", "conversation_ask", "conversation_reply",
    ]  # fmt: skip
    for request in model.requests:
        assert CHUNK.text in "".join(message.text for message in request.messages)
    assert [message.role for message in model.requests[4].messages] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip


async def test_the_scenario_the_roles_and_the_system_prompt_reach_the_model() -> None:
    made, _, model = await talk(
        "Two.", rounds=1, scenario="a tour of a mill", role_a="a child", role_b="the miller", system_prompt="Be brief."
    )
    assert made.turns[0] == Turn(role="system", content="Be brief.")
    assert made.scenario == "a tour of a mill"
    for words in ("a tour of a mill", "a child", "the miller", "Be brief."):
        assert words in model.requests[0].messages[0].text


async def test_reasoning_stays_with_its_turn_or_is_dropped() -> None:
    thinking = Answer("<think>Count.</think>Two.", "m")
    made, _, _ = await talk(thinking, rounds=1)
    assert (made.turns[-1].content, made.turns[-1].reasoning) == ("Two.", "Count.")
    made, _, _ = await talk(thinking, rounds=1, reasoning="drop")
    assert made.turns[-1].reasoning is None
    made, _, _ = await talk(Answer("Let me count.\n</think>\n\nTwo.", "m"), rounds=1)
    assert (made.turns[-1].content, made.turns[-1].reasoning) == ("Two.", "Let me count.")


@pytest.mark.parametrize("message", [None, " ", "how many stones has a MILL"])
async def test_a_talk_ends_when_nothing_new_is_asked(message: str | None) -> None:
    made, notes, _ = await talk("Two.", {"message": message})
    assert said(made) == [("user", QUESTION.text), ("assistant", "Two.")]
    assert (made.rounds, notes["rounds"]) == (3, 1)
    assert "degraded" not in notes


@pytest.mark.parametrize("broken", [("No JSON.", "Still none."), ({"message": "Which one moves?"}, "", "")])
async def test_what_was_said_survives_a_turn_that_cannot_be_had(broken: tuple[Any, ...]) -> None:
    made, notes, _ = await talk("Two.", *broken)
    assert said(made) == [("user", QUESTION.text), ("assistant", "Two.")]
    assert notes["degraded"].startswith("invalid_output: ")


async def test_nothing_is_made_of_no_answer_and_what_may_pass_is_tried_again() -> None:
    with pytest.raises(InvalidOutput):
        await talk("", "")
    with pytest.raises(ModelUnavailable):
        await talk("Two.", ModelUnavailable("away"))
    with pytest.raises(ModelRefused):
        await talk("Two.", ModelRefused("a wrong key"))


async def test_one_call_may_write_the_whole_and_never_more_than_was_asked_for() -> None:
    further = [{"question": f"Question {n}?", "answer": f"Answer {n}."} for n in range(5)]
    made, notes, model = await talk({"answer": "Two.", "further": further}, mode="single_call")
    assert said(made)[:4] == [
        ("user", QUESTION.text), ("assistant", "Two."), ("user", "Question 0?"), ("assistant", "Answer 0."),
    ]  # fmt: skip
    assert len(made.turns) == 6
    assert notes == {"calls": 1}
    assert CHUNK.text in model.requests[0].messages[-1].text
    made, notes, _ = await talk(
        {"answer": "Two.", "further": [{"question": QUESTION.text, "answer": "Two."}]}, mode="single_call"
    )
    assert (len(made.turns), notes["rounds"]) == (2, 1)


async def test_a_talk_needs_no_chunk_but_words_instead_of_a_picture() -> None:
    (made,) = await perform(conversation.using(rounds=1), QUESTION, model=ScriptedModel(["Two."]))
    assert isinstance(made, Conversation)
    with pytest.raises(InputError, match="about a picture"):
        await perform(conversation, QUESTION.model_copy(update={"image": "0" * 64}), model=ScriptedModel([]))


@pytest.mark.parametrize("options", [{"rounds": 0}, {"rounds": 21}, {"mode": "both"}])
def test_options_out_of_range_are_refused_before_anything_runs(options: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError):
        conversation.using(**options)
