"""What cleaning never touches: code, mathematics, JSON, tables, addresses, and every word with a digit or a sign in it.

Spans are found generously: what is left alone by mistake stays as it was, what is cleaned by mistake is spoilt.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

Span = tuple[int, int]

_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[^\n]*(?:\n|\Z)", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)(`+)(?!`)([^`](?:[^\n]|\n(?!\s*\n)){0,2000}?)(?<!`)\1(?!`)")
_MATHS = re.compile(
    r"\$\$.{1,5000}?\$\$|\\\[.{1,5000}?\\\]|\\\(.{1,5000}?\\\)|(?<![\\$])\$(?![\s$])[^$\n]{1,500}?(?<![\s\\])\$(?!\d)",
    re.DOTALL,
)
_SECRET = re.compile(r"<(script|style|pre|code)\b[^>]*>.{0,20000}?</\1\s*>", re.DOTALL | re.IGNORECASE)
_TABLE = re.compile(r"^[ \t>]*(?:\|.*|.*\|[ \t]*|.*\S[ \t]*\|[ \t]*\S.*\|.*)$", re.MULTILINE)
_CODE_LINE = re.compile(
    r"^(?: {4,}| {0,3}\t).*"  # indented: code in Markdown
    r"|^[ \t]*(?:\#include|def [^\n]*:|class \w+[ \t]*[:({]|import \w|from \w[\w.]* import |return\b.*;"
    r"|(?:if|for|while|else|elif|except|with)\b.*:[ \t]*$|select .* from |\$ |>>> |\.\.\. "
    r"|[@#]!|[\"'][^\"'\n]*[\"'][ \t]*:).*"
    r"|^.*(?:[{}]|;[ \t]*$|==|!=|=>|->|<-|:=|::|&&|\|\||\+\+|<<|>>|/\*|\*/|[ \t]=[ \t]|[ \t]\?\?[ \t]"
    r"|[ \t]\?[ \t][^\n]{0,200}?[ \t]:[ \t]).*",
    re.MULTILINE | re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"(?:\b[a-z][a-z0-9+.-]{1,20}://|\bwww\.|\bmailto:)[^\s<>\"，。；！？、（）《》【】「」]+", re.IGNORECASE
)
_LINK = re.compile(r"\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*\)")
_WORD = re.compile(
    r"(?<![!-~])[!-~]*(?:[0-9@#$%^&*_+=<>{}\[\]\\/|~`]|(?<=[A-Za-z0-9_)\]])(?:[:.]{2,}|[.:(])(?=[A-Za-z0-9_]))[!-~]*"
)
_NUMBER = re.compile(r"\d+(?:[.,:'’ \u00a0\u2009\u202f]\d+)+|\d+")
_BRACKET = re.compile(r"[{}\[\]]")
_LONGEST_JSON = 20_000  # characters
_REMEMBERED = 4  # texts: each rule asks for the spans anew, and most rules change nothing
_PAIRS = {"{": "}", "[": "]"}


@lru_cache(maxsize=_REMEMBERED)
def strong_spans(text: str) -> tuple[Span, ...]:
    """Code, mathematics, JSON and tables: not even a tag inside of them is touched. Sorted, none within another."""
    found = _fences(text)
    for pattern in (_SECRET, _INLINE, _MATHS, _TABLE, _CODE_LINE):
        found += [match.span() for match in pattern.finditer(text)]
    return merged(found + _json(text))


@lru_cache(maxsize=_REMEMBERED)
def protected_spans(text: str) -> tuple[Span, ...]:
    """The strong spans, and addresses, links and words with a digit or a sign in them."""
    found = list(strong_spans(text))
    for pattern in (_ADDRESS, _LINK, _WORD, _NUMBER):
        found += [match.span() for match in pattern.finditer(text)]
    return merged(found)


class Guard:
    """Says quickly whether a part of a text touches a span."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._starts = [start for start, _ in spans]

    def touches(self, start: int, end: int) -> bool:
        place = bisect_right(self._starts, max(start, end - 1)) - 1
        return place >= 0 and self._spans[place][1] > start


def gaps(text: str, spans: Sequence[Span]) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is a span."""
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in spans:
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [*pieces, (text[at:], False)]


def merged(spans: list[Span]) -> tuple[Span, ...]:
    """Sorted, with those that overlap made one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif end > start:
            joined.append((start, end))
    return tuple(joined)


def _fences(text: str) -> list[Span]:
    """Fenced blocks with their fences; one that is never closed goes to the end, as in Markdown."""
    found: list[Span] = []
    opened: tuple[int, str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = (match.start(), match[1])
        elif match[1][0] == opened[1][0] and len(match[1]) >= len(opened[1]) and match[0].strip(" \t>\n") == match[1]:
            found.append((opened[0], match.end()))
            opened = None
    return found if opened is None else [*found, (opened[0], len(text))]


def _json(text: str) -> list[Span]:
    """What stands in balanced braces, or in balanced brackets with a quotation mark or a colon in them."""
    found: list[Span] = []
    opened: list[int] = []
    for match in _BRACKET.finditer(text):
        if match[0] in _PAIRS:
            opened.append(match.start())
        elif opened and _PAIRS[text[opened[-1]]] == match[0]:
            start, end = opened.pop(), match.end()
            inside = text[start:end] if end - start <= _LONGEST_JSON else ""
            if inside and (match[0] == "}" or '"' in inside or ":" in inside):
                found.append((start, end))
    return found
