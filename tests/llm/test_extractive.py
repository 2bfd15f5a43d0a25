"""The keyless model: everything it says is in the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import ModelRefused
from gristmill.llm.extractive import ExtractiveModel, answer, ask
from gristmill.llm.model import Message, Request
from gristmill.llm.prompt import load_prompt
from gristmill.llm.sentences import find_sentences

HANDBOOK = """\
# Leases are headings and not sentences

A lease is the right to finish a task: a token, and an expiry on the worker. Heartbeats are the small updates
by which a worker says that it lives. PostgreSQL is a relational database that was first released in 1996.
The worker renews its lease every 3 seconds, e.g. when it is idle. It is the case that this sentence defines nothing.
The server was built at the University of California, and `clock_timestamp()` gives its time.

| A table | is a thing with columns that nobody asks about. |
|---|---|

```python
A = "A code block is a thing that nobody should ask about here."
```

- Photosynthesis is the process by which plants convert light into chemical energy.

Copyright 2024. All rights reserved by the owners of this document, as is usual.
"""
CHINESE = (
    "机器学习是一种人工智能的方法，它让计算机从数据中学习规律。研究人员使用“神经网络”来识别图像中的物体，效果非常好。"
)
TURKISH = (
    "Fotosentez, bitkilerin güneş ışığını kimyasal enerjiye dönüştürdüğü süreçtir. "
    "Ankara 1923 yılında başkent ilan edildi."
)


def test_it_asks_for_definitions_and_blanks_out_telling_terms() -> None:
    questions = [one["question"] for one in ask(HANDBOOK, 20)]
    assert questions == [
        "What is a lease?",
        "What are heartbeats?",
        "What is PostgreSQL?",
        'Fill in the blank: "The worker renews its lease every _____, e.g. when it is idle."',
        'Fill in the blank: "The server was built at the University of California, and `_____` gives its time."',
        "What is photosynthesis?",
    ]


def test_definitions_come_first_when_only_a_few_are_wanted() -> None:
    questions = [one["question"] for one in ask(HANDBOOK, 3)]
    assert all(question.startswith("What ") for question in questions)
    assert ask(HANDBOOK, 0) == []


def test_an_answer_is_found_again_from_question_and_passage_alone() -> None:
    assert answer("What are heartbeats?", HANDBOOK) == {
        "answer": "Heartbeats are the small updates\nby which a worker says that it lives.",
        "quote": "Heartbeats are the small updates\nby which a worker says that it lives.",
    }
    gap = next(one["question"] for one in ask(HANDBOOK, 20) if "every _____" in one["question"])
    assert answer(gap, HANDBOOK)["answer"] == "3 seconds"


@pytest.mark.parametrize(("text", "language"), [(HANDBOOK, "en"), (CHINESE, "zh-CN"), (TURKISH, "tr")])
def test_every_question_has_an_answer_and_a_quote_from_the_text(text: str, language: str) -> None:
    asked = ask(text, 20, language)
    assert len(asked) >= 2
    for one in asked:
        found = answer(one["question"], text)
        assert found["answer"]
        assert found["answer"] in text
        assert found["quote"] == one["quote"]
        assert one["quote"] in text


@pytest.mark.parametrize(
    "text",
    ["", "# Title\n\nHome | About | Contact\n", "1 2 3 4 5", "Yes. No. Maybe so.", "```\nA is a b.\n```", "\x00"],
)
def test_where_there_is_nothing_to_ask_it_asks_nothing(text: str) -> None:
    assert ask(text, 5) == []


def test_a_question_that_the_text_does_not_answer_gets_an_empty_answer() -> None:
    assert answer("What is the capital of Mars?", HANDBOOK) == {"answer": "", "quote": ""}
    assert answer('Fill in the blank: "Nothing like _____ is here."', HANDBOOK) == {"answer": "", "quote": ""}


def test_a_free_question_gets_the_nearest_sentence() -> None:
    assert "1996" in answer("When was the relational database PostgreSQL released?", HANDBOOK)["answer"]


@given(st.text(alphabet="Aa is an the. \n`|#\"'(“”_3。？是一种", max_size=400), st.integers(0, 5))
def test_no_text_breaks_it_and_all_it_says_is_in_the_text(text: str, count: int) -> None:
    asked = ask(text, count)
    assert len(asked) <= count
    assert asked == ask(text, count)
    for one in asked:
        assert one["quote"] in text
        assert answer(one["question"], text)["answer"]


def test_sentences_stand_where_they_say() -> None:
    for sentence in find_sentences(HANDBOOK + CHINESE):
        assert (HANDBOOK + CHINESE)[sentence.start : sentence.end] == sentence.text


async def test_as_a_model_it_answers_the_two_prompts_and_refuses_the_rest() -> None:
    model = ExtractiveModel()
    assert not model.binding.paid

    def request(name: str, **fields: Any) -> Request:
        prompt = load_prompt(name).render(**fields)
        return Request(prompt.messages, prompt=prompt.name, fields=prompt.fields)

    asked = json.loads((await model.complete(request("ask", passage=HANDBOOK, count=2, language="en"))).text)
    assert len(asked) == 2
    given_back = await model.complete(request("answer", question=asked[0]["question"], passage=HANDBOOK))
    assert json.loads(given_back.text)["quote"] == asked[0]["quote"]
    with pytest.raises(ModelRefused, match="free text"):
        await model.complete(Request((Message("user", "Tell me a joke."),)))
    await model.close()
