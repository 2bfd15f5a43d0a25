"""An examination: one model answers test items, rules or another model judge the answers.

They are two steps, since each step has a model of its own: `take_test` that of the candidate, `judge` the judge's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from string import ascii_uppercase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, create_model

from gristmill.data.kinds import Example, Judgement, TestItem
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import fold

PASS = 0.6  # of 1
_PROMPTS = ("take_test_true_false", "take_test_single_choice", "take_test_multiple_choice", "take_test_open")


class OpenAnswer(BaseModel):
    answer: str


class Mark(BaseModel):
    """How a judge marks an open answer: first why, then the score, 0 to 1."""

    comment: str = ""
    score: float = Field(ge=0, le=1, allow_inf_nan=False)


@operator("take_test", version=1, pool="model", model=True, prompts=_PROMPTS)
async def take_test(item: TestItem, ctx: Context) -> Example:
    """What the step's model answers, without any source: "true" or "false", letters ("A, C"), or words.

    An answer that is not of that form is asked for again. Raises `InvalidOutput` when it stays so, and what the model
    raises.
    """
    closed = item.type in ("true_false", "single_choice", "multiple_choice")
    prompt = ctx.prompt(
        f"take_test_{item.type}" if closed else "take_test_open", question=item.question,
        options="\n".join(f"{ascii_uppercase[n]}. {option}" for n, option in enumerate(item.options)),
        language=ctx.language,
    )  # fmt: skip
    schema = _form(item.type, len(item.options)) if closed else OpenAnswer
    given: Any = (await ctx.model.generate(prompt, schema)).answer
    answer = ", ".join(sorted(set(given))) if isinstance(given, list) else str(given).strip()
    return Example(question=item.question, answer=answer, model=ctx.model.name, label=item.label)


@operator("judge", version=1, pool="model", model=True, prompts=("judge",))
async def judge(
    example: Example, item: TestItem, ctx: Context, pass_mark: Annotated[float, Field(ge=0, le=1)] = PASS
) -> Judgement:
    """How the answer to a test item fared: a score from 0 to 1, passed from `pass_mark` (default 0.6) on.

    True or false and choices are judged by rule: all right is 1, anything else 0. A short answer that is one of the
    expected ones is right by rule too. All others are marked by the step's model, with fixed anchors. An empty answer
    is 0. Raises what the model raises; a mark that cannot be read is never a 0.
    """
    score = by_rule(item, example.answer)
    judged_by, comment = "rule", ""
    if score is None:
        prompt = ctx.prompt(
            "judge", question=item.question, expected="\n".join(item.correct), answer=example.answer,
            explanation=item.explanation or "", language=ctx.language,
        )  # fmt: skip
        mark: Mark = await ctx.model.generate(prompt, Mark)
        score, comment, judged_by = mark.score, mark.comment.strip(), ctx.model.name
    return Judgement(
        answer=example.answer,
        score=score,
        passed=score >= pass_mark,
        by=judged_by,
        model=example.model,
        comment=comment,
    )


def by_rule(item: TestItem, answer: str) -> float | None:
    """1.0 or 0.0 where no judge is needed, else None."""
    if not answer.strip():
        return 0.0
    if item.type in ("short_answer", "open"):
        return 1.0 if item.type == "short_answer" and _plain(answer) in map(_plain, item.correct) else None
    if item.type == "true_false":
        return float(answer.strip().lower() == item.correct[0])
    return float(set(re.findall(r"[A-Z]", answer.upper())) == set(item.correct))


def _plain(text: str) -> str:
    return fold(text).rstrip(" .。!?").removeprefix("the ")


def _truth(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value.strip().lower() if isinstance(value, str) else value


def _letters(value: Any) -> Any:
    """A letter as models write it: in lower case, with a point, or with the option behind it ("B. 40 bar")."""
    if isinstance(value, list):
        return [_letters(one) for one in value]
    found = re.match(r"\s*\(?([A-Za-z])(?:[.):]|\s*\Z)", value) if isinstance(value, str) else None
    return found[1].upper() if found else value


@lru_cache(maxsize=16)
def _form(type_: str, options: int) -> type[BaseModel]:
    letters: Any = Literal[tuple(ascii_uppercase[:options])]
    wanted: Any = {
        "true_false": Annotated[Literal["true", "false"], BeforeValidator(_truth)],
        "single_choice": Annotated[letters, BeforeValidator(_letters)],
        "multiple_choice": Annotated[list[letters], BeforeValidator(_letters), Field(min_length=1)],
    }[type_]
    return create_model("TestAnswer", answer=(wanted, ...))
