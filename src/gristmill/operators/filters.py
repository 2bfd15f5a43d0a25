"""Marks examples, and chunks, that are of no use. Nothing is deleted: an export leaves out what is marked."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Annotated, cast

from pydantic import AfterValidator, Field

from gristmill.data.kinds import Chunk, Conversation, Example, Rejection
from gristmill.errors import UsageError
from gristmill.operators.anonymize import check_pattern
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import words

Share = Annotated[float, Field(ge=0, le=1)]
Pattern = Annotated[str, AfterValidator(check_pattern)]
CHARACTER_GRAM, WORD_GRAM = 10, 5  # how long a piece is that counts as repeated
LANGUAGE_MINIMUM = 20  # letters; about fewer nobody can say which language they are


@operator("filter_examples", version=1, isolate=True, timeout=60)
def filter_examples(
    example: Example | Conversation,
    ctx: Context,
    min_characters: Annotated[int, Field(ge=0)] = 10,
    max_characters: Annotated[int, Field(ge=1)] = 100_000,
    max_special: Share = 0.3,
    max_repeated_characters: Share = 0.5,
    max_repeated_words: Share = 0.5,
    language: str = "",
    must_match: Pattern = "",
    must_not_match: Pattern = "",
) -> list[Rejection]:
    """A mark for each rule that the example or conversation breaks; none for one that is fit.

    Looked at are question and answer together, or all turns. `min_characters` and `max_characters` (default 10 and
    100,000) bound their length, `max_special` (0.3) the share of characters that are no letter, digit or space,
    `max_repeated_characters` (0.5) and `max_repeated_words` (0.5) the share of pieces of 10 characters and of 5 words
    that occur more than once. `language` ("" for any) is an ISO 639-1 code; it needs the extra "quality", and texts of
    under 20 letters pass. `must_match` and `must_not_match` are regular expressions that are searched for.

    Raises `UsageError` U215 for `language` without the extra.
    """
    structured = isinstance(example, Example) and example.answer_type == "json"  # full of signs, and rightly so
    marks = _broken(
        text_of(example), (min_characters, max_characters), 1.0 if structured else max_special,
        (max_repeated_characters, max_repeated_words), language, (must_match, must_not_match),
    )  # fmt: skip
    ctx.notes["broken"] = [mark.rule for mark in marks]
    return marks


@operator("filter_chunks", version=1, isolate=True, timeout=60)
def filter_chunks(
    chunk: Chunk,
    ctx: Context,
    min_characters: Annotated[int, Field(ge=0)] = 40,
    max_characters: Annotated[int, Field(ge=1)] = 200_000,
    max_special: Share = 0.5,
    max_repeated_characters: Share = 0.5,
    max_repeated_words: Share = 0.5,
    language: str = "",
    must_match: Pattern = "",
    must_not_match: Pattern = "",
) -> list[Chunk | Rejection]:
    """The chunk itself when it is fit; otherwise a mark for each rule that it breaks, and the chunk goes no further.

    The options are those of `filter_examples`, with defaults for passages: 40 to 200,000 characters, and half of them
    may be signs. What follows this step is asked about fit chunks only.

    Raises `UsageError` U215 for `language` without the extra.
    """
    marks = _broken(
        chunk.text, (min_characters, max_characters), max_special, (max_repeated_characters, max_repeated_words),
        language, (must_match, must_not_match),
    )  # fmt: skip
    ctx.notes["broken"] = [mark.rule for mark in marks]
    return [*marks] or [chunk]


def _broken(
    text: str, length: tuple[int, int], max_special: float, max_repeated: tuple[float, float], language: str,
    patterns: tuple[str, str],
) -> list[Rejection]:  # fmt: skip
    """A mark for each rule that the text breaks; the pairs are least and most, characters and words, must and not."""
    checks: list[tuple[str, str, float | None]] = []

    def check(rule: str, broken: bool, reason: str, value: float | None = None) -> None:
        if broken:
            checks.append((rule, reason, None if value is None else round(value, 4)))

    size, (least, most), (must_match, must_not_match) = len(text), length, patterns
    check("min_characters", size < least, f"{size:,} characters, under {least:,}", size)
    check("max_characters", size > most, f"{size:,} characters, over {most:,}", size)
    special = special_share(text)
    check("max_special", special > max_special, f"{special:.0%} of it are no letters, digits or spaces", special)
    pieces = repeated_share(text, CHARACTER_GRAM)
    check("max_repeated_characters", pieces > max_repeated[0], f"{pieces:.0%} of it are repetitions", pieces)
    told = repeated_share(words(text), WORD_GRAM)
    check("max_repeated_words", told > max_repeated[1], f"{told:.0%} of its words are repetitions", told)
    if language:
        found = language_of(text)
        check("language", found not in ("", language.split("-")[0].lower()), f'it is "{found}", not "{language}"')
    if must_match:
        check("must_match", not re.search(must_match, text), f"nothing in it matches {must_match}")
    if must_not_match:
        found_at = re.search(must_not_match, text)
        check("must_not_match", found_at is not None, f"it matches {must_not_match}")
    return [Rejection(rule=rule, reason=reason, value=value) for rule, reason, value in checks]


def text_of(record: Example | Conversation) -> str:
    """Its words, one part a line."""
    if isinstance(record, Conversation):
        return "\n".join(turn.content for turn in record.turns)
    return f"{record.question}\n{record.answer}"


def special_share(text: str) -> float:
    """The share (0 to 1) of characters that are no letter, digit, accent or white space."""
    special = sum(
        1 for one in text if not (one.isalnum() or one.isspace() or unicodedata.category(one).startswith("M"))
    )
    return special / len(text) if text else 0.0


def repeated_share(parts: Sequence[Hashable], length: int) -> float:
    """The share (0 to 1) of pieces of that many parts that occur more than once."""
    counted = Counter(_grams(parts, length))
    total = sum(counted.values())
    return sum(count for count in counted.values() if count > 1) / total if total else 0.0


def _grams(parts: Sequence[Hashable], length: int) -> Iterator[Hashable]:
    for start in range(len(parts) - length + 1):
        piece = parts[start : start + length]
        yield piece if isinstance(piece, str) else tuple(piece)


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language of a text; "" when it is too short to say. Raises `UsageError` U215."""
    letters = sum(map(str.isalpha, text))
    wide = any("\u3040" <= one <= "\u9fff" or "\uac00" <= one <= "\ud7af" for one in text)
    if letters < (LANGUAGE_MINIMUM // 3 if wide else LANGUAGE_MINIMUM):
        return ""
    return str(_classify()(text[:5_000])[0])


@cache
def _classify() -> Callable[[str], tuple[str, float]]:
    try:
        import py3langid  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(
            "telling languages needs py3langid", code="U215", hint='pip install "gristmill[quality]"'
        ) from None
    return cast(Callable[[str], tuple[str, float]], py3langid.classify)
