"""How much of an answer its passage supports, statement by statement."""

from __future__ import annotations

from pydantic import BaseModel, Field

from gristmill.data.kinds import Chunk, Evaluation, Example
from gristmill.operators.evaluate import evaluation_of
from gristmill.operators.operator import Context, operator
from gristmill.operators.rubric import read_rubric


class Statement(BaseModel):
    """One statement of the answer; `supported`: the passage says it, or it follows from it."""

    statement: str = Field(min_length=1)
    supported: bool


class Statements(BaseModel):
    statements: list[Statement] = Field(min_length=1)


@operator("groundedness", version=1, pool="model", model=True, prompts=("groundedness",))
async def groundedness(example: Example, chunk: Chunk, ctx: Context) -> Evaluation:
    """The share of the answer's statements that the chunk supports, 0 to 1, as an evaluation by "groundedness".

    The model takes the answer apart and says of each statement whether it is supported; the share is computed here. The
    comment names the unsupported ones. Raises what the model raises; an answer without statements is asked for again.
    """
    prompt = ctx.prompt(
        "groundedness", question=example.question, answer=example.answer, passage=chunk.text, language=ctx.language
    )
    judged: Statements = await ctx.model.generate(prompt, Statements)
    unsupported = [one.statement.strip() for one in judged.statements if not one.supported]
    share = 1 - len(unsupported) / len(judged.statements)
    ctx.notes.update(statements=len(judged.statements), unsupported=len(unsupported))
    return evaluation_of(
        example, read_rubric("groundedness"), {"groundedness": share}, judge=ctx.model.name, source=True,
        comment="\n".join(unsupported)[:2_000],
    )  # fmt: skip
