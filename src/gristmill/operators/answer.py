"""An answer to a question from the chunk it was asked about, with the words that support it."""

from __future__ import annotations

from pydantic import BaseModel

from gristmill.data.kinds import Chunk, Example, Question
from gristmill.llm.prompt import Prompt, load_prompt
from gristmill.operators.evidence import locate
from gristmill.operators.operator import Context, operator


class GroundedAnswer(BaseModel):
    """An answer as the model gives it; blank or null when the passage does not contain one, but never left out."""

    answer: str | None
    quote: str | None = None


@operator("answer", version=1, pool="model", model=True, prompts=("answer",))
async def answer(question: Question, chunk: Chunk, ctx: Context) -> Example | None:
    """The question with its answer, from this chunk only; None when the model says that the chunk does not hold it.

    `quote` and its offsets are the document's own words where the model's quote was found in the chunk. Where it was
    not, all three stay None and `ctx.notes` says so. Raises whatever the model raises.
    """
    given: GroundedAnswer = await ctx.model.generate(_prompt(question, chunk, ctx.language), GroundedAnswer)
    text = (given.answer or "").strip()
    if not text:
        ctx.notes["empty"] = "the passage does not contain the answer"
        return None
    found = locate(given.quote, chunk.text) if given.quote else None
    if found is None:
        ctx.notes["quote"] = "not found in the passage" if (given.quote or "").strip() else "none given"
        return Example(question=question.text, answer=text, model=ctx.model.name)
    start, end = found
    return Example(
        question=question.text,
        answer=text,
        quote=chunk.text[start:end],
        evidence_start=chunk.start + start,
        evidence_end=chunk.start + end,
        model=ctx.model.name,
    )


def _prompt(question: Question, chunk: Chunk, language: str) -> Prompt:
    template = load_prompt("answer", language)
    offered = {
        "question": question.text,
        "passage": chunk.text,
        "headings": " > ".join(chunk.heading_path),
        "language": language,
    }
    # A prompt of the user's own may leave some of them out.
    return template.render(**{name: offered[name] for name in template.fields if name in offered})
