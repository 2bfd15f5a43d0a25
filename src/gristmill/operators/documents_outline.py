"""The structure of a Markdown text: its headings and blocks, as ranges of code points.

The parser knows lines, not characters, so a table of line starts turns one into the other. Only LF ends a line here;
`documents_extract.storable` has seen to it that there is no other line end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gristmill.data.kinds import Heading
from gristmill.operators.clean_spans import Guard
from gristmill.operators.formulas import formulas

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
PROTECTED = ("fence", "code_block", "table_open")
TABLE_LINE = re.compile(r"^[ \t]*\|.*\|[ \t]*$")


@dataclass(frozen=True, slots=True)
class Block:
    """A range of whole lines, but for the indent of a formula. `protected` marks tables, code and formulas, which lose
    their meaning when they are cut. A formula within a line is a part of its block."""

    start: int
    end: int
    protected: bool = False


@cache
def _parser() -> MarkdownIt:
    # "inline" off: emphasis and links are parsed for headings only, which is most of the cost saved
    return MarkdownIt("commonmark").enable("table").disable("inline")


@cache
def _inline_parser() -> MarkdownIt:
    return MarkdownIt("commonmark")


def outline(text: str) -> tuple[Heading, ...]:
    """The headings outside of code, quotes and lists, in order."""
    starts = line_starts(text)
    skipped, tokens = _tokens(text)
    found: list[Heading] = []
    for position, token in enumerate(tokens):
        if token.type != "heading_open" or token.level != 0 or token.map is None:
            continue
        title = _plain(tokens[position + 1].content)
        if title:
            found.append(Heading(level=int(token.tag[1]), title=title, start=starts[token.map[0] + skipped]))
    return tuple(found)


def front_title(text: str) -> str | None:
    """The title that a YAML block at the very top gives."""
    matter = FRONT_MATTER.match(text)
    line = FRONT_TITLE.search(matter.group(1) or "") if matter else None
    return line.group(1).strip("\"'") or None if line else None


def blocks(text: str) -> tuple[list[Block], list[tuple[int, int]]]:
    """The whole text as consecutive blocks: paragraphs, headings, lists, and tables, code and formulas wherever they
    stand; and the ranges of all formulas."""
    starts = line_starts(text)
    skipped, tokens = _tokens(text)
    edges = {0, len(text)}
    kept: list[tuple[int, int]] = []
    for token in tokens:
        if token.map is None:
            continue
        first, last = (starts[min(line + skipped, len(starts) - 1)] for line in token.map)
        if token.level == 0:
            edges.add(first)
        if _is_protected(token) and (not kept or first >= kept[-1][1]):
            kept.append((first, last))
    found = formulas(text, kept)
    return _cut(*_with_formulas(text, edges, kept, found)), found


def _with_formulas(
    text: str, edges: set[int], kept: list[tuple[int, int]], found: list[tuple[int, int]]
) -> tuple[set[int], list[tuple[int, int]]]:
    """No edge within a formula; those that have their lines to themselves are kept like tables."""
    inside = Guard([(start + 1, end) for start, end in found])
    whole = list(kept)
    for start, end in found:
        last = text.find("\n", end) + 1 or len(text)
        if not text[text.rfind("\n", 0, start) + 1 : start].strip() and not text[end:last].strip():
            whole.append((start, last))
    return {edge for edge in edges if not inside.touches(edge, edge + 1)}, whole


def _cut(edges: set[int], kept: list[tuple[int, int]]) -> list[Block]:
    marks = sorted(edges | {edge for pair in kept for edge in pair})
    protected = {first for first, _ in kept}
    return [Block(first, last, first in protected) for first, last in itertools.pairwise(marks)]


def line_starts(text: str) -> list[int]:
    """The offset of every line, and the end of the text as the last entry."""
    starts = [0]
    position = text.find("\n")
    while position != -1:
        starts.append(position + 1)
        position = text.find("\n", position + 1)
    if starts[-1] != len(text):
        starts.append(len(text))
    return starts


def compact_tables(markdown: str) -> str:
    """Takes the padding out of tables: columns aligned with blanks make a table several times as long."""
    lines = markdown.split("\n")
    fence = ""
    for number, line in enumerate(lines):
        mark = re.match(r"[ \t]*(`{3,}|~{3,})", line)
        if fence:
            if mark and mark.group(1).startswith(fence) and not line.strip(" \t`~"):
                fence = ""
        elif mark:
            fence = mark.group(1)
        elif TABLE_LINE.match(line):
            lines[number] = re.sub(r"(?<=[|:\s])-{3,}(?=[|:\s])", "---", re.sub(r"[ \t]{2,}", " ", line))
    return "\n".join(lines)


def table(rows: Iterable[Iterable[str]]) -> str:
    """Rows as a Markdown table, the first one as its head."""
    lines: list[str] = []
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
        if len(lines) == 1:
            lines.append(f"|{' --- |' * len(cells)}")
    return "\n".join(lines)


def _tokens(text: str) -> tuple[int, list[Token]]:
    """The tokens, and how many lines of front matter were skipped (they would be read as a rule and a heading)."""
    matter = FRONT_MATTER.match(text)
    if matter is None:
        return 0, _parser().parse(text)
    return matter.group().count("\n"), _parser().parse(text[matter.end() :])


def _is_protected(token: Token) -> bool:
    if token.type == "html_block":
        return token.content.lstrip()[:6].lower().startswith(("<table", "<pre"))
    return token.type in PROTECTED


def _plain(inline: str) -> str:
    """A heading's words without the marks of emphasis, links and code."""
    words: list[str] = []
    for token in _inline_parser().parseInline(inline):
        for child in token.children or ():
            if child.type in ("text", "code_inline", "image", "text_special"):
                words.append(child.content)
            elif child.type in ("softbreak", "hardbreak"):
                words.append(" ")
    return " ".join("".join(words).split())
