"""Examination questions from a chunk, of five types, in exact shares."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from math import lcm
from string import ascii_uppercase
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, model_validator

from gristmill.data.kinds import Chunk, Document, TestItem
from gristmill.operators.ask import LETTERS_MINIMUM
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import fold, question_key

Type = Literal["true_false", "single_choice", "multiple_choice", "short_answer", "open"]
TYPES: tuple[Type, ...] = get_args(Type)
EVEN: dict[Type, float] = dict.fromkeys(TYPES, 1.0)
_OPTIONS = {"single_choice": (4, 4), "multiple_choice": (4, 6)}
_LETTER_IN_FRONT = re.compile(r"^\s*\(?([A-Ha-h])[.):]\s+")


class AskedItem(BaseModel):
    """One item as the model gives it. One that is no item of its type is refused, and asked for again."""

    type: Type
    question: str = Field(min_length=1)
    options: list[str] = Field(default_factory=list)
    correct: list[str] = Field(min_length=1)
    explanation: str | None = None

    @model_validator(mode="after")
    def _check(self) -> AskedItem:
        self.question = self.question.strip()
        self.correct = [one.strip() for one in self.correct if one.strip()]
        if not self.question or not self.correct:
            raise ValueError("question and correct are not blank")
        if self.type in _OPTIONS:
            self._check_choice()
        elif self.options:
            raise ValueError(f"a {self.type} has no options")
        elif self.type == "true_false":
            self.correct = [one.lower() for one in self.correct]
            if self.correct not in (["true"], ["false"]):
                raise ValueError('correct of a true_false is ["true"] or ["false"]')
        elif self.type == "open" and len(self.correct) != 1:
            raise ValueError("correct of an open question is one model answer")
        return self

    def _check_choice(self) -> None:
        least, most = _OPTIONS[self.type]
        lettered = [_LETTER_IN_FRONT.match(option) for option in self.options]
        if all(found and found[1].upper() == ascii_uppercase[n] for n, found in enumerate(lettered)):
            self.options = [_LETTER_IN_FRONT.sub("", option) for option in self.options]
        self.options = [option.strip() for option in self.options]
        if not least <= len(self.options) <= most:
            raise ValueError(f"a {self.type} has {least if least == most else f'{least} to {most}'} options")
        if not all(self.options) or len({fold(option) for option in self.options}) < len(self.options):
            raise ValueError("options are not blank, and no two are the same")
        letters = list(ascii_uppercase[: len(self.options)])
        self.correct = sorted({one.rstrip(".)").upper() for one in self.correct})
        if any(one not in letters for one in self.correct):
            raise ValueError(f"correct names letters from A to {letters[-1]}")
        if self.type == "single_choice" and len(self.correct) != 1:
            raise ValueError("a single_choice has exactly one right option")
        if self.type == "multiple_choice" and not 2 <= len(self.correct) < len(letters):
            raise ValueError("a multiple_choice has at least two right options and a wrong one")


def _check_ratios(ratios: dict[Type, float]) -> dict[Type, float]:
    if not any(ratios.values()):
        raise ValueError("at least one type has a ratio above 0")
    return ratios


Ratio = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Ratios = Annotated[dict[Type, Ratio], AfterValidator(_check_ratios)]


@operator("test_items", version=1, pool="model", model=True, prompts=("test_items",))
async def test_items(
    chunk: Chunk,
    document: Document | None,
    ctx: Context,
    count: Annotated[int, Field(ge=0, le=50)] = 0,
    characters_per_item: Annotated[int, Field(ge=50)] = 600,
    max_count: Annotated[int, Field(ge=1, le=50)] = 10,
    ratios: Ratios = EVEN,
    seed: int = 0,
) -> list[TestItem]:
    """Test items that the chunk answers: true_false, single_choice, multiple_choice, short_answer and open.

    `count` is how many; with 0 (default) one for each `characters_per_item` (default 600), at least 1 and at most
    `max_count` (default 10). `ratios` gives each type its share (default: equal; a type that is left out has none).
    Nothing is drawn by lot: over the chunks of a document each type gets its share, to within one item. `seed` moves
    where a document begins, and mixes the options of choices, so that no letter is right more often than another.

    Items too many of a type and repeated questions are dropped, what is missing is counted in `ctx.notes`. A chunk with
    fewer than 40 letters is not asked about. An item that is none of its type is asked for again; raises
    `InvalidOutput` when it stays so, and what else the model raises.
    """
    if sum(map(str.isalpha, chunk.text)) < LETTERS_MINIMUM:
        ctx.notes["empty"] = f"fewer than {LETTERS_MINIMUM} letters"
        return []
    wanted = count or max(1, min(max_count, len(chunk.text) // characters_per_item))
    before = chunk.ordinal * count if count else chunk.start // characters_per_item
    begin = seed + (int(document.text_blob[:6], 16) if document else 0)
    quota = share_out(wanted, ratios, begin + before)
    counts = "\n".join(f"- {name}: {number}" for name, number in quota.items())
    prompt = ctx.prompt(
        "test_items", passage=chunk.text, counts=counts, headings=" > ".join(chunk.heading_path), language=ctx.language
    )
    asked: list[AskedItem] = await ctx.model.generate(prompt, list[AskedItem])
    kept = _choose(asked, quota)
    missing = Counter(quota) - Counter(item.type for item in kept)
    ctx.notes.update(asked=wanted, returned=len(asked), **({"missing": dict(missing)} if missing else {}))
    if not kept:
        ctx.notes["empty"] = "the model gave no item that was asked for"
    return [_item(entry, seed) for entry in kept]


def share_out(count: int, ratios: Mapping[Type, float], start: int = 0) -> dict[Type, int]:
    """How many items of each type the places from `start` on get; types that get none are left out.

    Each place goes to the type whose share has the largest remainder, so any stretch of places has the shares of
    `ratios` to within one item or so.
    """
    cycle = _cycle(tuple((name, Fraction(ratios.get(name, 0)).limit_denominator(100)) for name in TYPES))
    counted = Counter(cycle[(start + place) % len(cycle)] for place in range(count))
    return {name: counted[name] for name in TYPES if counted[name]}


@lru_cache(maxsize=32)
def _cycle(ratios: tuple[tuple[Type, Fraction], ...]) -> tuple[Type, ...]:
    """The order in which types take their turns, until it starts again (at most 5,000 places)."""
    whole = sum((ratio for _, ratio in ratios), Fraction(0))
    shares = {name: (ratio / whole).limit_denominator(1_000) for name, ratio in ratios if ratio}
    length = min(lcm(*(share.denominator for share in shares.values())), 5_000)
    owed = dict.fromkeys(shares, Fraction(0))
    order: list[Type] = []
    for _ in range(length):
        for name, share in shares.items():
            owed[name] += share
        chosen = max(owed, key=lambda name: owed[name])  # the first of equals, in the order of TYPES
        owed[chosen] -= 1
        order.append(chosen)
    return tuple(order)


def _choose(asked: Sequence[AskedItem], quota: Mapping[Type, int]) -> list[AskedItem]:
    seen: set[str] = set()
    by_type: dict[str, list[AskedItem]] = {name: [] for name in quota}
    for entry in asked:
        key = question_key(entry.question)
        if key not in seen and entry.type in by_type:
            seen.add(key)
            by_type[entry.type].append(entry)
    return [entry for name, number in quota.items() for entry in islice(by_type[name], number)]


def _item(entry: AskedItem, seed: int) -> TestItem:
    options, correct = list(entry.options), list(entry.correct)
    if options:
        digest = hashlib.sha256(f"{seed}\n{entry.question}".encode()).digest()
        order = random.Random(digest).sample(range(len(options)), len(options))
        right = {ascii_uppercase.index(letter) for letter in correct}
        correct = [ascii_uppercase[new] for new, old in enumerate(order) if old in right]
        options = [options[old] for old in order]
    return TestItem(
        question=entry.question, type=entry.type, options=tuple(options), correct=tuple(correct),
        explanation=(entry.explanation or "").strip() or None,
    )  # fmt: skip
