"""The ladder from what a model wrote to a typed value, and the re-asks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from gristmill.errors import InvalidOutput, ModelRefused, TaskError, UsageError
from gristmill.llm.ladder import NoJson, parse_answer, without_reasoning
from gristmill.llm.ledger import Ledger
from gristmill.llm.ledgered import LedgeredModel
from gristmill.llm.model import Image, Message, Request, Text
from gristmill.llm.openai import OpenAIModel
from gristmill.llm.outcomes import OUTCOMES, outcome_of
from gristmill.llm.prompt import load_prompt
from gristmill.llm.structured import Asker
from gristmill.operators.protocol import request_from_json, request_to_json
from gristmill.testing import ScriptedModel
from tests.llm.conftest import ScriptedServer


class Fact(BaseModel):
    name: str
    year: int = Field(ge=0)


GOOD = '[{"name": "a", "year": 1}, {"name": "b", "year": 2}]'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f'{{"items": {GOOD}}}',
        f'{{"facts": {GOOD}}}',
        f"```json\n{GOOD}\n```",
        f"Sure! Here [as you asked] it is:\n{GOOD}\nHope {{that}} helps.",
        f'<think>Maybe [{{"name": "x", "year": 9}}]?</think>\n{GOOD}',
        f"hidden reasoning that lost its tag</think>{GOOD}",
        '[{"name": "a", "year": 1,}, {"name": "b", "year": 2},]',
        "[{'name': 'a', 'year': 1}, {'name': 'b', 'year': 2}]",
        '[{name: "a", year: 1}, {name: "b", year: 2}]',
        '[{"name": "a", "year": "1"}, {"name": "b", "year": 2.0}]',
    ],
)
async def test_an_answer_in_any_wrapping_is_read(text: str) -> None:
    model = ScriptedModel([text])
    facts = await Asker(model).generate("Facts, please.", list[Fact])
    assert facts == [Fact(name="a", year=1), Fact(name="b", year=2)]


@pytest.mark.parametrize(
    "text",
    [
        "", "I cannot help with that.", "- a question?\n- another question?", "42", '"text"', "null",
        GOOD[:-1], GOOD[:30], f"```json\n{GOOD[:40]}", f"Here: {GOOD[:45]}", f"<think>{GOOD}",
        '[{"name": "a"}]', '[{"name": "a", "year": -1}]', '{"items": 5}', '[{"name": "a", "year": NaN}]', "[" * 5000,
    ],
)  # fmt: skip
async def test_what_is_no_answer_never_becomes_data(text: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        await Asker(ScriptedModel([text, text])).generate("Facts, please.", list[Fact])
    assert caught.value.code == "M202"


@given(st.integers(min_value=1, max_value=len(GOOD) - 1))
def test_an_answer_cut_anywhere_is_never_read_as_a_shorter_one(place: int) -> None:
    for text in (GOOD[:place], f"Here you are: {GOOD[:place]}", f"```json\n{GOOD[:place]}"):
        with pytest.raises(NoJson):
            parse_answer(text)


@given(st.text(max_size=200))
def test_the_ladder_raises_nothing_but_its_own_error(text: str) -> None:
    with contextlib.suppress(NoJson):
        assert parse_answer(text)


async def test_a_useless_answer_is_asked_for_again_with_the_reason() -> None:
    model = ScriptedModel(['[{"name": "a", "year": "soon"}]', GOOD])
    notes: dict[str, Any] = {}
    facts = await Asker(model, notes=notes).generate("Facts, please.", list[Fact])
    assert len(facts) == 2
    first, second = model.requests
    assert (first.attempt, second.attempt) == (0, 1)
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1].content == '[{"name": "a", "year": "soon"}]'
    assert "0.year: Input should be a valid integer" in second.messages[2].content
    assert notes == {"calls": 2, "reasked": 1}


async def test_the_number_of_re_asks_is_the_caller_s_choice() -> None:
    for reasks in (0, 1, 3):
        model = ScriptedModel(["no"] * 10)
        with pytest.raises(InvalidOutput):
            await Asker(model, reasks=reasks).generate("Facts, please.", list[Fact])
        assert len(model.requests) == reasks + 1


async def test_a_repair_is_noted() -> None:
    notes: dict[str, Any] = {}
    await Asker(ScriptedModel(['{"name": "a", "year": 1,}']), notes=notes).generate("One.", Fact)
    assert notes == {"calls": 1, "repaired": 1}


async def test_one_object_and_plain_text_are_returned_as_they_are() -> None:
    asker = Asker(ScriptedModel(['{"name": "a", "year": 1}', "<think>hm</think>\n It is so. ", "a <think> is a tag"]))
    assert await asker.generate("One.", Fact) == Fact(name="a", year=1)
    assert await asker.generate("Why?", str) == "It is so."
    assert await asker.generate("What?") == "a <think> is a tag"


async def test_nul_and_surrogates_inside_of_json_are_replaced() -> None:
    asker = Asker(ScriptedModel(['{"name": "a\\u0000b\\ud800c \\ud83d\\ude00", "year": 1}']))
    assert (await asker.generate("One.", Fact)).name == "a\ufffdb\ufffdc 😀"


async def test_a_schema_that_is_none_is_an_error_of_the_caller() -> None:
    with pytest.raises(UsageError):
        await Asker(ScriptedModel(["x"])).generate("One.", dict)


async def test_a_rendered_prompt_brings_its_name_and_fields() -> None:
    model = ScriptedModel([[]])
    prompt = load_prompt("ask").render(passage="P {x}", count=3, language="en")
    assert await Asker(model, task=5, run=6).generate(prompt, list[Fact], sample=2) == []
    (request,) = model.requests
    assert (request.prompt, request.fields["passage"], request.sample) == ("ask", "P {x}", 2)
    assert (request.task, request.run) == (5, 6)
    assert request.schema is not None
    assert request.schema["properties"]["items"]["items"]


def test_reasoning_is_taken_out_and_an_unfinished_one_leaves_nothing() -> None:
    assert without_reasoning("<think>a</think> b <reasoning>c</reasoning>") == "b"
    assert without_reasoning("<think>never ends") == ""


@pytest.mark.parametrize("shape", ["plain", "prose", "fence", "think"])
async def test_the_whole_way_works_whatever_stands_around_the_json(
    shape: str, open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    class Asked(BaseModel):
        question: str
        quote: str

    await model_server.control(shape=shape)
    passage = "The queue keeps every task. A lease is a right. Nothing is lost."
    prompt = load_prompt("ask").render(passage=passage, count=3, language="en")
    asked = await Asker(open_model()).generate(prompt, list[Asked])
    assert len(asked) == 3
    assert all(one.quote in passage for one in asked)


async def test_a_cut_answer_is_bought_once_and_asked_for_again_under_another_key(
    open_model: Callable[..., OpenAIModel],
    open_ledger: Callable[..., Ledger],
    model_server: ScriptedServer,
    pool: Any,
) -> None:
    await model_server.control(faults=[{"kind": "cut", "first": 1}])
    notes: dict[str, Any] = {}
    asker = Asker(LedgeredModel(open_model(), open_ledger()), notes=notes)
    first = await asker.generate("Facts, please.", list[Fact])
    again = await asker.generate("Facts, please.", list[Fact])
    assert first == again
    assert len(first) == 2
    rows = await pool.fetch("SELECT encode(key, 'hex') AS key, state, note FROM call ORDER BY made_at")
    assert notes == {"calls": 2, "reasked": 2, "from_ledger": 2, "ledger_keys": [row["key"] for row in rows]}
    assert [row["state"] for row in rows] == ["unusable", "ok"]
    assert "stops before it is complete" in rows[0]["note"]
    assert (await model_server.stats())["requests"] == 2


async def test_a_second_try_of_a_task_gets_fresh_answers_and_pays_for_none_twice(
    open_model: Callable[..., OpenAIModel], open_ledger: Callable[..., Ledger], model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "cut", "first": 2}])
    asker = Asker(LedgeredModel(open_model(), open_ledger()))
    with pytest.raises(InvalidOutput):
        await asker.generate("Facts, please.", list[Fact])
    assert len(await asker.generate("Facts, please.", list[Fact])) == 2
    stats = await model_server.stats()
    assert (stats["requests"], stats["repeated"]) == (3, 0)


async def test_an_answer_cut_at_the_limit_of_tokens_is_its_own_failure(
    open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "length"}])
    with pytest.raises(InvalidOutput) as caught:
        await Asker(open_model()).generate("Facts, please.", list[Fact])
    assert caught.value.code == "M205"
    assert "max_tokens" in caught.value.hint
    assert (await model_server.stats())["requests"] == 1


async def test_every_outcome_that_is_no_answer_has_its_code_and_its_word(
    open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    for fault, code, outcome in (
        ({"kind": "prose"}, "M202", "invalid_output"), ({"kind": "wrong"}, "M202", "invalid_output"),
        ({"kind": "cut"}, "M202", "invalid_output"), ({"kind": "html"}, "M202", "invalid_output"),
        ({"kind": "refusal"}, "M209", "refused"), ({"kind": "filter"}, "M210", "rejected"),
        ({"kind": "length"}, "M205", "too_long"),
        ({"kind": "error", "status": 400, "message": "maximum context length"}, "M211", "too_long"),
        ({"kind": "error", "status": 400, "code": "content_filter"}, "M210", "rejected"),
        ({"kind": "error", "status": 401}, "M207", "failed"), ({"kind": "error", "status": 500}, "M303", "failed"),
    ):  # fmt: skip
        await model_server.control(faults=[fault])
        with pytest.raises(TaskError) as caught:
            await Asker(open_model()).generate("Facts, please.", list[Fact])
        assert (caught.value.code, outcome_of(caught.value)) == (code, outcome), fault
        assert outcome in OUTCOMES
        if fault["kind"] == "prose":
            assert isinstance(caught.value, InvalidOutput)
            assert caught.value.raw == "I would rather talk about the weather."


async def test_something_else_stands_in_only_where_that_was_asked_for_and_the_reason_is_noted(
    open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    for fault, why in (
        ({"kind": "refusal"}, "refused: "),
        ({"kind": "length"}, "too_long: "),
        ({"kind": "prose"}, "inv"),
    ):
        await model_server.control(faults=[fault])
        notes: dict[str, Any] = {}
        assert await Asker(open_model(), notes=notes).generate("Facts, please.", list[Fact], otherwise=[]) == []
        assert notes["degraded"].startswith(why)
    await model_server.control(faults=[{"kind": "error", "status": 401}])
    with pytest.raises(ModelRefused):  # a wrong key is no answer of the model
        await Asker(open_model()).generate("Facts, please.", list[Fact], otherwise=[])


async def test_a_useless_value_with_a_refusal_before_it_is_useless_and_not_refused(
    open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    await model_server.control(faults=[{"kind": "refusal", "first": 1}, {"kind": "prose"}])
    with pytest.raises(InvalidOutput) as caught:
        await Asker(open_model()).generate("Facts, please.", list[Fact])
    assert caught.value.code == "M202"


async def test_pictures_and_conversations_are_asked_and_reasoning_is_given_back(
    open_model: Callable[..., OpenAIModel], model_server: ScriptedServer
) -> None:
    await model_server.control(reasoning="I look at it.")
    picture = Image(b"GIF89a", "image/gif")
    text, answer = await Asker(open_model()).answer([Text("What is this?"), picture])
    assert text == "You said: What is this?\n[image/gif, 6 bytes]"
    assert answer.reasoning == "I look at it."
    turns = [Message("user", "One."), Message("assistant", "Yes?"), Message("user", "Two.")]
    assert await Asker(open_model()).generate(turns) == "You said: One.\nTwo."
    bad: Any
    for bad in ([], [Text("x"), turns[0]], [3], (picture, "x")):
        with pytest.raises(UsageError):
            await Asker(open_model()).generate(bad)


def test_a_request_with_a_picture_goes_to_the_worker_and_back() -> None:
    request = Request((Message("user", (Text("x"), Image(b"\x00\xff", "image/png"))),), sample=2)
    assert request_from_json(json.loads(json.dumps(request_to_json(request)))) == request
