"""An answer to a question from the chunk it was asked about, with the words that support it."""

from __future__ import annotations

from typing import Any

from gristmill.data.kinds import Chunk, Example, Question
from gristmill.llm.model import Answer
from gristmill.operators.answer_forms import form_of, refuse_picture
from gristmill.operators.evidence import locate
from gristmill.operators.operator import Context, operator
from gristmill.operators.reasoning import Reasoning, reasoning_of


@operator(
    "answer", version=2, pool="model", model=True, prompts=("answer", "answer_form", "answer_open", "answer_audience")
)
async def answer(
    question: Question, chunk: Chunk | None, ctx: Context, reasoning: Reasoning = "keep", grounded: bool = True
) -> Example | None:
    """The question with its answer, from this chunk only; None when the model says that the chunk does not hold it.
    A question without a chunk is answered from what the model knows.

    The answer is free text, one of the question's labels, or JSON that follows its schema; anything else is asked for
    again. `quote` and its offsets are the document's own words where the model's quote was found in the chunk. Where it
    was not, all three stay None and `ctx.notes` says so; with `grounded` (default) the example says whether it was.
    `reasoning` keeps (default) what the model thought, or drops it; `synthesize_reasoning` makes what is missing.

    Raises `InputError` T220 or T221 for a question whose labels or schema cannot be used, T222 for one about a picture,
    and what the model raises.
    """
    if chunk is None:
        refuse_picture(question)
    form = form_of(question, quoted=chunk is not None)
    passage = chunk.text if chunk else ""
    grounds = "answer_audience" if question.audience else "answer"
    prompt = ctx.prompt(
        "answer_open" if chunk is None else "answer_form" if form.kind else grounds, question=question.text,
        passage=passage, form=form.words, headings=" > ".join(chunk.heading_path) if chunk else "",
        language=ctx.language, genre=question.genre or "", audience=question.audience or "",
    )  # fmt: skip
    asked: tuple[Any, Answer] = await ctx.model.answer(prompt, form.schema)
    given, said = asked
    text = form.text(given.answer)
    if text is None:
        ctx.notes["empty"] = (
            "the passage does not contain the answer" if chunk else "the model does not know the answer"
        )
        return None
    thought, origin = reasoning_of(said, reasoning)
    made = Example(
        question=question.text, answer=text, answer_type=form.kind, label=question.label, model=ctx.model.name,
        reasoning=thought, reasoning_origin=origin,
    )  # fmt: skip
    return made if chunk is None else made.model_copy(update=_evidence(given.quote or "", chunk, grounded, ctx))


def _evidence(quote: str, chunk: Chunk, grounded: bool, ctx: Context) -> dict[str, Any]:
    """The fields of an example that say where the passage supports it."""
    found = locate(quote, chunk.text)
    if found is None:
        ctx.notes["quote"] = "not found in the passage" if quote.strip() else "none given"
        return {"grounded": False if grounded else None}
    start, end = chunk.place(*found)
    return {
        "quote": chunk.text[slice(*found)], "evidence_start": start, "evidence_end": end,
        "grounded": True if grounded else None,
    }  # fmt: skip
