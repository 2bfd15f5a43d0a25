"""Questions from a chunk, each with the place in the document that answers it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Chunk, GaPair, Question
from gristmill.errors import InputError
from gristmill.llm.prompt import Prompt
from gristmill.operators.evidence import locate
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import is_ideograph, question_key
from gristmill.operators.wording_close import Asked

LETTERS_MINIMUM = 40  # fewer hold no fact: a heading, a page number, a row of dots
QUESTION_LIMIT = 500  # characters; more is the passage again, or a model that lost its way


class AskedQuestion(BaseModel):
    """One question as the model gives it. `quote` is what it says it copied; it is looked for before it is believed."""

    question: str
    quote: str | None = None


# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Share = TypeAliasType("Share", Annotated[float, Field(ge=0, le=1)])
Similarity = TypeAliasType("Similarity", Annotated[float, Field(ge=0.5, le=1)])


@operator("ask", version=2, pool="model", model=True, prompts=("ask", "ask_audience"))
async def ask(
    chunk: Chunk, ctx: Context, pairs: list[GaPair],
    count: int = 0, characters_per_question: int = 240, max_count: int = 10, ga: Literal["all", "none"] = "all",
    avoid_existing: bool = True, near_duplicates: Similarity = 0.9, strip_question_mark: Share = 0.0,
    prompt: str | None = None,
) -> list[Question]:  # fmt: skip
    """Questions that the chunk answers.

    `count` is how many; with 0 (default) it is one for each `characters_per_question` (default 240), at least 1 and at
    most `max_count` (default 10). Never more than that are kept. Blank questions, questions over 500 characters and
    those at least as similar as `near_duplicates` (default 0.9; as `dedup` sees it) are dropped, and `ctx.notes` counts
    them. A chunk with fewer than 40 letters is not asked about.

    Where genre-audience pairs stand above the chunk (`pair_chunks`), it is asked about once for each of them, `count`
    questions each; `ga="none"` leaves them aside. With `avoid_existing` (default) the model is shown what was asked for
    the pairs before, and what repeats that is dropped. `strip_question_mark` is the share of questions (default 0) that
    lose their question mark: always the same ones. `prompt` names a prompt of the project that stands in for ours.

    Raises `InputError` for numbers out of range, and whatever the model raises.
    """
    wanted = how_many(len(chunk.text), count, characters_per_question, max_count)
    if _letters(chunk.text) < LETTERS_MINIMUM:
        ctx.notes["empty"] = f"fewer than {LETTERS_MINIMUM} letters"
        return []
    known = Asked(near_duplicates, ctx.language)
    kept: list[tuple[AskedQuestion, GaPair | None]] = []
    dropped: Counter[str] = Counter()
    returned = 0
    used = sorted(pairs, key=lambda pair: pair.ordinal) if ga == "all" else []
    audiences: list[GaPair | None] = [*used] or [None]
    for pair in audiences:
        if not avoid_existing:
            known = Asked(near_duplicates, ctx.language)
        filled = _prompt(prompt, chunk, wanted, pair, known.texts, ctx)
        asked: list[AskedQuestion] = await ctx.model.generate(filled, list[AskedQuestion])
        returned += len(asked)
        kept += [(entry, pair) for entry in _choose(asked, wanted, known, dropped)]
    questions = [_place(entry, ordinal, chunk, pair) for ordinal, (entry, pair) in enumerate(kept)]
    quoted = sum(1 for entry, _ in kept if entry.quote)
    placed = sum(1 for question in questions if question.evidence_start is not None)
    ctx.notes.update(_notes(wanted * len(audiences), returned, dropped, quoted - placed))
    if not questions:
        ctx.notes["empty"] = "the model gave no question that can be used" if returned else "the model asked nothing"
    return [without_mark(question, strip_question_mark) for question in questions]


def how_many(characters: int, count: int = 0, characters_per_question: int = 240, max_count: int = 10) -> int:
    """The number of questions to ask about a text of that many characters; see `ask`. Raises `InputError`."""
    if count < 0 or characters_per_question < 1 or max_count < 1:
        raise InputError("ask: count is at least 0, characters_per_question and max_count are at least 1")
    return count or max(1, min(max_count, characters // characters_per_question))


def without_mark(question: Question, share: float) -> Question:
    """The question, without its question mark when it is of that share of all questions: its words decide."""
    text = question.text.rstrip("?？ ")
    place = int.from_bytes(hashlib.sha256(question_key(question.text).encode()).digest()[:4]) / 2**32
    return question.model_copy(update={"text": text}) if place < share and text else question


def _prompt(
    own: str | None, chunk: Chunk, count: int, pair: GaPair | None, known: Sequence[str], ctx: Context
) -> Prompt:
    audience = {} if pair is None else pair.model_dump(exclude={"ordinal"})
    blank = dict.fromkeys(("genre", "genre_description", "audience", "audience_description"), "")
    return ctx.prompt(
        own or ("ask" if pair is None else "ask_audience"), passage=chunk.text, count=str(count),
        headings=" > ".join(chunk.heading_path), language=ctx.language,
        avoid="\n".join(f"- {text}" for text in known) or "-", **{**blank, **audience},
    )  # fmt: skip


def _choose(asked: Sequence[AskedQuestion], wanted: int, known: Asked, dropped: Counter[str]) -> list[AskedQuestion]:
    """What can be used, at most `wanted`; it is known from now on."""
    kept: list[AskedQuestion] = []
    for entry in asked:
        key = question_key(entry.question)
        if not any(character.isalnum() for character in key):
            dropped["blank"] += 1
        elif len(entry.question.strip()) > QUESTION_LIMIT:
            dropped["too_long"] += 1
        elif known.has(entry.question):
            dropped["repeated"] += 1
        elif len(kept) >= wanted:
            dropped["surplus"] += 1
        else:
            known.add(entry.question)
            kept.append(entry)
    return kept


def _place(entry: AskedQuestion, ordinal: int, chunk: Chunk, pair: GaPair | None) -> Question:
    found = locate(entry.quote, chunk.text) if entry.quote else None
    start, end = chunk.place(*found) if found else (None, None)
    return Question(
        text=entry.question.strip(), ordinal=ordinal, evidence_start=start, evidence_end=end,
        genre=pair.genre if pair else None, audience=pair.audience if pair else None,
    )  # fmt: skip


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
