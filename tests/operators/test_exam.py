"""Test items, the one who takes the test, and the judge."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data import kinds
from gristmill.data.kinds import Chunk, Document, Example, Judgement
from gristmill.errors import InvalidOutput, WorkflowError
from gristmill.operators import judge, take_test
from gristmill.operators import test_items as make_items
from gristmill.operators.judge import by_rule
from gristmill.operators.test_items import EVEN, TYPES, share_out
from gristmill.testing import ScriptedModel, perform

CHUNK = Chunk(text="The feed pump runs at 40 bar. It is made of steel and of brass. It must never run dry. " * 10)
DOCUMENT = Document(text_blob="0" * 64, characters=900, media_type="text/plain")
OPTIONS = ["10 bar", "40 bar", "60 bar", "90 bar"]
ITEMS: dict[str, dict[str, Any]] = {
    "true_false": {"question": "It may run dry.", "correct": ["False"]},
    "single_choice": {"question": "At what pressure?", "options": OPTIONS, "correct": ["b."],
    "explanation": "So it says."},
    "multiple_choice": {"question": "Made of what?", "options": ["A. steel", "B) brass", "C. tin", "D. lead"],
    "correct": ["A", "B"]},
    "short_answer": {"question": "How many bar?", "correct": ["40", "forty"]},
    "open": {"question": "What must never happen?", "correct": ["It must never run dry."]},
}  # fmt: skip
ANSWERS = [{"type": name, **item} for name, item in ITEMS.items()]


async def items_of(*answers: Any, **options: Any) -> list[kinds.TestItem]:
    model = ScriptedModel(answers)
    made = await perform(make_items.using(**options), CHUNK, DOCUMENT, model=model)
    return [one for one in made if isinstance(one, kinds.TestItem)]


async def test_each_of_the_five_types_is_made_and_checked() -> None:
    made = await items_of(ANSWERS, count=5)
    assert [one.type for one in made] == list(TYPES)
    assert [one.correct for one in made if not one.options] == [
        ("false",), ("40", "forty"), ("It must never run dry.",),
    ]  # fmt: skip
    single, many = made[1], made[2]
    assert sorted(single.options) == OPTIONS
    assert [single.options["ABCD".index(letter)] for letter in single.correct] == ["40 bar"]
    assert {many.options["ABCD".index(letter)] for letter in many.correct} == {"steel", "brass"}


async def test_options_are_mixed_by_the_seed_and_the_right_ones_go_with_them() -> None:
    seen = set()
    for seed in range(12):
        [made] = await items_of(ANSWERS[1:2], count=1, ratios={"single_choice": 1}, seed=seed)
        assert made.options["ABCD".index(made.correct[0])] == "40 bar"
        seen.add(made.correct)
        assert [made] == await items_of(ANSWERS[1:2], count=1, ratios={"single_choice": 1}, seed=seed)
    assert len(seen) > 1


@pytest.mark.parametrize(
    ("type_", "change"),
    [
        ("true_false", {"correct": ["maybe"]}), ("true_false", {"options": ["true", "false"]}),
        ("single_choice", {"correct": ["A", "B"]}), ("single_choice", {"correct": ["E"]}),
        ("single_choice", {"options": OPTIONS[:3]}), ("single_choice", {"options": [*OPTIONS[:3], "10  BAR"]}),
        ("multiple_choice", {"correct": ["A"]}), ("multiple_choice", {"correct": ["A", "B", "C", "D"]}),
        ("short_answer", {"correct": [" "]}), ("open", {"correct": ["one", "two"]}), ("open", {"question": " "}),
    ],
)  # fmt: skip
async def test_what_is_no_item_of_its_type_is_asked_for_again(type_: str, change: dict[str, Any]) -> None:
    good = [{"type": type_, **ITEMS[type_]}]
    wrong = [{"type": type_, **ITEMS[type_], **change}]
    assert len(await items_of(wrong, good, count=1, ratios={type_: 1})) == 1
    with pytest.raises(InvalidOutput):
        await items_of(wrong, wrong, count=1, ratios={type_: 1})


async def test_never_more_of_a_type_than_asked_and_no_question_twice() -> None:
    made = await items_of([*ANSWERS, *ANSWERS, {"type": "open", "question": "What else?", "correct": ["x"]}], count=5)
    assert Counter(one.type for one in made) == dict.fromkeys(TYPES, 1)
    assert len(await items_of(ANSWERS, count=2, ratios={"open": 1})) == 1


@given(
    st.dictionaries(st.sampled_from(TYPES), st.integers(0, 9), min_size=1).filter(lambda one: any(one.values())),
    st.integers(1, 30), st.integers(0, 1000), st.integers(0, 40),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_stretch_has_the_shares_to_within_an_item_or_two(ratios: Any, count: int, start: int, more: int) -> None:
    shares = share_out(count, ratios, start)
    assert sum(shares.values()) == count
    assert shares == share_out(count, ratios, start)
    whole = sum(ratios.values())
    for name in TYPES:
        assert abs(shares.get(name, 0) - count * ratios.get(name, 0) / whole) <= 2
    one, other = Counter(share_out(count, ratios, start)), Counter(share_out(more, ratios, start + count))
    assert one + other == Counter(share_out(count + more, ratios, start))  # chunk after chunk, nothing is lost


def test_even_shares_are_exactly_even_over_a_whole_round() -> None:
    assert share_out(10, EVEN, 3) == dict.fromkeys(TYPES, 2)
    assert share_out(4, {"open": 3, "true_false": 1}) == {"true_false": 1, "open": 3}


@pytest.mark.parametrize("ratios", [{}, {"open": 0}, {"open": -1}, {"essay": 1}])
def test_ratios_that_make_no_sense_are_refused_before_the_run(ratios: dict[str, float]) -> None:
    with pytest.raises(WorkflowError):
        make_items.using(ratios=ratios)


async def test_a_chunk_without_words_is_not_asked_about() -> None:
    assert await perform(make_items, Chunk(text="7 ... 9"), DOCUMENT, model=ScriptedModel([])) == []


def item(type_: str, **more: Any) -> kinds.TestItem:
    given = ITEMS[type_] | more
    options = tuple(given.get("options", ()))
    correct = tuple(one.strip(".").upper() if options else one.lower() for one in given["correct"])
    return kinds.TestItem(question=given["question"], type=type_, options=options, correct=correct)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("type_", "given", "answer"),
    [
        ("true_false", False, "false"), ("true_false", "True", "true"), ("single_choice", "b. 40 bar", "B"),
        ("single_choice", "C", "C"), ("multiple_choice", ["B", "a", "A)"], "A, B"), ("short_answer", " 40 ", "40"),
        ("open", "Running dry.", "Running dry."),
    ],
)  # fmt: skip
async def test_the_candidate_answers_in_the_form_of_the_type(type_: str, given: Any, answer: str) -> None:
    model = ScriptedModel([{"answer": given}])
    [made] = await perform(take_test, item(type_), model=model)
    assert isinstance(made, Example)
    assert (made.answer, made.model) == (answer, "scripted")
    sent = model.requests[0].messages[-1].text
    assert ITEMS[type_]["question"] in sent
    assert all(correct not in sent for correct in item(type_).correct if len(correct) > 5)
    assert ("B. 40 bar" in sent) == (type_ == "single_choice")


async def test_an_answer_that_names_no_option_is_asked_for_again() -> None:
    [made] = await perform(take_test, item("single_choice"), model=ScriptedModel([{"answer": "Z"}, {"answer": "A"}]))
    assert isinstance(made, Example)
    assert made.answer == "A"
    with pytest.raises(InvalidOutput):
        await perform(take_test, item("single_choice"), model=ScriptedModel([{"answer": "Z"}, "The second, I think"]))


@pytest.mark.parametrize(
    ("type_", "answer", "score"),
    [
        ("true_false", "false", 1.0), ("true_false", "True", 0.0), ("single_choice", "B", 1.0),
        ("single_choice", "A", 0.0),
        ("multiple_choice", "B, A", 1.0), ("multiple_choice", "A", 0.0), ("multiple_choice", "A, B, C", 0.0),
        ("short_answer", "Forty.", 1.0), ("short_answer", "about 40", None), ("open", "Running dry.", None),
        ("open", " ", 0.0),
    ],
)  # fmt: skip
def test_closed_types_are_judged_by_rule(type_: str, answer: str, score: float | None) -> None:
    assert by_rule(item(type_), answer) == score


@pytest.mark.parametrize(("score", "passed"), [(1.0, True), (0.6, True), (0.59, False), (0, False)])
async def test_an_open_answer_is_marked_by_the_judge_and_passes_from_six_tenths_on(score: float, passed: bool) -> None:
    model = ScriptedModel([{"score": 7}, {"comment": "well", "score": score}])
    answer = Example(question="x", answer="Running dry.", model="candidate")
    [made] = await perform(judge, answer, item("open"), model=model)
    assert made == Judgement(
        answer="Running dry.", score=score, passed=passed, by="scripted", model="candidate", comment="well"
    )
    assert "it must never run dry." in model.requests[0].messages[-1].text
    [strict] = await perform(
        judge.using(pass_mark=1), answer, item("open"), model=ScriptedModel([{"comment": "", "score": 0.9}])
    )
    assert isinstance(strict, Judgement)
    assert not strict.passed


async def test_a_mark_that_cannot_be_read_is_no_nought_and_a_rule_asks_nobody() -> None:
    answer = Example(question="x", answer="Running dry.", model="candidate")
    with pytest.raises(InvalidOutput):
        await perform(judge, answer, item("open"), model=ScriptedModel(["good", {"comment": "fine"}]))
    [made] = await perform(
        judge, answer.model_copy(update={"answer": "B"}), item("single_choice"), model=ScriptedModel([])
    )
    assert isinstance(made, Judgement)
    assert (made.score, made.by) == (1.0, "rule")
