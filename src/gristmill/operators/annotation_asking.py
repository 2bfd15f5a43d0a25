"""Asking a model for an annotation: what it may get wrong, and what is recorded when it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gristmill.data.annotations import DROPPED_LIMIT, Dropped
from gristmill.data.kinds import Image, content_hash
from gristmill.errors import InvalidOutput, ModelError
from gristmill.llm.ladder import NoJson, parse_answer
from gristmill.llm.outcomes import outcome_of
from gristmill.llm.prompt import Prompt
from gristmill.llm.responses import clean_text
from gristmill.operators.image_questions import shown
from gristmill.operators.operator import Context

OnFailure = Literal["degrade", "fail"]
_DEGRADES = ("invalid_output", "refused", "too_long", "rejected")  # the model's own doing; a lost server is not
_REASON = 600  # characters


def _confidence(value: Any) -> float | None:
    """A number from 0 to 1 as models write it: 0.9, "0.9", 90, "90 %"; None for anything else."""
    try:
        number = float(str(value).strip().removesuffix("%"))
    except ValueError:
        return None
    number = number / 100 if 2 <= number <= 100 else number
    return number if 0 <= number <= 1 else None


Confidence = Annotated[
    float | None, BeforeValidator(_confidence), Field(description="how sure you are, from 0 (a guess) to 1 (certain)")
]


@dataclass(frozen=True, slots=True)
class Given:
    """What came of asking: `value`, or None and the `reason` why it is degraded."""

    value: Any
    reason: str | None = None


async def asked(
    ctx: Context, prompt: Prompt, schema: Any, sample: int, on_failure: OnFailure,
    otherwise: Callable[[str], Any] = lambda text: None,
) -> Given:  # fmt: skip
    """The model's answer, or the reason why there is none that can be used.

    `otherwise` may still read the last text that was no answer. With `on_failure="degrade"` an answer that stays
    useless, a refusal, a filter and a text that is too long become a reason, noted for the outcome "degraded"; with
    "fail" they are raised, and the task may be tried again. Raises what the model raises when it cannot be reached.
    """
    try:
        return Given(await ctx.model.generate(prompt, schema, sample=sample))
    except ModelError as error:
        outcome = outcome_of(error)
        raw = error.raw if isinstance(error, InvalidOutput) else ""
        if raw and (value := otherwise(raw)) is not None:
            ctx.notes["in_prose"] = 1
            return Given(value)
        if on_failure == "fail" or outcome not in _DEGRADES:
            raise
        if outcome == "invalid_output":
            ctx.notes["malformed"] = _malformed(raw)
        reason = clean_text(f"{outcome}: {error.message}")[:_REASON]
        ctx.notes["degraded"] = reason
        return Given(None, reason)


def _malformed(raw: str) -> str:
    """Whether the answer could not be parsed, or says what is not allowed."""
    try:
        parse_answer(raw)
    except NoJson:
        return "parsing"
    return "validity"


async def showing(prompt: Prompt, subject: Any, ctx: Context, longest: int) -> Prompt:
    """The prompt, with the picture when it is about one."""
    return prompt.showing(await shown(subject, ctx, longest)) if isinstance(subject, Image) else prompt


def subject_of(body: Any) -> str:
    """What an annotation says it is about: the content hash, 64 hex digits."""
    return content_hash(body).hex()


def least_sure(scores: Iterable[float | None]) -> float | None:
    """The lowest of the scores that are known; None where none is."""
    return min((score for score in scores if score is not None), default=None)


def left_out(ctx: Context, dropped: list[Dropped]) -> tuple[Dropped, ...]:
    """What an annotation remembers of what was left out; all of it is counted in the notes, by reason."""
    counts: dict[str, int] = {}
    for one in dropped:
        counts[one.reason] = counts.get(one.reason, 0) + 1
    if counts:
        ctx.notes["dropped"] = counts
    return tuple(dropped[:DROPPED_LIMIT])
