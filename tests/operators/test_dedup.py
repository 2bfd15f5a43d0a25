from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.kinds import Duplicate, Example
from gristmill.errors import InputError, WorkflowError
from gristmill.operators.calling import run_operator
from gristmill.operators.dedup import WITHOUT_REASON, Found, dedup, find_duplicates
from gristmill.operators.operator import Context
from gristmill.testing import MemoryBlobs, perform

SAME = "It is the one that the maker names."  # an answer, where the answers shall not matter


def pair(one: str, other: str, *, answers: tuple[str, str] = (SAME, SAME), **options: object) -> list[Found]:
    examples = [Example(question=one, answer=answers[0]), Example(question=other, answer=answers[1])]
    return find_duplicates(examples, **options)  # type: ignore[arg-type]


async def test_duplicates_are_marked_with_their_kept_example_and_nothing_is_deleted() -> None:
    questions = ["What is a valve?", "What is a pump?", "what is a VALVE", "What is the valve?", "What is a pump ?"]
    ctx = Context(blobs=MemoryBlobs())
    produced = await run_operator(dedup, [Example(question=q, answer="x") for q in questions], {}, {}, ctx)
    marks = [(entry.parents, entry.body) for entry in produced]
    assert [parents for parents, _ in marks] == [(2, 0), (3, 0), (4, 1)]
    assert [body.method for _, body in marks if isinstance(body, Duplicate)] == ["exact", "lexical", "exact"]
    assert all(isinstance(body, Duplicate) and 0.9 <= body.similarity <= 1.0 for _, body in marks)
    assert ctx.notes == {"examples": 5, "duplicates": 3}


def test_it_runs_in_a_process_of_its_own_over_everything() -> None:
    assert dedup.barrier
    assert dedup.isolate
    assert not dedup.uses_model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what  is the capital of FRANCE"),
        ("What is the capital of France?", "What's the capital of France?"),
        ("Which valve opens first?", "What valve opens first?"),
        ("What colours are the signal lamps?", "What color is the signal lamp?"),
        ("In 1969, who first walked on the Moon?", "Who first walked on the Moon in 1969?"),
        ("If the pump leaks, what must be done first?", "What must be done first if the pump leaks?"),
        (
            "What is the maximum operating temperature of the pump?",
            "What is the pump's maximum operating temperature?",
        ),
        ("What is “lean” burn?", 'What is "lean" burn'),
        ("How is the café opened?", "How is the cafe\u0301 opened?"),
        ("What costs 1,000 euros?", "What costs 1000 euros?"),
        ("水泵的工作压力是多少？", "水泵的工作压力是多少"),
    ],
)
def test_questions_that_ask_the_same_are_duplicates(one: str, other: str) -> None:
    assert [(mark.later, mark.kept) for mark in pair(one, other)] == [(1, 0)]
    assert [(mark.later, mark.kept) for mark in pair(other, one)] == [(1, 0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many people lived in the old town in 1950?", "How many people lived in the old town in 1960?"),
        ("What is 17 + 25?", "What is 17 - 25?"),
        ("What is 17 + 25?", "What is 17 + 26?"),
        ("What does error code E12 on the panel mean?", "What does error code E13 on the panel mean?"),
        ("When is the value of x > 5 in this model?", "When is the value of x < 5 in this model?"),
        ("What happens to the water at 3.5 bar?", "What happens to the water at 35 bar?"),
        ("How do you go from 5 to 10 steps an hour?", "How do you go from 10 to 5 steps an hour?"),
        (
            "Is smoking allowed in the engine room during maintenance?",
            "Is smoking not allowed in the engine room during maintenance?",
        ),
        (
            "Why can the emergency valve be opened while the pump is running?",
            "Why can't the emergency valve be opened while the pump is running?",
        ),
        (
            "Which valve must be opened before the pump is started in the north building?",
            "Which valve must be opened before the pump is started in the south building?",
        ),
        (
            "Which valve must be opened before the pump in the building is started?",
            "Which valve must be opened after the pump in the building is started?",
        ),
        ("When was the bridge over the river built?", "Where was the bridge over the river built?"),
        ("Which of the two processes is active at night?", "Which of the two processes is inactive at night?"),
        ("What are the signs of hypertension in adults?", "What are the signs of hypotension in adults?"),
        ("How do you convert from Celsius to Kelvin here?", "How do you convert from Kelvin to Celsius here?"),
        ("Does smoking cause stress in adults?", "Does stress cause smoking in adults?"),
        ("Which team did Brazil beat in the final?", "Which team beat Brazil in the final?"),
        ("The ___ is the powerhouse of the living cell.", "The nucleus is the ___ of the living cell."),
        ("水泵的最高工作温度是多少？", "水泵的最低工作温度是多少？"),
    ],
)
def test_one_number_word_or_negation_makes_another_question(one: str, other: str) -> None:
    assert pair(one, other) == []
    assert pair(one, other, language="de") == []


