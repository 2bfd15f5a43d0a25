"""Cleans the words of training data; the cleaned one is a new record, and the old one stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from gristmill.data.kinds import Chunk, Conversation, Example
from gristmill.operators.clean_rules import DEFAULT_RULES, Rule, clean_text
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import words

Field = Literal["question", "answer", "reasoning", "system"]


@operator("clean", version=1)
def clean(
    example: Example | Conversation,
    ctx: Context,
    rules: tuple[Rule, ...] = DEFAULT_RULES,
    fields: tuple[Field, ...] = ("question", "answer"),
) -> Example | Conversation:
    """The example or conversation with its words cleaned by `rules`; quotes and sources stay as they are.

    `fields` says which words of an example (default: question and answer); of a conversation it is every turn, and what
    was thought in it with "reasoning". An answer that is a label or JSON is never touched. What would be blank after
    cleaning stays. Cleaning again changes nothing. Raises `UsageError` U215 for a rule whose extra is not installed.
    """
    made = revised(example, fields, lambda text: clean_text(text, rules, ctx.language) or text)
    ctx.notes["changed"] = made != example
    return made


def revised(
    record: Example | Conversation, fields: tuple[Field, ...], change: Callable[[str], str]
) -> Example | Conversation:
    """A record of the same kind in which `change` went over the words of `fields`."""
    if isinstance(record, Conversation):
        thinking = "reasoning" in fields
        turns = tuple(
            turn.model_copy(update={
                "content": change(turn.content),
                "reasoning": change(turn.reasoning) if thinking and turn.reasoning else turn.reasoning,
            })
            for turn in record.turns
        )  # fmt: skip
        return record.model_copy(update={"turns": turns})
    chosen = [name for name in fields if getattr(record, name) and not (name == "answer" and record.answer_type)]
    return record.model_copy(update={name: change(getattr(record, name)) for name in chosen})


@operator("clean_with_model", version=1, pool="model", model=True, prompts=("clean",))
async def clean_with_model(chunk: Chunk, ctx: Context, max_shrink: float = 0.5) -> Chunk:
    """The chunk as a model has cleaned it: without headers, footers, page numbers and the marks of a bad scan.

    `max_shrink` (0 to 1, default 0.5) is the share of the words that may go. Where more are gone, or the model gives
    nothing of use, the chunk passes as it was and the outcome is "degraded"; `ctx.notes` holds the sizes. The cleaned
    chunk keeps the place of the old one in the document, but its text is not the document's.

    Raises what else the model raises.
    """
    before = len(words(chunk.text))
    if not before:
        ctx.notes["unasked"] = "there is no word in it"
        return chunk
    prompt = ctx.prompt("clean", passage=chunk.text, headings=" > ".join(chunk.heading_path), language=ctx.language)
    text: str | None = await ctx.model.generate(prompt, str, otherwise=None)
    if text is None:
        return chunk
    after = len(words(text))
    ctx.notes.update(words_before=before, words_after=after)
    if after < before * (1 - max_shrink):
        ctx.notes["degraded"] = f"rejected: {after:,} of {before:,} words are left, max_shrink is {max_shrink}"
        return chunk
    return chunk.model_copy(update={"text": text.strip(), "cleaned": True})
