"""The rules of cleaning. Each is one small change of a text that leaves `protected_spans` alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

from gristmill.errors import UsageError
from gristmill.operators.clean_spans import Guard, Span, gaps, merged, protected_spans, strong_spans

Rule = Literal[
    "mojibake", "unicode", "control", "invisible", "html", "full_width", "emoji", "whitespace",
    "repeated_punctuation", "punctuation_spacing",
]  # fmt: skip
DEFAULT_RULES: tuple[Rule, ...] = (
    "unicode", "control", "invisible", "whitespace", "repeated_punctuation", "punctuation_spacing",
)  # fmt: skip
ROUNDS = 8  # until nothing changes any more; a text that needs more is left as it was

_CJK = "\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_ZERO_WIDTH = re.compile(
    "[\u00ad\u180e\u200b\u2060-\u2064\ufeff\ufff9-\ufffb]"
    "|(?<![\U0001f3f4\U000e0000-\U000e007f])[\U000e0000-\U000e007f]+"  # hidden letters; after a black flag: a country
)
_DIRECTIONS = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_RUN = re.compile(rf"(?<=[^\s>])[ {_SPACES}]++(?=\S)")
_MARKER = re.compile(r"^[ \t>]*(?:[-*+]|\d{1,9}[.)]|#{1,6}|:)?[ \t]+", re.MULTILINE)  # its width is Markdown's syntax
_LEADING = re.compile(rf"^[{_SPACES}]+", re.MULTILINE)
_TRAILING = re.compile(rf"(?<![ \t{_SPACES}])[ \t{_SPACES}]++$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_REPEATED = re.compile(r"(?<=[^\W\d_])([!?])\1+(?=[\s\"'”’)]|\Z)|(?<=[^\W\d_]),{2,}(?=\s)|([。，、；：！？])\2+")
_BEFORE_CJK = re.compile(rf"(?<=[{_CJK}A-Za-z0-9）」』》】”])[ \t{_SPACES}]++(?=[。，、；：！？）」』》】])")
_AFTER_CJK = re.compile(
    rf"(?<=[（「『《【])[ \t{_SPACES}]++(?=\S)|(?<=[。，、；：！？）」』》】])[ {_SPACES}]++(?=[{_CJK}])"
)
_BEFORE_ASCII = re.compile(
    rf"(?<=[^\W_]|[)\]\"'”’])[ {_SPACES}]++"
    r"(?:(?=,(?:\s|\Z))|(?=[!?]+(?:\s*\n|\s*\Z| +[^a-z\s\d:?!]))|(?=\.(?:\s*\n|\s*\Z| +[^a-z\s\d.-])))"
)
_SENTENCE = re.compile(r"[\s>#*_\"'“‘(\-+]*[^\W\d_a-z]")
_TAGS = (
    "p|br|hr|div|span|b|i|em|strong|u|s|del|ins|sub|sup|small|big|font|center|ul|ol|li|dl|dt|dd|h[1-6]|table|thead|tbody|"
    "tfoot|tr|td|th|caption|blockquote|section|article|header|footer|nav|main|aside|figure|figcaption"
)
_TAG = re.compile(
    rf"</?(?:{_TAGS})(?:\s+[a-z-]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))?)*\s*/?>", re.IGNORECASE
)
_COMMENT = re.compile(r"<!--(?:(?!-->).){0,5000}-->", re.DOTALL)
_ANCHOR = re.compile(
    r"<a\s(?:[^<>]*\s)?href\s*=\s*(?:\"([^\"<>\s]+)\"|'([^'<>\s]+)')[^<>]*>([^<>\[\]]{1,500})</a\s*>", re.IGNORECASE
)
_BREAKING = re.compile(r"</?(?:p|br|hr|div|li|tr|ul|ol|table|h[1-6]|blockquote|section|article|dt|dd)\b", re.IGNORECASE)
_WIDE = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in (
        *range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), 0xFF05, 0xFF0B, 0xFF0D, 0xFF0F,
        0xFF1D, 0xFF03, 0xFF04, 0xFF06, 0xFF0A, 0xFF20, 0xFF3F,
    )}
)  # fmt: skip
_PICTURE = (
    "[\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7eb\U0001f900-\U0001f9ff\U0001fa70-\U0001faff"
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u26a1\u26bd\u26be\u26c4\u26c5\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd"
    "\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757\u2b50\u2b55]"
)
_EMOJI = re.compile(
    f"(?:[\U0001f1e6-\U0001f1ff]{{2}}|(?:{_PICTURE}|[\u2600-\u27bf](?=\ufe0f))"
    f"[\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
    f"(?:\u200d(?:{_PICTURE}|[\u2600-\u27bf])[\ufe0f\U0001f3fb-\U0001f3ff]*)*)+"
)


def clean_text(text: str, rules: Sequence[Rule] = DEFAULT_RULES, language: str = "en") -> str:
    """The text by those rules, applied until nothing changes any more.

    Cleaning twice gives the same as cleaning once, and every protected part of `text` is in the result, letter for
    letter and in order. A text for which that cannot be had is returned as it is. Raises `UsageError` U215 for
    "mojibake" without the extra that it needs.
    """
    made = text
    for _ in range(ROUNDS):
        before = made
        for name, change in _CHANGES.items():
            if name in rules:
                made = change(made, language)
        if made == before:
            return made if _kept(text, made, rules) else text
    return text


def _kept(old: str, new: str, rules: Sequence[Rule]) -> bool:
    """Whether every protected part survived. Tags and full-width digits are words with signs, and are to change."""
    loose = "html" in rules or "full_width" in rules
    position = 0
    for start, end in strong_spans(old) if loose else protected_spans(old):
        piece = old[start:end]
        found = new.find(piece.strip() if loose else piece, position)
        if found < 0:
            return False
        position = found + len(piece.strip() if loose else piece)
    return True


def _substitute(
    pattern: re.Pattern[str],
    text: str,
    replacement: str | Callable[[re.Match[str]], str],
    spans: Callable[[str], Sequence[Span]],
) -> str:
    """The pattern replaced wherever it touches none of the text's spans."""
    if pattern.search(text) is None:
        return text
    guard = Guard(spans(text))

    def change(match: re.Match[str]) -> str:
        if guard.touches(match.start(), match.end()):
            return match[0]
        return replacement if isinstance(replacement, str) else replacement(match)

    return pattern.sub(change, text)


