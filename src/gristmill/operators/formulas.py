r"""Where the displayed formulas of a text stand: `$$...$$`, `\[...\]`, `\begin{align}...\end{align}` and the like.

A formula holds no blank line, as in TeX: so a sign that is no formula at all ("$$" for a price) takes the rest of its
paragraph along and no more. One that has no end is none, and makes the text `unbalanced`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gristmill.operators.clean_spans import Guard, Span

_ENVIRONMENT = r"(?P<{}>(?:equation|align|alignat|flalign|gather|multline|eqnarray|displaymath)\*?)"
_PARTS = re.compile(
    r"\\\\|\\\$|`[^`\n]+`"  # a line break of TeX, a sign of money, code: none of them opens or closes anything
    r"|(?P<blank>\n[ \t]*(?=\n))|(?P<dollars>\$\$)|(?P<open>\\\[)|(?P<close>\\\])"
    rf"|\\begin\{{{_ENVIRONMENT.format('begin')}\}}|\\end\{{{_ENVIRONMENT.format('end')}\}}"
)
_FENCE = re.compile(r"^[ \t>]*(?P<marks>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)


def formulas(text: str, code: Sequence[Span] = ()) -> list[Span]:
    """The ranges of the formulas, in order, none within another. `code` are sorted ranges that hold none."""
    return _scan(text, code)[0]


def unbalanced(text: str) -> str:
    """What begins in the text and does not end in it, or the other way round: "code", "formula", or "" for nothing."""
    code, closed = fences(text)
    if not closed:
        return "code"
    return "" if _scan(text, code)[1] else "formula"


def fences(text: str) -> tuple[list[Span], bool]:
    """The fenced pieces of code, and whether the last of them is closed."""
    found: list[Span] = []
    opened: tuple[int, str] | None = None
    for line in _FENCE.finditer(text):
        marks, info = line["marks"], line["info"].strip()
        if opened is None:
            if not (marks[0] == "`" and "`" in info):  # code within a line
                opened = line.start(), marks
        elif marks.startswith(opened[1]) and not info:
            found.append((opened[0], line.end()))
            opened = None
    return found, opened is None


def _scan(text: str, code: Sequence[Span]) -> tuple[list[Span], bool]:
    """The formulas, and whether nothing was left open or closed that was not open."""
    guard = Guard(code)
    found: list[Span] = []
    sound = True
    opened: tuple[int, str] | None = None  # where, and what ends it
    for part in _PARTS.finditer(text):
        name = part.lastgroup
        if name is None or guard.touches(*part.span()):
            continue
        if name == "blank":
            sound, opened = sound and opened is None, None
        elif opened is not None:
            if part[0] == opened[1]:
                if not guard.touches(opened[0], part.end()):  # a piece of code in between: no formula
                    found.append((opened[0], part.end()))
                opened = None
        elif name in ("close", "end"):
            sound = False
        else:
            ends = {"dollars": "$$", "open": r"\]"}.get(name, rf"\end{{{part['begin']}}}")
            opened = part.start(), ends
    return found, sound and opened is None
