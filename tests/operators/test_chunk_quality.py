"""Marks for chunks, and that what is marked goes no further."""

from __future__ import annotations

import pytest

from gristmill.data.kinds import Chunk, Duplicate, Rejection
from gristmill.operators import chunk_quality, filter_chunks
from gristmill.operators.chunk_quality import chunk_quality as looked_at
from gristmill.operators.operator import Context, Derived
from gristmill.testing import perform

GOOD = "The feed pump runs at 40 bar and must never run dry, whatever the valve does."
CODE = "Before it there is a sentence.\n\n```python\nif x:\n    $$ = {}\n```\n\nAnd one behind it."
FORMULA = "The sum of both sides is known:\n\n$$\na^2 + b^2 = c^2\n$$\n\n\\[ x \\\\[2pt] y \\] as well."


async def broken(text: str, *path: str, **options: object) -> list[str]:
    made = await perform(chunk_quality.using(**options), Chunk(text=text, heading_path=path))
    assert all(mark.reason for mark in made if isinstance(mark, Rejection))
    return [mark.rule for mark in made if isinstance(mark, Rejection)]


@pytest.mark.parametrize("text", [GOOD, CODE, FORMULA, "# Pumps\n\n" + GOOD, "磨坊把谷物磨成面粉，" * 5])
async def test_a_good_chunk_passes_as_it_is(text: str) -> None:
    chunk = Chunk(text=text, heading_path=("Pumps",), start=7, end=7 + len(text))
    assert await perform(chunk_quality, chunk) == [chunk]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("# Pumps\n\n## The feed pump and all that belongs to it", "heading_only"),
        ("The feed pump and all that belongs to it\n===\n", "heading_only"),
        ("Chapter 3: of pumps and valves and tanks", "heading_only"),
        ("See page 7.", "too_short"),
        ("....... ___ |||| ---- *** .... 12 .......... ##", "symbols"),
        (GOOD + "\n\n```python\nx = 1\n", "unbalanced"),
        ("x = 1\n```\n\n" + GOOD, "unbalanced"),
        (GOOD + "\n\n$$\na + b", "unbalanced"),
        ("a + b\n\\]\n\n" + GOOD, "unbalanced"),
        (GOOD + "\n\\begin{align}\na &= b", "unbalanced"),
    ],
)
async def test_each_rule_marks_a_chunk_that_nobody_should_be_asked_about(text: str, rule: str) -> None:
    path = ("Chapter 3: of pumps and valves and tanks",)
    assert await broken(text, *path) == [rule]
    others = [name for name in ("heading_only", "too_short", "symbols", "unbalanced", "duplicate") if name != rule]
    chunk = Chunk(text=text, heading_path=path)
    assert chunk in await perform(chunk_quality.using(rules=others, min_characters=0, max_special=1), chunk)


async def test_a_chunk_that_repeats_an_earlier_one_points_at_it() -> None:
    chunks = [Chunk(text=text, ordinal=at) for at, text in enumerate([GOOD, GOOD + " Twice.", GOOD.upper() + "\n"])]
    chunks.append(chunks[1])  # of another document, equal in place and all: shared work, which no mark may hide
    ctx = Context(blobs=None)  # type: ignore[arg-type]
    assert looked_at(chunks, ctx) == [
        Derived(chunks[0], (0,)), Derived(chunks[1], (1,)), Derived(Duplicate(similarity=1.0, method="exact"), (2, 0)),
        Derived(chunks[1], (3,)),
    ]  # fmt: skip
    assert ctx.notes == {"chunks": 4, "marked": {"duplicate": 1}}


async def test_a_chunk_is_filtered_by_the_rules_for_examples() -> None:
    good = Chunk(text=GOOD)

    async def rules(text: str, **options: object) -> list[str]:
        made = await perform(filter_chunks.using(**options), Chunk(text=text))
        return [one.rule if isinstance(one, Rejection) else "fit" for one in made]

    assert await perform(filter_chunks, good) == [good]
    assert await rules("Too short.") == ["min_characters"]
    assert await rules(GOOD, max_characters=20, must_match="tank") == ["max_characters", "must_match"]
    assert await rules("#### $$$$ %%%% |||| **** ((( ))) [[[[ ]]]] and") == ["max_special"]
    assert await rules("the pump is a pump and " * 20) == ["max_repeated_characters", "max_repeated_words"]
    assert await rules(GOOD, language="zh") == ["language"]
    assert await rules(GOOD, must_not_match="valve") == ["must_not_match"]
