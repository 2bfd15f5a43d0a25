"""Ratings by a scale: one code, several codes, or a list of short texts."""

from __future__ import annotations

from gristmill.data.annotated import text_of
from gristmill.data.annotations import Rating
from gristmill.data.kinds import Chunk, Conversation, Example, Question
from gristmill.operators.annotation_asking import OnFailure, asked, subject_of
from gristmill.operators.annotation_choices import Chosen, choice_schema, chosen_in_tags
from gristmill.operators.annotation_options import Sample, ScaleOption, told
from gristmill.operators.operator import Context, operator


@operator("rate", version=1, pool="model", model=True, prompts=("rate", "rate_list"))
async def rate(
    subject: Chunk | Question | Example | Conversation, ctx: Context, scale: ScaleOption, explain: bool = False,
    annotator: str | None = None, sample: Sample = 0, on_failure: OnFailure = "degrade", prompt: str | None = None,
) -> Rating:  # fmt: skip
    """Where a text stands on `scale`.

    A scale has a name, `about` (what is asked), and `codes` in their order, such as "LEVEL_0..LEVEL_4" or codes with
    what they mean: exactly one is given, or with `several` between `least` and `most` of them; `none` is the code for
    "nothing fits". A scale without codes takes a list of short texts, `least` (default 2) to `most` (default 10).

    A code that the scale does not have is asked for again. An answer in prose counts when it holds the codes between
    << and >>. The other options are those of `classify`. Raises what the model raises when it cannot be reached.
    """
    text = text_of(subject)
    about = {
        "subject": subject_of(subject), "annotator": annotator or ctx.model.name, "model": ctx.model.name,
        "scale": scale.name,
    }  # fmt: skip
    if not text.strip():
        return Rating(**about, outcome="empty", reason="there is no text")
    least, most = scale.bounds
    filled = ctx.prompt(
        prompt or ("rate" if scale.codes else "rate_list"), text=text, scale=scale.name,
        about=scale.about or scale.name, codes=told(scale.offered) or "-", least=str(least), most=str(most),
        none=scale.none or "-", language=ctx.language,
    )  # fmt: skip
    schema = choice_schema(scale.offered, least, most, none=scale.none, explain=explain)
    given = await asked(ctx, filled, schema, sample, on_failure, lambda said: chosen_in_tags(said, schema))
    if given.value is None:
        return Rating(**about, outcome="degraded", reason=given.reason)
    chosen: Chosen = given.value
    return Rating(
        **about, values=tuple(chosen.labels), outcome="ok" if chosen.labels else "empty", score=chosen.confidence,
        comment=chosen.why,
    )  # fmt: skip
