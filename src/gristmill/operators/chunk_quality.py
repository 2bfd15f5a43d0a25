"""Marks chunks that nobody should be asked about. Nothing is deleted, and what is fit goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from gristmill.data.kinds import Chunk, Duplicate, Rejection
from gristmill.operators.filters import Share, special_share
from gristmill.operators.formulas import fences, unbalanced
from gristmill.operators.operator import Context, Derived, operator
from gristmill.operators.wording import fold

Rule = Literal["heading_only", "too_short", "symbols", "unbalanced", "duplicate"]
RULES: tuple[Rule, ...] = ("heading_only", "too_short", "symbols", "unbalanced", "duplicate")
_HEADING = re.compile(r" {0,3}(?:#{1,6}(?:\s.*)?|=+\s*|-+\s*)")  # with the line below one that is underlined
_UNDERLINED = re.compile(r"[^\n]+\n {0,3}(?:=+|-+)[ \t]*(?=\n|\Z)")


@operator("chunk_quality", version=1, barrier=True)
def chunk_quality(
    chunks: list[Chunk],
    ctx: Context,
    rules: tuple[Rule, ...] = RULES,
    min_characters: Annotated[int, Field(ge=0)] = 40,
    max_special: Share = 0.5,
) -> list[Derived[Chunk | Rejection | Duplicate]]:
    """Passes on the chunks that are fit, and makes marks for the others, which go no further on this way.

    `rules` (default: all) are "heading_only" (nothing but headings), "too_short" (under `min_characters`, 40),
    "symbols" (over `max_special`, 0.5, of the characters outside of code are no letter, digit or space), "unbalanced"
    (a code fence or a formula that begins or ends elsewhere) and "duplicate" (the text of an earlier chunk again, but
    for case, spacing and typography; the mark's second parent is the earlier one; chunks that are equal in place and
    all are one piece of work anyway, and not marked). The first three make one mark, the
    first that fits. With `per="item"` the chunks of a document are looked at as soon as it is split, and duplicates are
    those within it; otherwise all documents have to be split first. `ctx.notes` counts the marks by rule.
    """
    made: list[Derived[Chunk | Rejection | Duplicate]] = []
    counts: dict[str, int] = dict.fromkeys(rules, 0)
    first: dict[str, int] = {}
    for at, chunk in enumerate(chunks):
        marks = list(_broken(chunk, rules, min_characters, max_special))
        kept = first.setdefault(fold(chunk.text), at)
        # Equal in place and all (of two documents): what comes of them is shared, and there once; no mark may hide it
        if "duplicate" in rules and chunk != chunks[kept]:
            made.append(Derived(Duplicate(similarity=1.0, method="exact"), (at, kept)))
            counts["duplicate"] += 1
        elif not marks:
            made.append(Derived(chunk, (at,)))
        for mark in marks:
            made.append(Derived(mark, (at,)))
            counts[mark.rule] += 1
    ctx.notes.update(chunks=len(chunks), marked={rule: count for rule, count in counts.items() if count})
    return made


def _broken(chunk: Chunk, rules: tuple[Rule, ...], least: int, most: float) -> Iterator[Rejection]:
    text = chunk.text.strip()
    signs = special_share(_without_code(text))
    if "heading_only" in rules and only_headings(chunk):
        yield Rejection(rule="heading_only", reason="there is nothing in it but headings")
    elif "too_short" in rules and len(text) < least:
        yield Rejection(rule="too_short", reason=f"{len(text):,} characters, under {least:,}", value=len(text))
    elif "symbols" in rules and signs > most:
        yield Rejection(
            rule="symbols", reason=f"{signs:.0%} of it are no letters, digits or spaces", value=round(signs, 4)
        )
    if "unbalanced" in rules and (what := unbalanced(chunk.text)):
        yield Rejection(rule="unbalanced", reason=f"{what} in it begins or ends outside of it")


def only_headings(chunk: Chunk) -> bool:
    """Whether every line is a heading, by its marks or because the document's outline has it."""
    titles = {fold(title) for title in chunk.heading_path}
    rest = _UNDERLINED.sub("", chunk.text)
    lines = [line for line in rest.splitlines() if line.strip()]
    return all(_HEADING.fullmatch(line) or fold(line) in titles for line in lines)


def _without_code(text: str) -> str:
    parts: list[str] = []
    at = 0
    for start, end in fences(text)[0]:
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])
