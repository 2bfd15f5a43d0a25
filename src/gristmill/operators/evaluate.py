"""Scores of an example by a rubric: the model judges each dimension, the weighting is done here."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, create_model

from gristmill.data.kinds import Chunk, Evaluation, Example, content_hash
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator
from gristmill.operators.rubric import Dimension, Rubric, RubricOption, Scale


@operator(
    "evaluate", version=1, pool="model", model=True, prompts=("evaluate", "evaluate_alone"),
)  # fmt: skip
async def evaluate(
    example: Example,
    chunk: Chunk | None,
    ctx: Context,
    rubric: RubricOption = "default",  # type: ignore[assignment]
) -> Evaluation:
    """What a judge says of the example, with a score for each dimension of `rubric` and the overall one.

    `rubric` is the name of one that is built in ("default": question 25 %, answer 35 %, relevance 25 %, consistency
    15 %, from 0 to 5 in halves), or a YAML file. With a chunk above it the example is judged beside its passage;
    without one the dimensions that need a source are left out, and the others weighted anew.

    Scores outside of the scale and missing ones are asked for again. Raises `InvalidOutput` when they stay so (never a
    score of 0 instead), `InputError` T222 where nothing can be judged without a source, and what the model raises.
    """
    asked = rubric.asked(chunk is not None)
    if not asked:
        raise InputError(f"the rubric {rubric.title} judges nothing without a source", code="T222")
    prompt = ctx.prompt(
        "evaluate" if chunk is not None else "evaluate_alone", question=example.question, answer=example.answer,
        passage=chunk.text if chunk is not None else "", dimensions=_told(asked, ctx.language),
        least=_number(rubric.scale.least), most=_number(rubric.scale.most), step=_number(rubric.scale.step),
        language=ctx.language,
    )  # fmt: skip
    judged = await ctx.model.generate(prompt, _schema(tuple(one.name for one in asked), rubric.scale))
    given = {one.name: getattr(judged, one.name) for one in asked}
    scores = {name: float(one.score) for name, one in given.items()}
    return evaluation_of(
        example, rubric, scores, judge=ctx.model.name, source=chunk is not None, comment=judged.comment.strip(),
        comments={name: one.reason.strip() for name, one in given.items()},
    )  # fmt: skip


def evaluation_of(
    example: BaseModel, rubric: Rubric, scores: dict[str, float], *, judge: str, source: bool, comment: str = "",
    comments: dict[str, str] | None = None,
) -> Evaluation:  # fmt: skip
    """An evaluation with its overall score. Raises `ValueError` as `Rubric.overall` does."""
    overall = rubric.overall(scores, source)
    return Evaluation(
        rubric=rubric.title, scores=rubric.scores(scores, comments), overall=overall, judge=judge, comment=comment,
        subject=content_hash(example).hex(),
    )  # fmt: skip


def _told(asked: tuple[Dimension, ...], language: str) -> str:
    return "\n".join(f"- {one.name}: {one.wording(language).strip() or one.name}" for one in asked)


def _number(value: float) -> str:
    return f"{value:g}"


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a score is a number, not true or false")
    return value


@lru_cache(maxsize=64)
def _schema(names: tuple[str, ...], scale: Scale) -> type[BaseModel]:
    """What the judge answers: for each dimension first the reason, then the score, which then follows from it."""
    number = Annotated[
        float, BeforeValidator(_no_flag), Field(ge=scale.least, le=scale.most, allow_inf_nan=False)
    ]  # fmt: skip
    one = create_model("Judged", reason=(str, ""), score=(number, ...))
    fields: dict[str, Any] = dict.fromkeys(names, (one, ...))
    return create_model("Scores", **fields, comment=(str, ""))
