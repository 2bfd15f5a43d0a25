"""Cutting at marks, the coarsest first: paragraphs, then lines, then sentences, then words; functions, then blocks.

A piece that fits is left alone; one that does not is cut at the next finer mark, and where no mark is left, between
what a reader sees as two characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from gristmill.operators.split_ruler import Ruler

Range = tuple[int, int]
SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n")
SPACE = re.compile(r"\s+")
ENDS = ".!?…。！？;；,，:：)]}”"  # a separator that begins so belongs to what is before it


@dataclass(frozen=True, slots=True)
class Mark:
    """Where to cut: before what the pattern finds, or after it."""

    pattern: re.Pattern[str]
    after: bool = False


LINE = Mark(re.compile(r"\n"), after=True)
BLANK_LINE = Mark(re.compile(r"\n(?:[ \t]*\n)+"), after=True)
WORD = Mark(SPACE, after=True)
PROSE = (BLANK_LINE, LINE, Mark(SENTENCE, after=True), WORD)

_TYPES = r"(?:class|interface|enum|struct|trait|record|object|namespace|module|union)\b"
_SCOPE = r"(?:(?:export|default|public|private|protected|internal|static|abstract|final|async|pub(?:\([^)\n]*\))?|unsafe|open|data|sealed|partial)\s+)*"  # noqa: E501
_PATTERNS: dict[str, tuple[str, ...]] = {
    "python": (r"^(?:@\w|class\b|def\b|async def\b)", r"^[ \t]+(?:@\w|class\b|def\b|async def\b)"),
    "javascript": (rf"^{_SCOPE}(?:function\b|{_TYPES})", r"^(?:export\b|const\b|let\b|var\b)"),
    "typescript": (rf"^{_SCOPE}(?:function\b|type\b|{_TYPES})", r"^(?:export\b|const\b|let\b|var\b)"),
    "java": (rf"^{_SCOPE}{_TYPES}", r"^[ \t]+(?:@\w|public\b|protected\b|private\b|static\b)"),
    "kotlin": (rf"^{_SCOPE}(?:fun\b|{_TYPES})", r"^[ \t]+(?:@\w|fun\b|override\b|private\b)"),
    "scala": (rf"^(?:case\s+)?{_SCOPE}{_TYPES}", r"^[ \t]+(?:def|val|override)\b"),
    "csharp": (rf"^[ \t]*{_SCOPE}{_TYPES}", r"^[ \t]+(?:\[|public\b|protected\b|private\b|internal\b|static\b)"),
    "go": (r"^(?:func|type)\b", r"^(?:var|const|import)\b"),
    "rust": (rf"^{_SCOPE}(?:fn\b|impl\b|mod\b|macro_rules!|{_TYPES})", rf"^[ \t]+{_SCOPE}fn\b"),
    "c": (r"^(?:struct|union|enum|typedef|static|inline|[A-Za-z_][\w* \t]*\([^;\n]*\)\s*\{)", r"^#\w"),
    "cpp": (rf"^(?:{_TYPES}|template\b|[A-Za-z_][\w:<>,*& \t]*\([^;\n]*\)[^;\n]*\{{)", r"^(?:#\w|public:|private:)"),
    "ruby": (r"^(?:class|module|def)\b", r"^[ \t]+(?:class|module|def)\b"),
    "php": (rf"^{_SCOPE}(?:function\b|{_TYPES})", rf"^[ \t]+{_SCOPE}function\b"),
    "swift": (rf"^{_SCOPE}(?:func\b|extension\b|protocol\b|{_TYPES})", rf"^[ \t]+{_SCOPE}(?:func|init)\b"),
    "shell": (r"^(?:function\s+\w+|\w+\s*\(\)\s*\{)", r"^(?:if|for|while|case)\b"),
    "sql": (r"^(?i:create|alter|drop|insert|update|delete|select|with)\b",),
    "latex": (r"^\\(?:part|chapter)\b", r"^\\section\b", r"^\\subsection\b", r"^\\begin\b"),
}
CODE: dict[str, tuple[Mark, ...]] = {
    name: (*(Mark(re.compile(pattern, re.MULTILINE)) for pattern in patterns), BLANK_LINE, LINE, WORD)
    for name, patterns in _PATTERNS.items()
}
PLAIN_CODE = (BLANK_LINE, Mark(re.compile(r"^(?=\S)", re.MULTILINE)), LINE, WORD)  # a language that is not known


def marks_of(separators: Sequence[str]) -> tuple[Mark, ...]:
    """Marks for literal separators. One of white space, or that ends a sentence, stays with what is before it; any
    other one ("## ", "- ") begins what follows."""
    return tuple(
        Mark(re.compile(re.escape(word)), after=word.isspace() or word.lstrip()[0] in ENDS) for word in separators
    )


def cut(text: str, ruler: Ruler, where: Range, capacity: int, marks: Sequence[Mark]) -> list[Range]:
    """Consecutive ranges that together are `where`, each at most `capacity` long where characters allow it."""
    start, end = where
    if ruler.length(start, end) <= capacity:
        return [where] if start < end else []
    if not marks:
        return _cut_anywhere(text, ruler, where, capacity)
    mark, finer = marks[0], marks[1:]
    found = mark.pattern.finditer(text, start, end)
    edges = [edge for match in found if start < (edge := match.end() if mark.after else match.start()) < end]
    pieces: list[Range] = []
    begin = fits = start
    for edge in (*edges, end):
        if ruler.length(begin, edge) > capacity:
            if fits > begin:
                pieces.append((begin, fits))
                begin = fits
            if ruler.length(begin, edge) > capacity:
                pieces += cut(text, ruler, (begin, edge), capacity, finer)
                begin = edge
        fits = edge
    if begin < end:
        pieces.append((begin, end))
    return pieces


def _cut_anywhere(text: str, ruler: Ruler, where: Range, capacity: int) -> list[Range]:
    start, end = where
    pieces: list[Range] = []
    while start < end:
        furthest = min(end, max(ruler.end(start, capacity), start + 1))
        stop = furthest
        while start < stop < end and continues(text, stop):
            stop -= 1
        stop = stop if stop > start else furthest
        pieces.append((start, stop))
        start = stop
    return pieces


def continues(text: str, position: int) -> bool:
    """Whether cutting here would tear apart what a reader sees as one character."""
    character = text[position]
    joined = position > 0 and text[position - 1] == "\u200d"
    return joined or character == "\u200d" or unicodedata.category(character) in ("Mn", "Me", "Mc")