def _each_gap(text: str, change: Callable[[str], str]) -> str:
    return "".join(piece if kept else change(piece) for piece, kept in gaps(text, protected_spans(text)))


def _mojibake(text: str, _: str) -> str:
    try:
        import ftfy
    except ImportError:
        raise UsageError(
            'the rule "mojibake" needs ftfy', code="U215", hint='pip install "gristmill[quality]"'
        ) from None
    return _each_gap(text, lambda piece: str(ftfy.fix_encoding(piece)))


def _unicode(text: str, _: str) -> str:
    if unicodedata.is_normalized("NFC", text):
        return text
    return _each_gap(text, lambda piece: unicodedata.normalize("NFC", piece))


def _control(text: str, _: str) -> str:
    text = _substitute(_LINE_ENDS, text, "\n", protected_spans)
    return _substitute(_CONTROL, text, "", protected_spans)


def _invisible(text: str, _: str) -> str:
    text = _substitute(_ZERO_WIDTH, text, "", protected_spans)
    return text if _RIGHT_TO_LEFT.search(text) else _substitute(_DIRECTIONS, text, "", protected_spans)


def _html(text: str, _: str) -> str:
    text = _substitute(_ANCHOR, text, lambda match: f"[{match[3]}]({match[1] or match[2]})", strong_spans)
    text = _substitute(_COMMENT, text, "", strong_spans)
    return _substitute(_TAG, text, lambda match: "\n" if _BREAKING.match(match[0]) else "", strong_spans)


def _full_width(text: str, _: str) -> str:
    return "".join(p if kept else p.translate(_WIDE) for p, kept in gaps(text, strong_spans(text)))


def _emoji(text: str, _: str) -> str:
    return _substitute(_EMOJI, text, "", protected_spans)


def _whitespace(text: str, _: str) -> str:
    """Runs of spaces become one, lines lose what trails (two spaces are a line break in Markdown), blank lines are one
    at most. What a line starts with is syntax and stays."""
    text = _substitute(_LEADING, text, _indentation, strong_spans)
    text = _substitute(_RUN, text, " ", _with_markers)
    text = _substitute(_TRAILING, text, _line_end, strong_spans)
    text = _substitute(_BLANK_LINES, text, "\n\n", strong_spans)
    return _stripped(text)


def _with_markers(text: str) -> tuple[Span, ...]:
    return merged([*protected_spans(text), *(match.span() for match in _MARKER.finditer(text))])


def _indentation(match: re.Match[str]) -> str:
    return "" if "\u3000" in match[0] else " " * min(3, len(match[0]))  # four would make it code


def _line_end(match: re.Match[str]) -> str:
    text, end = match.string, match.end()
    words_before = match.start() > 0 and text[match.start() - 1] != "\n"
    next_line = text[end + 1 :].split("\n", 1)[0].strip()
    return "  " if words_before and next_line and match[0].startswith("  ") else ""


def _stripped(text: str) -> str:
    """Without white space around it, as far as that is not part of a protected block."""
    spans = strong_spans(text)
    start = len(text) - len(text.lstrip("\n\r"))
    end = len(text.rstrip())
    if spans and spans[-1][1] > end:
        end = spans[-1][1]
    if spans and spans[0][0] < start:
        start = spans[0][0]
    elif not spans or spans[0][0] > start:
        start = len(text) - len(text.lstrip()) if not text[start:].startswith(("    ", "\t")) else start
    return text[start:end] if start < end else ""


def _repeated(text: str, _: str) -> str:
    return _substitute(_REPEATED, text, lambda match: match[0][0], protected_spans)


def _spacing(text: str, language: str) -> str:
    text = _substitute(_BEFORE_CJK, text, "", protected_spans)
    text = _substitute(_AFTER_CJK, text, "", protected_spans)
    if language.split("-")[0].lower() == "fr":  # French puts a space there
        return text
    return _substitute(_BEFORE_ASCII, text, _closer, protected_spans)


def _closer(match: re.Match[str]) -> str:
    """Nothing instead of the space; but "docker build ." is a command, and a sentence starts with a capital."""
    text, end = match.string, match.end()
    line = text.rfind("\n", 0, match.start()) + 1
    return match[0] if text[end] == "." and not _SENTENCE.match(text, line) else ""


_CHANGES: dict[Rule, Callable[[str, str], str]] = {
    "mojibake": _mojibake,
    "unicode": _unicode,
    "control": _control,
    "invisible": _invisible,
    "html": _html,
    "full_width": _full_width,
    "emoji": _emoji,
    "repeated_punctuation": _repeated,
    "punctuation_spacing": _spacing,
    "whitespace": _whitespace,
}
