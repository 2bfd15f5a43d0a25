from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.kinds import Chunk, Evaluation, Example, content_hash
from gristmill.errors import InvalidOutput, WorkflowError
from gristmill.operators import evaluate, evaluate_rules, groundedness
from gristmill.operators.rubric import Rubric, Scale, builtin_rubrics, read_rubric
from gristmill.testing import ScriptedModel, perform

CHUNK = Chunk(text="The feed pump runs at 40 bar. It is made of steel and must never run dry.")
EXAMPLE = Example(question="At what pressure does the feed pump run?", answer="The feed pump runs at 40 bar.")
GIVEN = {
    "question": {"reason": "clear", "score": 4}, "answer": {"reason": "right", "score": 4.5},
    "relevance": {"reason": "all of it", "score": 5}, "consistency": {"reason": "a break", "score": 3},
    "comment": "name the unit",
}  # fmt: skip


async def judged(*answers: Any, chunk: Chunk | None = CHUNK, **options: Any) -> tuple[Evaluation, ScriptedModel]:
    model = ScriptedModel(answers)
    bodies = (EXAMPLE, chunk) if chunk is not None else (EXAMPLE,)
    [made] = await perform(evaluate.using(**options), *bodies, model=model)
    assert isinstance(made, Evaluation)
    return made, model


async def test_the_judge_scores_dimensions_and_the_weighting_is_ours() -> None:
    made, model = await judged(GIVEN)
    assert {one.name: one.value for one in made.scores} == {
        "question": 4, "answer": 4.5, "relevance": 5, "consistency": 3,
    }  # fmt: skip
    assert made.overall == 4.5  # 4 x .25 + 4.5 x .35 + 5 x .25 + 3 x .15 = 4.275, to the nearest half
    assert (made.rubric, made.judge, made.comment) == ("default@1", "scripted", "name the unit")
    assert made.scores[0].comment == "clear"
    assert made.subject == content_hash(EXAMPLE).hex()
    sent = model.requests[0].messages[-1].text
    assert EXAMPLE.question in sent
    assert CHUNK.text in sent
    assert "overall" not in sent


async def test_without_a_source_the_weights_are_shared_out_anew() -> None:
    without = {name: part for name, part in GIVEN.items() if name != "relevance"}
    made, model = await judged(without, chunk=None)
    assert [one.name for one in made.scores] == ["question", "answer", "consistency"]
    assert made.overall == 4.0  # (1 + 1.575 + .45) / .75 = 4.03
    assert model.requests[0].prompt == "evaluate_alone"


@pytest.mark.parametrize(
    "wrong",
    [
        "4.5 out of 5", {}, {"score": 4.5, "evaluation": "good"}, GIVEN | {"answer": {"reason": "?"}},
        {name: part for name, part in GIVEN.items() if name != "answer"}, GIVEN | {"answer": {"score": 7}},
        GIVEN | {"answer": {"score": -1}}, GIVEN | {"answer": {"score": True}}, GIVEN | {"answer": {"score": "high"}},
    ],
)  # fmt: skip
async def test_a_judge_that_leaves_something_out_is_asked_again_and_never_read_as_nought(wrong: Any) -> None:
    made, model = await judged(wrong, GIVEN)
    assert (made.overall, len(model.requests)) == (4.5, 2)
    with pytest.raises(InvalidOutput):
        await judged(wrong, wrong)


