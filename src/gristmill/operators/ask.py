"""Questions from a chunk, each with the place in the document that answers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel

from gristmill.data.kinds import Chunk, Question
from gristmill.errors import InputError
from gristmill.llm.prompt import Prompt, load_prompt
from gristmill.operators.evidence import locate
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import is_ideograph, question_key

LETTERS_MINIMUM = 40  # fewer hold no fact: a heading, a page number, a row of dots
QUESTION_LIMIT = 500  # characters; more is the passage again, or a model that lost its way


class AskedQuestion(BaseModel):
    """One question as the model gives it. `quote` is what it says it copied; it is looked for before it is believed."""

    question: str
    quote: str | None = None


@operator("ask", version=1, pool="model", model=True, prompts=("ask",))
async def ask(
    chunk: Chunk, ctx: Context, count: int = 0, characters_per_question: int = 240, max_count: int = 10
) -> list[Question]:
    """Questions that the chunk answers.

    `count` is how many; with 0 (default) it is one for each `characters_per_question` (default 240), at least 1 and at
    most `max_count` (default 10). Never more than that are kept. Blank questions, questions over 500 characters and
    repetitions are dropped, and `ctx.notes` counts them. A chunk with fewer than 40 letters is not asked about.

    Raises `InputError` for numbers out of range, and whatever the model raises.
    """
    wanted = how_many(len(chunk.text), count, characters_per_question, max_count)
    if _letters(chunk.text) < LETTERS_MINIMUM:
        ctx.notes["empty"] = f"fewer than {LETTERS_MINIMUM} letters"
        return []
    prompt = _prompt(chunk, wanted, ctx.language)
    asked: list[AskedQuestion] = await ctx.model.generate(prompt, list[AskedQuestion])
    kept, dropped = _choose(asked, wanted)
    questions = [_place(entry, ordinal, chunk) for ordinal, entry in enumerate(kept)]
    quoted = sum(1 for entry in kept if entry.quote)
    placed = sum(1 for question in questions if question.evidence_start is not None)
    ctx.notes.update(_notes(wanted, len(asked), dropped, quoted - placed))
    if not questions:
        ctx.notes["empty"] = "the model gave no question that can be used" if asked else "the model asked nothing"
    return questions


def how_many(characters: int, count: int = 0, characters_per_question: int = 240, max_count: int = 10) -> int:
    """The number of questions to ask about a text of that many characters; see `ask`. Raises `InputError`."""
    if count < 0 or characters_per_question < 1 or max_count < 1:
        raise InputError("ask: count is at least 0, characters_per_question and max_count are at least 1")
    return count or max(1, min(max_count, characters // characters_per_question))


def _prompt(chunk: Chunk, count: int, language: str) -> Prompt:
    template = load_prompt("ask", language)
    offered = {
        "passage": chunk.text,
        "headings": " > ".join(chunk.heading_path),
        "count": str(count),
        "language": language,
    }
    # A prompt of the user's own may leave some of them out.
    return template.render(**{name: offered[name] for name in template.fields if name in offered})


def _choose(asked: Sequence[AskedQuestion], wanted: int) -> tuple[list[AskedQuestion], Counter[str]]:
    kept: list[AskedQuestion] = []
    seen: set[str] = set()
    dropped: Counter[str] = Counter()
    for entry in asked:
        key = question_key(entry.question)
        if not any(character.isalnum() for character in key):
            dropped["blank"] += 1
        elif len(entry.question.strip()) > QUESTION_LIMIT:
            dropped["too_long"] += 1
        elif key in seen:
            dropped["repeated"] += 1
        elif len(kept) >= wanted:
            dropped["surplus"] += 1
        else:
            seen.add(key)
            kept.append(entry)
    return kept, dropped


def _place(entry: AskedQuestion, ordinal: int, chunk: Chunk) -> Question:
    found = locate(entry.quote, chunk.text) if entry.quote else None
    start, end = (chunk.start + found[0], chunk.start + found[1]) if found else (None, None)
    return Question(text=entry.question.strip(), ordinal=ordinal, evidence_start=start, evidence_end=end)


def _notes(wanted: int, returned: int, dropped: Counter[str], unplaced: int) -> dict[str, object]:
    notes: dict[str, object] = {"asked": wanted, "returned": returned}
    if dropped:
        notes["dropped"] = dict(dropped)
    if unplaced:
        notes["quotes_not_found"] = unplaced
    return notes


def _letters(text: str) -> int:
    """Letters; an ideograph is as much as two, since it stands for most of a word."""
    return sum(2 if is_ideograph(character) else 1 for character in text if character.isalpha())
