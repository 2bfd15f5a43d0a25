"""Sentences of a text at their exact places, without headings, code, tables and boilerplate."""

from __future__ import annotations

import re
from dataclasses import dataclass

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+[”’」』）]*")
# A dot after one of these does not end a sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|al|approx|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|Eq|Sec|Vol|pp?|ca|Inc|Ltd|Jr|Sr|örn|vb|bkz)"
    r"|(?:^|[\s(])[A-Z](?:\.[A-Z])*)\.$"
)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_BULLET = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)]|[a-z]\))[ \t]+|[ \t]*>+[ \t]*")
_NOISE = re.compile(
    r"https?://|www\.|@\w+\.\w|©|\bcopyright\b|all rights reserved|cookie|click here|subscribe|\bisbn\b|"
    r"table of contents|\b(?:figure|fig\.|table|chapter|section) \d|see also|\]\(",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|has|have|had|can|could|may|might|must|will|would|should|does|do|did|means?|"
    r"[a-z]{3,}(?:ed|es)|(?!(?:this|its|his|thus|plus|perhaps|always|is)\b)[a-z]{3,}s|"
    r"became|began|came|gave|went|grew|held|kept|knew|led|left|lost|made|met|ran|said|saw|sent|took|told|won|wrote)\b"
)
CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_PAIRS = (("(", ")"), ("[", "]"), ("“", "”"), ("「", "」"), ("《", "》"), ("（", "）"))


@dataclass(frozen=True, slots=True)
class Sentence:
    start: int
    end: int
    text: str  # exactly as in the passage, line ends included

    @property
    def line(self) -> str:
        """The sentence on one line."""
        return " ".join(self.text.split())

    @property
    def cjk(self) -> bool:
        return len(CJK.findall(self.text)) * 3 > len(self.text)


def find_sentences(passage: str, *, shortest: int = 40, longest: int = 300) -> list[Sentence]:
    """The sentences that can stand for themselves, in order. Lengths in characters; a CJK one counts as three."""
    found: list[Sentence] = []
    for start, end in _blocks(passage):
        found += [
            sentence for sentence in _split(passage, start, end) if _is_prose(sentence, shortest, longest, passage)
        ]
    return found


def _blocks(passage: str) -> list[tuple[int, int]]:
    """Runs of lines that belong together: a paragraph or one item of a list."""
    hidden = [match.span() for match in _FENCE.finditer(passage)]
    blocks: list[tuple[int, int]] = []
    begin: int | None = None
    position = 0
    for line in passage.splitlines(keepends=True):
        start, position = position, position + len(line)
        bare = line.strip()
        in_code = any(first <= start < last for first, last in hidden)
        noise = not bare or in_code or _is_structure(line, bare)
        bullet = None if noise else _BULLET.match(line)
        if (noise or bullet) and begin is not None:
            blocks.append((begin, start))
            begin = None
        if not noise and begin is None:
            begin = start + (bullet.end() if bullet else 0)
    if begin is not None:
        blocks.append((begin, len(passage)))
    return blocks


def _is_structure(line: str, bare: str) -> bool:
    """A heading, a line of a table, indented code, an underline or a tag."""
    if bare.startswith(("#", "|", "<", "![", "$$")) or bare.count("|") >= 2 or bare.count("\t") >= 2:
        return True
    if line.startswith(("    ", "\t")) and not _BULLET.match(line):
        return True
    return not any(sign.isalpha() for sign in bare)


def _split(passage: str, start: int, end: int) -> list[Sentence]:
    found: list[Sentence] = []
    begin = start
    for match in _END.finditer(passage, start, end):
        if match.group().startswith(".") and _ABBREVIATION.search(passage[max(begin, match.end() - 12) : match.end()]):
            continue
        following = passage[match.end() : match.end() + 3].lstrip()
        if following and following[0].islower():
            continue
        text = passage[begin : match.end()]
        lead = len(text) - len(text.lstrip())
        found.append(Sentence(begin + lead, match.end(), text.lstrip()))
        begin = match.end()
    return found  # what has no end is a heading, a label, or was cut off


def _is_prose(sentence: Sentence, shortest: int, longest: int, passage: str) -> bool:
    text = sentence.line
    length = len(text) + 2 * len(CJK.findall(text))
    if not shortest <= length <= longest or _NOISE.search(text) or text.endswith(("?", "？", "...", "…", ":")):
        return False
    if text[0].islower() or text[0] in ",;:)]}" or text.count('"') % 2 or text.count("`") % 2:
        return False
    if any(text.count(left) != text.count(right) for left, right in _PAIRS):
        return False
    letters = sum(sign.isalpha() for sign in text)
    if letters < 0.6 * len(text):
        return False
    if sentence.cjk:
        return True
    plain_english = sum(word in passage for word in (" the ", " of ", " and ", " is ", " to ")) >= 2
    return len(text.split()) >= 6 and (not plain_english or _VERB.search(text) is not None)
