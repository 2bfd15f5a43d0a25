from __future__ import annotations

import pytest

from gristmill.data.kinds import Chunk, Conversation, Example, Rejection, Turn
from gristmill.errors import WorkflowError
from gristmill.operators import anonymize, filter_examples
from gristmill.operators.anonymize import Placeholders, passes_luhn
from gristmill.testing import perform

GOOD = Example(question="What runs at 40 bar?", answer="The feed pump runs at 40 bar and must never run dry.")


async def broken(example: Example | Conversation, **options: object) -> list[str]:
    marks = await perform(filter_examples.using(**options), example)
    assert all(isinstance(mark, Rejection) and mark.reason for mark in marks)
    return [mark.rule for mark in marks if isinstance(mark, Rejection)]


async def test_each_rule_marks_what_breaks_it_and_a_good_example_has_no_mark() -> None:
    assert await broken(GOOD) == []
    assert await broken(Example(question="Why?", answer="So")) == ["min_characters"]
    assert await broken(GOOD, max_characters=30) == ["max_characters"]
    assert await broken(Example(question="What?!?!", answer="#### $$$$ %%%% ||||")) == ["max_special"]
    repeated = Example(question="What is it?", answer="the pump is a pump and " * 20)
    assert await broken(repeated) == ["max_repeated_characters", "max_repeated_words"]
    assert await broken(GOOD, must_match="valve") == ["must_match"]
    assert await broken(GOOD, must_not_match="(?i)FEED pump") == ["must_not_match"]
    assert await broken(GOOD, must_match="feed", must_not_match="valve") == []


async def test_json_answers_may_be_full_of_signs() -> None:
    answer = '{"a":[{"b":"c"}],"d":{"e":[{}]}}'
    assert await broken(Example(question="Q?", answer=answer)) == ["max_special"]
    assert await broken(Example(question="Q?", answer=answer, answer_type="json")) == []


async def test_another_language_is_marked_and_a_text_too_short_to_tell_is_not() -> None:
    assert await broken(GOOD, language="en") == []
    assert await broken(GOOD, language="zh-CN") == ["language"]
    assert await broken(Example(question="Hm?", answer="Oh: 1234567"), language="tr") == []


async def test_all_turns_of_a_conversation_are_looked_at() -> None:
    turns = (Turn(role="user", content="What runs at 40 bar?"), Turn(role="assistant", content="The feed pump does."))
    talk = Conversation(turns=turns, rounds=1)
    assert await broken(talk) == []
    assert await broken(talk, must_not_match="feed pump") == ["must_not_match"]


@pytest.mark.parametrize("pattern", ["(", "[a", "a*"])
def test_a_regular_expression_of_no_use_is_refused_before_the_run(pattern: str) -> None:
    with pytest.raises(WorkflowError, match="regular expression"):
        filter_examples.using(must_not_match=pattern)
    with pytest.raises(WorkflowError, match="regular expression"):
        anonymize.using(patterns={"mine": pattern})


@pytest.mark.parametrize(
    ("text", "put"),
    [
        ("Write to ann.lee+x@mail.example.org.", "Write to [EMAIL_1]."),
        ("See (https://x.y/z?q=1), or www.x.y!", "See ([URL_1]), or [URL_2]!"),
        ("Pay with 4111 1111 1111 1111 or 5500-0000-0000-0004.", "Pay with [CARD_1] or [CARD_2]."),
        ("To DE89 3704 0044 0532 0130 00, please", "To [IBAN_1], please"),
        ("At 10.0.0.1 and fe80::1:2 it listens", "At [IP_1] and [IP_2] it listens"),
        ("Call +49 30 1234567, (030) 123 4567 or 555-123-4567", "Call [PHONE_1], [PHONE_2] or [PHONE_3]"),
        ("我的邮箱是ann@x.org，电话13812345678。", "我的邮箱是[EMAIL_1]，电话[PHONE_1]。"),
    ],
)  # fmt: skip
def test_what_names_somebody_gets_a_placeholder(text: str, put: str) -> None:
    assert Placeholders().put(text) == put


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "DE89 3704 0044 0532 0130 02", "300.1.2.3", "v1.2.3", "1.2.3.4.5", "10:30:00",
        "std::vector",
        "2024-01-15", "1,000,000", "3.14159265", "12345678", "a @ b", "page 100-120", "1990 - 2024",
        "@decorator", "x = 0.25",
    ],
)  # fmt: skip
def test_numbers_dates_and_versions_are_nobody(text: str) -> None:
    assert Placeholders().put(text) == text


async def test_placeholders_are_stable_within_a_record_and_every_field_is_looked_at() -> None:
    old = Example(
        question="Who is ann@x.org?", answer="Ann, ANN@x.org, not bob@x.org.", reasoning="ann@x.org wrote S-12345",
        system="Ask bob@x.org", quote="S-12345: ann@x.org", evidence_start=3, evidence_end=9,
    )  # fmt: skip
    [new] = await perform(anonymize.using(patterns={"staff": "S-[0-9]{5}"}), old)
    assert new == Example(
        question="Who is [EMAIL_2]?", answer="Ann, [EMAIL_2], not [EMAIL_1].", reasoning="[EMAIL_2] wrote [STAFF_1]",
        system="Ask [EMAIL_1]", quote="[STAFF_1]: [EMAIL_2]", evidence_start=3, evidence_end=9,
    )  # fmt: skip
    assert await perform(anonymize.using(patterns={"staff": "S-[0-9]{5}"}), new) == [new]
    [few] = await perform(anonymize.using(kinds=["ip"]), old)
    assert few == old


async def test_chunks_and_conversations_are_anonymized_too() -> None:
    [chunk] = await perform(anonymize, Chunk(text="ann@x.org", heading_path=("Of ann@x.org",), start=5, end=14))
    assert chunk == Chunk(text="[EMAIL_1]", heading_path=("Of [EMAIL_1]",), start=5, end=14)
    turns = (Turn(role="user", content="I am ann@x.org"), Turn(role="assistant", content="Hi", reasoning="ann@x.org?"))
    [talk] = await perform(anonymize, Conversation(turns=turns, rounds=1))
    assert isinstance(talk, Conversation)
    assert [(turn.content, turn.reasoning) for turn in talk.turns] == [("I am [EMAIL_1]", None), ("Hi", "[EMAIL_1]?")]


def test_luhns_check_finds_every_single_wrong_digit() -> None:
    good = "4111111111111111"
    assert passes_luhn(good)
    for place in range(len(good)):
        for digit in "0123456789".replace(good[place], ""):
            assert not passes_luhn(good[:place] + digit + good[place + 1 :])
