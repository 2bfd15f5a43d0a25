"""Questions about pictures, and their answers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Example, Image, Question
from gristmill.llm import model
from gristmill.operators.answer_forms import form_of
from gristmill.operators.operator import Context, operator
from gristmill.operators.pictures import fit
from gristmill.operators.reasoning import Reasoning, reasoning_of
from gristmill.operators.wording import question_key

RESIZE_MAX = 1568  # pixels of the longer side; what is larger providers shrink themselves, after charging for it
# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Count = TypeAliasType("Count", Annotated[int, Field(ge=1, le=10)])
Side = TypeAliasType("Side", Annotated[int, Field(ge=64, le=8192)])


class ImageQuestion(BaseModel):
    question: str


@operator("ask_image", version=1, pool="model", model=True, prompts=("ask_image",))
async def ask_image(image: Image, ctx: Context, count: Count = 3, resize_max: Side = RESIZE_MAX) -> list[Question]:
    """At most `count` questions (default 3, 1 to 10) that the picture answers; blank and repeated ones are dropped.

    The model is sent the picture with no side longer than `resize_max` pixels (default 1568). Raises what it raises.
    """
    prompt = ctx.prompt("ask_image", count=str(count), language=ctx.language)
    asked: list[ImageQuestion] = await ctx.model.generate(
        prompt.showing(await shown(image, ctx, resize_max)), list[ImageQuestion]
    )
    fresh: dict[str, str] = {}
    for entry in asked:
        key = question_key(entry.question)
        if any(character.isalnum() for character in key):
            fresh.setdefault(key, entry.question.strip())
    kept = list(fresh.values())[:count]
    ctx.notes.update({"asked": count, "returned": len(asked)})
    if not kept:
        ctx.notes["empty"] = "the model gave no question that can be used" if asked else "the model asked nothing"
    return [Question(text=text, ordinal=ordinal, image=image.blob) for ordinal, text in enumerate(kept)]


@operator("answer_image", version=1, pool="model", model=True, prompts=("answer_image", "answer_image_form"))
async def answer_image(
    question: Question, image: Image, ctx: Context, resize_max: Side = RESIZE_MAX, reasoning: Reasoning = "keep"
) -> Example | None:
    """The question with its answer from the picture; None when the model says that the picture does not show it.

    The answer is free text, one of the question's labels, or JSON that follows its schema. `reasoning` keeps (default)
    what the model thought, or drops it. Raises `InputError` T220 or T221 for a question whose labels or schema cannot
    be used, and what the model raises.
    """
    form = form_of(question, quoted=False)
    prompt = ctx.prompt(
        "answer_image_form" if form.kind else "answer_image", question=question.text, form=form.words,
        language=ctx.language,
    )  # fmt: skip
    asked: tuple[Any, model.Answer] = await ctx.model.answer(
        prompt.showing(await shown(image, ctx, resize_max)), form.schema
    )
    given, said = asked
    text = form.text(given.answer)
    if text is None:
        ctx.notes["empty"] = "the picture does not show the answer"
        return None
    thought, origin = reasoning_of(said, reasoning)
    return Example(
        question=question.text, answer=text, answer_type=form.kind, image=image.blob, label=question.label,
        model=ctx.model.name, reasoning=thought, reasoning_origin=origin,
    )  # fmt: skip


async def shown(image: Image, ctx: Context, longest: int) -> model.Image:
    """The picture as the model is sent it: no side longer than `longest` pixels."""
    data = await ctx.blobs.read(image.blob)
    return model.Image(*await asyncio.to_thread(fit, data, image.media_type, longest))
