"""The chain of thought of an answer: taken from where the model put it, made up afterwards, or smoothed.

What is made afterwards is made by steps of their own: when such a call fails, the answer is there all the same, and its
cost is told apart from the answer's.
"""

from __future__ import annotations

from typing import Literal

from gristmill.data.kinds import Example
from gristmill.llm.ladder import inline_reasoning
from gristmill.llm.model import Answer
from gristmill.operators.operator import Context, operator

Origin = Literal["native", "inline"]
Reasoning = Literal["keep", "drop"]


def reasoning_of(said: Answer, wanted: Reasoning = "keep") -> tuple[str | None, Origin | None]:
    """What the model thought before it answered, and where that stood: in the provider's own field ("native") or in
    <think> tags at the start of the answer ("inline"). Both None when there is nothing or it is not wanted."""
    if wanted == "drop":
        return None, None
    if said.reasoning.strip():
        return said.reasoning.strip(), "native"
    inline = inline_reasoning(said.text)
    return (inline, "inline") if inline else (None, None)


@operator("synthesize_reasoning", version=1, pool="model", model=True, prompts=("synthesize_reasoning",))
async def synthesize_reasoning(example: Example, ctx: Context) -> Example:
    """The example with a chain of thought that leads to its answer; one that has a chain passes as it is, unasked.

    `reasoning_origin` is then "synthesized". Where the model gives nothing of use the example passes without a chain,
    and the outcome is "degraded". Raises what else the model raises; the answer stays what it was.
    """
    if example.reasoning:
        return example
    prompt = ctx.prompt("synthesize_reasoning", question=example.question, answer=example.answer,
        quote=example.quote or "",
    )  # fmt: skip
    thought: str | None = await ctx.model.generate(prompt, str, otherwise=None)
    if thought is None:
        return example
    return example.model_copy(update={"reasoning": thought, "reasoning_origin": "synthesized"})


@operator("polish_reasoning", version=1, pool="model", model=True, prompts=("polish_reasoning",))
async def polish_reasoning(example: Example, ctx: Context) -> Example:
    """The example with its chain of thought in clean words; question, answer and origin stay. One without a chain
    passes as it is, unasked. Where the model gives nothing of use the chain stays, and the outcome is "degraded"."""
    if not example.reasoning:
        ctx.notes["unpolished"] = "there is no reasoning"
        return example
    prompt = ctx.prompt(
        "polish_reasoning", question=example.question, answer=example.answer, reasoning=example.reasoning
    )
    polished: str | None = await ctx.model.generate(prompt, str, otherwise=None)
    return example if polished is None else example.model_copy(update={"reasoning": polished})
