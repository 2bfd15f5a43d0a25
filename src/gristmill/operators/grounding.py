"""Whether a passage supports an answer."""

from __future__ import annotations

from pydantic import BaseModel

from gristmill.data.kinds import Chunk, Example
from gristmill.operators.operator import Context, operator


class Verdict(BaseModel):
    """`unsupported` is the first statement that the passage does not support."""

    supported: bool
    unsupported: str | None = None


@operator("check_grounding", version=1, pool="model", model=True, prompts=("check_grounding",))
async def check_grounding(example: Example, chunk: Chunk, ctx: Context, again: bool = False) -> Example:
    """The example with `grounded` as the model judges it. One whose quote was found in the passage is grounded and
    passes unasked, unless `again`. Where the model gives nothing of use the example passes as it is, and the outcome is
    "degraded". Raises what else the model raises."""
    if example.grounded and not again:
        return example
    prompt = ctx.prompt("check_grounding", question=example.question, answer=example.answer, passage=chunk.text)
    verdict: Verdict | None = await ctx.model.generate(prompt, Verdict, otherwise=None)
    if verdict is None:
        return example
    if not verdict.supported:
        ctx.notes["unsupported"] = (verdict.unsupported or "")[:500]
    return example.model_copy(update={"grounded": verdict.supported})