async def test_a_rubric_of_ones_own_is_a_file_and_its_content_is_the_option(tmp_path: Path) -> None:
    path = tmp_path / "brief.yaml"
    path.write_text(
        "name: brief\nversion: 3\nscale: {least: 1, most: 10, step: 1}\ndimensions:\n"
        "  - {name: right, weight: 0.7, text: It is right.}\n"
        "  - {name: short, weight: 0.3, text: {zh: 简短, en: Short.}}\n"
    )
    made, model = await judged({"right": {"score": 8}, "short": {"score": 5}}, rubric=str(path))
    assert (made.rubric, made.overall) == ("brief@3", 7.0)  # 7.1
    assert "- right: It is right.\n- short: Short." in model.requests[0].messages[-1].text
    before = evaluate.check_options({"rubric": str(path)})
    path.write_text(path.read_text().replace("It is right.", "It is wrong."))
    assert evaluate.check_options({"rubric": str(path)}) != before  # so the work is another, and is done again
    assert evaluate.check_options(before) == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\ndimensions:\n - {name: a, weight: 0.5}\n - {name: b, weight: 0.4}\n", "add up to 0.9"),
        ("name: x\ndimensions:\n - {name: a, weight: 0.5}\n - {name: a, weight: 0.5}\n", "same name"),
        ("name: x\ndimensions:\n - {name: comment, weight: 1}\n", "can be called"),
        ("name: x\ndimensions: []\n", "dimensions"),
        ("name: x\nscale: {least: 5, most: 0}\ndimensions:\n - {name: a, weight: 1}\n", "below its most"),
        ("name: x\ncolour: red\ndimensions:\n - {name: a, weight: 1}\n", "colour"),
        ("name: [x\n", "no YAML"),
    ],
)
def test_a_rubric_that_makes_no_sense_is_refused_before_the_run(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(WorkflowError, match=told):
        evaluate.using(rubric=str(path))


def test_a_rubric_that_is_not_there_is_named() -> None:
    with pytest.raises(WorkflowError, match="known: default"):
        evaluate.using(rubric="defualt")
    with pytest.raises(WorkflowError, match="cannot be read"):
        evaluate.using(rubric="/nowhere/mine.yaml")


@pytest.mark.parametrize("name", builtin_rubrics())
def test_the_built_in_rubrics_fit_together(name: str) -> None:
    rubric = read_rubric(name)
    assert isinstance(rubric, Rubric)
    assert sum(one.weight for one in rubric.dimensions) == pytest.approx(1)
    if name == "default":
        assert {one.name: one.weight for one in rubric.dimensions} == {
            "question": 0.25, "answer": 0.35, "relevance": 0.25, "consistency": 0.15,
        }  # fmt: skip
        assert all(one.wording(code) for one in rubric.dimensions for code in ("en", "zh-CN", "tr", "fr"))
        assert len({rubric.dimensions[0].wording(code) for code in ("en", "zh", "tr")}) == 3


@pytest.mark.parametrize(
    ("value", "rounded"), [(4.24, 4.0), (4.25, 4.5), (4.75, 5.0), (0.25, 0.5), (0.2, 0.0), (5, 5.0)]
)
def test_scores_are_rounded_to_halves_and_the_middle_goes_up(value: float, rounded: float) -> None:
    assert Scale().rounded(value) == rounded


@given(st.lists(st.floats(0, 5), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_overall_score_lies_among_the_scores(values: list[float]) -> None:
    rubric: Rubric = read_rubric("default")
    overall = rubric.overall(dict(zip((one.name for one in rubric.dimensions), values, strict=True)))
    assert min(map(Scale().rounded, values)) <= overall <= max(map(Scale().rounded, values))
    assert overall * 2 == int(overall * 2)


def test_a_missing_or_foreign_dimension_is_no_score() -> None:
    rubric: Rubric = read_rubric("default")
    for scores in ({"question": 5.0}, {one.name: 5.0 for one in rubric.dimensions} | {"style": 5.0}):
        with pytest.raises(ValueError, match="asked were"):
            rubric.overall(scores)
    with pytest.raises(ValueError, match="outside"):
        rubric.overall({one.name: 6.0 for one in rubric.dimensions})


async def by_rules(answer: str, question: str = EXAMPLE.question, chunk: Chunk | None = CHUNK) -> dict[str, float]:
    example = Example(question=question, answer=answer)
    [made] = await perform(evaluate_rules, example, *([chunk] if chunk else []))
    assert isinstance(made, Evaluation)
    assert made.judge == "rules"
    return {one.name: one.value for one in made.scores} | {"overall": made.overall}


async def test_rules_need_no_model_and_find_what_is_broken() -> None:
    assert set((await by_rules(EXAMPLE.answer)).values()) == {5.0}
    assert (await by_rules("I cannot answer that."))["refusal"] == 0
    assert (await by_rules("The passage does not mention it."))["refusal"] == 0
    assert (await by_rules("抱歉，我无法回答。"))["refusal"] == 0
    assert (await by_rules("The feed pump runs at 60 bar."))["numbers"] == 0
    assert (await by_rules("水泵的工作压力是四十巴，不能干转。"))["language"] == 0
    assert (await by_rules("Napoleon lost against everybody there."))["overlap"] == 0
    assert (await by_rules("Yes"))["length"] < 2
    assert set(await by_rules("The feed pump does.", chunk=None)) == {"length", "language", "refusal", "overall"}


async def test_groundedness_is_the_share_of_supported_statements() -> None:
    told = {"statements": [
        {"statement": "The pump runs at 40 bar.", "supported": True}, {"statement": "It is blue.", "supported": False},
        {"statement": "It is steel.", "supported": True},
    ]}  # fmt: skip
    model = ScriptedModel([{"statements": []}, told])
    [made] = await perform(groundedness, EXAMPLE, CHUNK, model=model)
    assert isinstance(made, Evaluation)
    assert (made.rubric, made.overall, made.comment) == ("groundedness@1", 0.67, "It is blue.")
    with pytest.raises(InvalidOutput):
        await perform(groundedness, EXAMPLE, CHUNK, model=ScriptedModel(["It is fine.", {"statements": []}]))
