"""Entities of a text: the model names them, code finds where they stand."""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from gristmill.data.annotated import text_of
from gristmill.data.annotations import Dropped, Entities
from gristmill.data.kinds import Chunk, Conversation, Example, Question
from gristmill.errors import UsageError
from gristmill.operators.annotation_asking import Confidence, OnFailure, asked, least_sure, left_out, subject_of
from gristmill.operators.annotation_options import (
    Labels,
    Sample,
    Share,
    known_label,
    label_type,
    spellings,
    told,
)
from gristmill.operators.annotation_spans import Mention, Overlapping, Repeated, place_mentions
from gristmill.operators.operator import Context, operator

MENTION_LIMIT = 500  # characters


class NamedMention(BaseModel):
    """One mention as the model gives it: the words of the text, and what they are."""

    text: str = Field(min_length=1, max_length=MENTION_LIMIT)
    label: str
    confidence: float | None = None


class MarkedText(BaseModel):
    """A text with its mentions: shown to the model."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=4000)
    mentions: list[tuple[str, str]]  # words and label


@operator("extract", version=1, pool="model", model=True, prompts=("extract",))
async def extract(
    subject: Chunk | Question | Example | Conversation, ctx: Context, labels: Labels,
    unknown: Literal["drop", "reject"] = "drop", repeated: Repeated = "all", overlapping: Overlapping = "longest",
    fuzzy: Share = 0.9, examples: list[MarkedText] = [], annotator: str | None = None,  # noqa: B006 - never changed
    sample: Sample = 0, on_failure: OnFailure = "degrade", prompt: str | None = None,
) -> Entities:  # fmt: skip
    """The entities of a text, each with a label of `labels` and its place in code points.

    The model names words and labels. Code finds the words: exactly, then but for case, spaces and typography, then
    words that resemble them by at least `fuzzy` (default 0.9; 1: never). What is not found is left out, and so is a
    label that is not in the list; `unknown="reject"` asks again instead. What was left out stands in `dropped`.

    `repeated` says which places of a mention count: "all" (default), the "first", or as "listed", the n-th time it is
    named at its n-th place. `overlapping` says what stays of spans that overlap: the "longest" (default), the one that
    begins "first", or "all".

    `examples` are shown to the model. The other options are those of `classify`. Raises `UsageError` for an example
    with a label that is not in the list, and what the model raises when it cannot be reached.
    """
    shown = _examples(examples, labels)
    text = text_of(subject)
    about = {
        "subject": subject_of(subject), "annotator": annotator or ctx.model.name, "model": ctx.model.name,
    }  # fmt: skip
    if not text.strip():
        return Entities(**about, outcome="empty", reason="there is no text")
    filled = ctx.prompt(prompt or "extract", text=text, labels=told(labels), examples=shown, language=ctx.language)
    schema = _schema(tuple(one.name for one in labels), unknown == "reject")
    given = await asked(ctx, filled, list[schema], sample, on_failure)  # type: ignore[valid-type]
    if given.value is None:
        return Entities(**about, outcome="degraded", reason=given.reason)
    named: list[NamedMention] = given.value
    known = {one.name for one in labels}
    mentions = [Mention(one.text, one.label, one.confidence) for one in named if one.label in known]
    strange = [
        Dropped(what=one.text, label=one.label[:200], reason="unknown_label") for one in named if one.label not in known
    ]
    entities, lost = await asyncio.to_thread(  # a long text takes a second
        place_mentions, mentions, text, repeated=repeated, overlapping=overlapping, fuzzy=fuzzy
    )
    ctx.notes.update(named=len(named), entities=len(entities))
    return Entities(
        **about, entities=tuple(entities), outcome="ok" if entities else "empty",
        reason=None if entities or not named else "nothing of what the model named could be used",
        score=least_sure(one.score for one in entities), dropped=left_out(ctx, strange + lost),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _schema(names: tuple[str, ...], strict: bool) -> type[NamedMention]:
    return create_model(
        "Mention", __base__=NamedMention, label=(label_type(names, strict), ...), confidence=(Confidence, None)
    )


def _examples(examples: list[MarkedText], labels: Labels) -> str:
    known = spellings(labels)
    for one in examples:
        for words, label in one.mentions:
            if known_label(label, known) not in known.values() or words not in one.text:
                raise UsageError(
                    f"an example of extract says that {words!r} is {label!r}: that is not one of its labels, or the "
                    "words are not in its text", code="U217", hint=f"labels: {', '.join(known.values())[:300]}",
                    safe="nothing was sent",
                )  # fmt: skip
    lines = [
        {"text": one.text, "mentions": [{"text": words, "label": label} for words, label in one.mentions]}
        for one in examples
    ]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) or "-"
