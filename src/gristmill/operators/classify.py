"""Classes of a text or a picture, out of a list of labels."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from gristmill.data.annotated import text_of
from gristmill.data.annotations import Classes
from gristmill.data.kinds import Chunk, Conversation, Example, Image, Question
from gristmill.errors import UsageError
from gristmill.operators.annotation_asking import OnFailure, asked, showing, subject_of
from gristmill.operators.annotation_choices import Chosen, choice_schema
from gristmill.operators.annotation_options import Labels, Sample, known_label, spellings, told
from gristmill.operators.image_questions import RESIZE_MAX, Side
from gristmill.operators.operator import Context, operator


class LabelledText(BaseModel):
    """A text with the labels that it should get: shown to the model."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=4000)
    labels: list[str]


@operator("classify", version=1, pool="model", model=True, prompts=("classify", "classify_image"))
async def classify(
    subject: Chunk | Question | Example | Conversation | Image, ctx: Context, labels: Labels, multiple: bool = False,
    allow_none: bool = False, examples: list[LabelledText] = [], explain: bool = False,  # noqa: B006 - never changed
    annotator: str | None = None, sample: Sample = 0, on_failure: OnFailure = "degrade", resize_max: Side = RESIZE_MAX,
    prompt: str | None = None,
) -> Classes:  # fmt: skip
    """Which of `labels` a text or a picture belongs to.

    `labels` is a list of names, or names with what they mean; `multiple` allows several (default: exactly one), and
    `allow_none` none at all. `examples` are shown to the model; with `explain` it says why first, which is kept as the
    comment. A label that is not in the list is asked for again, never stored.

    `annotator` is the name that this annotator has in a panel (default: the model's), and another `sample` (default 0)
    asks the same model once more. Where the model gives nothing of use the annotation is empty with outcome "degraded"
    and the reason; `on_failure="fail"` fails the task instead, so that `gristmill retry` asks again. A picture is sent
    with no side longer than `resize_max` (default 1568). `prompt` names a prompt of the project instead of ours.

    Raises `UsageError` for an example with a label that is not in the list, and what the model raises when it cannot be
    reached.
    """
    shown_examples = _examples(examples, labels)
    text = text_of(subject)
    about = {
        "subject": subject_of(subject), "annotator": annotator or ctx.model.name, "model": ctx.model.name,
    }  # fmt: skip
    if text is not None and not text.strip():
        return Classes(**about, outcome="empty", reason="there is no text")
    least, most = 0 if allow_none else 1, len(labels) if multiple else 1
    filled = ctx.prompt(
        prompt or ("classify_image" if text is None else "classify"), text=text or "", labels=told(labels),
        least=str(least), most=str(most), examples=shown_examples or "-", language=ctx.language,
    )  # fmt: skip
    schema = choice_schema(labels, least, most, explain=explain)
    given = await asked(ctx, await showing(filled, subject, ctx, resize_max), schema, sample, on_failure)
    if given.value is None:
        return Classes(**about, outcome="degraded", reason=given.reason)
    chosen: Chosen = given.value
    return Classes(
        **about, labels=tuple(chosen.labels), outcome="ok" if chosen.labels else "empty", score=chosen.confidence,
        comment=chosen.why,
    )  # fmt: skip


def _examples(examples: Sequence[LabelledText], labels: Labels) -> str:
    known = spellings(labels)
    for one in examples:
        for label in one.labels:
            if known_label(label, known) not in known.values():
                raise UsageError(
                    f"an example of classify has the label {label!r}, which is not one of its labels", code="U217",
                    hint=f"its labels are: {', '.join(known.values())[:300]}", safe="nothing was sent",
                )  # fmt: skip
    return "\n".join(json.dumps(one.model_dump(), ensure_ascii=False) for one in examples)