def test_a_word_more_is_a_duplicate_only_when_the_answers_agree() -> None:
    one, other = "What is the capital of France?", "What is the capital city of France?"
    assert pair(one, other, answers=("Paris", "Paris."))
    assert pair(one, other, answers=("Paris", "Lyon")) == []
    pressures = "What is the pressure in the main tank?", "What is the test pressure in the main tank?"
    assert pair(*pressures, answers=("It is 5 bar.", "It is 16 bar.")) == []
    assert pair(*pressures, answers=("It is 5 bar.", "It's 5 bar."))


def test_the_answers_yes_and_no_are_no_reason() -> None:
    one, other = "Is the inlet valve closed at night?", "Is the main inlet valve closed at night?"
    assert pair(one, other, answers=("Yes", "Yes")) == []


def test_a_lower_threshold_takes_in_what_is_only_spelled_alike() -> None:
    one, other = "Which of the two pumps starts first at night?", "Which of the two pumps starts last at night?"
    assert pair(one, other) == []
    assert pair(one, other, threshold=0.8)[0].similarity <= WITHOUT_REASON


def test_numbers_and_negations_hold_at_every_threshold() -> None:
    assert pair("What is the mass of part 7?", "What is the mass of part 8?", threshold=0.5) == []
    assert pair("Why is it safe to enter?", "Why is it not safe to enter?", threshold=0.5) == []


def test_the_exact_method_leaves_resembling_questions_alone() -> None:
    assert pair("What is a valve?", "What is the valve?", method="exact") == []
    assert pair("What is a valve?", "what is a valve", method="exact") == [Found(1, 0, 1.0, "exact")]


def test_the_kept_example_is_never_itself_a_duplicate() -> None:
    questions = ["What is the name of the pump?", "What's the name of a pump?", "what's the name of a pump"]
    found = find_duplicates([Example(question=q, answer=SAME) for q in questions])
    assert [(mark.later, mark.kept, mark.method) for mark in found] == [(1, 0, "lexical"), (2, 0, "lexical")]


def test_questions_without_words_are_compared_as_they_are() -> None:
    assert pair("🤖?", "🤖 ?") == [Found(1, 0, 1.0, "exact")]
    assert pair("🤖", "🙈") == []
    assert pair("", "What?") == []
    assert find_duplicates([]) == []


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.01, float("nan")])
async def test_a_threshold_out_of_range_fails_without_a_retry(threshold: float) -> None:
    with pytest.raises(InputError):
        await perform(dedup, Example(question="a", answer="b"), options={"threshold": threshold})


def test_an_unknown_method_is_refused_when_the_workflow_is_made() -> None:
    with pytest.raises(WorkflowError):
        dedup.using(method="embedding")


WORDS = "what is the a of pump valve pressure not 5 7 first last in".split()  # noqa: SIM905


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join), max_size=30),
    st.sampled_from([0.6, 0.8, 0.9, 1.0]),
)
def test_every_mark_points_from_a_later_example_to_an_earlier_kept_one(questions: list[str], threshold: float) -> None:
    found = find_duplicates([Example(question=q, answer=SAME) for q in questions], threshold=threshold)
    later = [mark.later for mark in found]
    assert later == sorted(set(later))
    for mark in found:
        assert mark.kept < mark.later
        assert mark.kept not in later
        assert threshold - 1e-4 <= mark.similarity <= 1.0
        digits = [{w for w in questions[n].split() if w.isdigit()} for n in (mark.later, mark.kept)]
        assert digits[0] == digits[1]


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join), min_size=2, max_size=25))
def test_the_index_misses_nothing_that_a_comparison_of_all_pairs_finds(questions: list[str]) -> None:
    examples = [Example(question=q, answer=SAME) for q in questions]
    kept: list[int] = []
    marked: set[int] = set()
    for position in range(len(examples)):
        if any(find_duplicates([examples[other], examples[position]]) for other in kept):
            marked.add(position)
        else:
            kept.append(position)
    assert {mark.later for mark in find_duplicates(examples)} == marked


def test_ten_thousand_questions_take_seconds() -> None:
    random_ = random.Random(5)
    syllables = "ba co di fe gu ha jo ki le mo nu pra qui ro sta tri vo wen xi zor".split()  # noqa: SIM905
    vocabulary = ["".join(random_.choices(syllables, k=random_.randint(2, 4))) for _ in range(4000)]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(vocabulary))))
    shapes = ("What is the {} of the {} in the {} {}?", "How does the {} affect the {} when the {} is {}?")
    examples = [
        Example(
            question=random_.choice(shapes).format(*random_.choices(vocabulary, cum_weights=weights, k=4)),
            answer="x y z",
        )
        for _ in range(10_000)
    ]
    started = time.perf_counter()
    find_duplicates(examples)
    assert time.perf_counter() - started < 20  # about 1 s; comparing all pairs takes minutes
