"""How `split` cuts: units that stay whole, and the packing of units into spans.

Long prose is cut by `semantic-text-splitter` (headings, blocks, sentences, words, and never inside of what a reader
sees as one character), or by `split_marks` where tokens are counted. What they do not know is decided here: headings
stay with their text, tables, code and formulas stay whole. All lengths are the ruler's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from gristmill.operators.clean_spans import Guard
from gristmill.operators.documents_outline import Block, blocks
from gristmill.operators.split_marks import PROSE, SENTENCE, SPACE, Mark, continues, cut
from gristmill.operators.split_ruler import Ruler

WINDOW = 64 * 1024  # characters that the splitter gets at once, where words or lines have no end
OVERSIZE = 4  # times the size: what a table, code or a formula may be long and still stay whole


@dataclass(frozen=True, slots=True)
class Span:
    """A range without the white space around it; `heads` says that it starts a section."""

    start: int
    end: int
    heads: bool = False
    protected: bool = False


@dataclass(frozen=True, slots=True)
class Measure:
    """A text, how it is measured, the `size` of a chunk and the `capacity` that overlap leaves of it; the ranges of the
    formulas that stay whole, in order."""

    text: str
    ruler: Ruler
    size: int
    capacity: int
    formulas: tuple[tuple[int, int], ...] = ()

    def length(self, start: int, end: int) -> int:
        return self.ruler.length(start, end)


def units_of_text(of: Measure, start: int = 0, end: int | None = None) -> list[Span]:
    """Prose: paragraphs, sentences, words."""
    stop = len(of.text) if end is None else end
    return _trimmed(of.text, _cut_prose(of, start, stop, of.capacity, markdown=False))


def units_at_marks(of: Measure, marks: Sequence[Mark]) -> list[Span]:
    """Pieces between marks, the coarsest that fit."""
    return _trimmed(of.text, cut(of.text, of.ruler, (0, len(of.text)), of.capacity, marks))


def seen(of: Measure, headings: Sequence[int]) -> tuple[Measure, list[Block]]:
    """The blocks of a Markdown text, and the measure with the formulas that are to stay whole."""
    parts, found = blocks(of.text)
    titles = Guard([(at, of.text.find("\n", at) + 1 or len(of.text)) for at in headings])
    whole = [
        one for one in found
        if of.length(*one) <= OVERSIZE * of.size
        and ("\n" not in of.text[slice(*one)] or _opens_line(of.text, one[0]) or not titles.touches(one[0], one[0] + 1))
    ]  # fmt: skip
    return replace(of, formulas=tuple(whole)), parts


def _opens_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


def units_of_markdown(of: Measure, parts: Sequence[Block], headings: Sequence[int]) -> list[Span]:
    """`headings` are the offsets where headings start; `of` and `parts` are those of `seen`."""
    text = of.text
    inside = Guard([
        (text.rfind("\n", 0, start) + 1 if _opens_line(text, start) else start, end)
        for start, end in of.formulas if "\n" in text[start:end]
    ])  # fmt: skip
    headings = [at for at in headings if not inside.touches(at, at + 1)]
    units: list[Span] = []
    pending: int | None = None  # where the headings start that wait for something to stand above
    for block in _blocks_at(text, parts, headings):
        if bisect_left(headings, block.start) != bisect_right(headings, block.start):
            pending = block.start if pending is None else pending
            continue
        if not text[block.start : block.end].strip():
            continue
        units.extend(_units_of_block(of, block, pending))
        pending = None
    if pending is not None:  # headings with nothing below them at the very end
        units.extend(_trimmed(text, _cut_prose(of, pending, len(text), of.capacity, markdown=True), heads=True))
    return units


def _blocks_at(text: str, parts: Sequence[Block], headings: Sequence[int]) -> Iterator[Block]:
    """The blocks, cut once more before and after each heading that the parser did not see as one."""
    position = 0
    for block in parts:
        start = block.start
        while position < len(headings) and headings[position] < block.end:
            heading = headings[position]
            position += 1
            if heading < start:
                continue
            if heading > start:
                yield Block(start, heading, block.protected)
            line_end = text.find("\n", heading, block.end) + 1 or block.end
            # A heading of two lines (underlined) is a block of its own; one inside of something else is its line
            end = block.end if heading == block.start and not block.protected and _underlined(text, block) else line_end
            yield Block(heading, end)
            start = end
        if start < block.end:
            yield Block(start, block.end, block.protected)


def _underlined(text: str, block: Block) -> bool:
    lines = text[block.start : block.end].rstrip().split("\n")
    return len(lines) > 1 and not lines[-1].strip(" \t=-") and not lines[0].lstrip().startswith("#")


def _units_of_block(of: Measure, block: Block, pending: int | None) -> list[Span]:
    """A block as one unit with the headings above it if that fits, else as several."""
    start = block.start if pending is None else pending
    heads = pending is not None
    whole = _trim(of.text, start, block.end)
    length = of.length(*whole)
    if length <= of.capacity or (block.protected and of.size < length <= OVERSIZE * of.size):
        return [Span(*whole, heads=heads, protected=block.protected)]
    if block.protected and length <= of.size:  # fits but for the room that overlap takes; it will not get any
        return [Span(*whole, heads=heads, protected=True)]
    own = _trim(of.text, block.start, block.end)
    if block.protected and of.length(*own) <= OVERSIZE * of.size:  # too much with its headings, whole without
        above = _trimmed(of.text, _cut_prose(of, start, block.start, of.capacity, markdown=True), heads=heads)
        return [*above, Span(*own, protected=True)]
    room = of.capacity - of.length(start, block.start)
    if room < of.capacity // 2:  # headings as long as a paragraph are cut like one
        pieces = _cut_prose(of, start, block.start, of.capacity, markdown=True)
        pieces += _pieces(of, block, of.capacity)
    else:
        pieces = _pieces(of, block, room)
        if of.length(start, pieces[0][1]) <= OVERSIZE * of.size:
            pieces[0] = (start, pieces[0][1])
        else:  # a formula that takes all of it
            pieces.insert(0, (start, block.start))
    units = _trimmed(of.text, pieces, heads=heads)
    return [replace(unit, protected=True) if _is_formula(of, unit) else unit for unit in units]


def _is_formula(of: Measure, unit: Span) -> bool:
    at = bisect_left(of.formulas, (unit.start, unit.end))
    return of.formulas[at : at + 1] == ((unit.start, unit.end),)


def _pieces(of: Measure, block: Block, first: int) -> list[tuple[int, int]]:
    """A long block in pieces; the first one takes at most `first`, for it has a heading above it."""
    if block.protected:
        return _cut_lines(of, block, first)
    if first == of.capacity:
        return _cut_prose(of, block.start, block.end, of.capacity, markdown=True)
    start, end = _cut_prose(of, block.start, block.end, max(first, 1), markdown=True)[0]
    return [(start, end), *_cut_prose(of, end, block.end, of.capacity, markdown=True)]


def _cut_lines(of: Measure, block: Block, first: int) -> list[tuple[int, int]]:
    """Whole lines as long as they fit; a line that is too long by itself is cut like prose."""
    pieces: list[tuple[int, int]] = []
    start, limit = block.start, first
    line = block.start
    while line < block.end:
        line_end = of.text.find("\n", line, block.end) + 1 or block.end
        if of.length(start, line_end) > limit and line > start:
            pieces.append((start, line))
            start, limit = line, of.capacity
        if of.length(start, line_end) > limit:
            pieces.extend(_cut_prose(of, start, line_end, limit, markdown=False))
            start, limit = line_end, of.capacity
        line = line_end
    if start < block.end:
        pieces.append((start, block.end))
    return pieces


def _cut_prose(of: Measure, start: int, end: int, capacity: int, *, markdown: bool) -> list[tuple[int, int]]:
    """Consecutive ranges that together are [start, end); each is at most `capacity` long, or a formula."""
    if of.length(start, end) <= capacity:
        return [(start, end)] if start < end else []
    pieces: list[tuple[int, int]] = []
    for formula in of.formulas[bisect_left(of.formulas, (start, 0)) : bisect_left(of.formulas, (end, 0))]:
        pieces += [*_cut_plain(of, start, formula[0], capacity, markdown=markdown), formula]
        start = formula[1]
    return pieces + _cut_plain(of, start, end, capacity, markdown=markdown)


def _cut_plain(of: Measure, start: int, end: int, capacity: int, *, markdown: bool) -> list[tuple[int, int]]:
    """The same for what holds no formula."""
    if of.length(start, end) <= capacity:
        return [(start, end)] if start < end else []
    if not of.ruler.counts_characters:
        return cut(of.text, of.ruler, (start, end), capacity, PROSE)
    splitter = MarkdownSplitter(capacity, trim=False) if markdown else TextSplitter(capacity, trim=False)
    offsets = [
        at + offset for at, to in _windows(of.text, start, end, capacity)
        for offset, _ in splitter.chunk_indices(of.text[at:to])
    ]  # fmt: skip
    return list(zip(offsets, [*offsets[1:], end], strict=True))


def _windows(text: str, start: int, end: int, capacity: int) -> Iterator[tuple[int, int]]:
    """All of it; in parts where there are words much longer than a chunk (encoded data, minified code) or lines without
    an end, for the time that the splitter takes grows with the square of what it gets of such."""
    width = max(WINDOW, 8 * capacity)
    endless = end - start > width and (
        max(map(len, text[start:end].split("\n"))) > width
        or max(map(len, text[start:end].split()), default=0) > 2 * capacity
    )
    if endless:
        while end - start > width:
            stop = _good_end(text, start + width // 2, start + width)
            yield start, stop
            start = stop
    yield start, end


def _good_end(text: str, earliest: int, latest: int) -> int:
    for mark in ("\n\n", "\n", "。", ". ", " "):
        if (at := text.rfind(mark, earliest, latest)) >= 0:
            return at + len(mark)
    while latest > earliest + 1 and continues(text, latest):
        latest -= 1
    return latest


def _trimmed(text: str, pieces: Sequence[tuple[int, int]], *, heads: bool = False) -> list[Span]:
    spans: list[Span] = []
    for piece in pieces:
        start, end = _trim(text, *piece)
        if start < end:
            spans.append(Span(start, end, heads=heads and not spans))
    return spans


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without blank lines before and white space behind. The indent of the first line stays, it may be code."""
    end = start + len(text[start:end].rstrip())
    solid = end - len(text[start:end].lstrip())
    line = text.rfind("\n", start, solid) + 1
    if line == 0:  # no line end in between: mid-line, or the very first line
        return (start if start == 0 or text[start - 1] == "\n" else solid), end
    return line, end


def pack(of: Measure, units: Sequence[Span], minimum: int) -> list[Span]:
    """As many units as fit into each span; a new section starts a new span unless the one before is too small."""
    spans: list[Span] = []
    for unit in units:
        last = spans[-1] if spans else None
        if last is not None and of.length(last.start, unit.end) <= of.capacity and not (
            unit.heads and of.length(last.start, last.end) >= minimum
        ):  # fmt: skip
            spans[-1] = _joined(last, unit)
        else:
            spans.append(unit)
    return _merge_small(of, spans, minimum)


def _merge_small(of: Measure, spans: Sequence[Span], minimum: int) -> list[Span]:
    """What is below the minimum goes to the span before it, or else to the one behind it, where there is room."""
    kept: list[Span] = []
    for span in spans:
        if kept and of.length(kept[-1].start, span.end) <= of.capacity and (
            of.length(span.start, span.end) < minimum or of.length(kept[-1].start, kept[-1].end) < minimum
        ):  # fmt: skip
            kept[-1] = _joined(kept[-1], span)
        else:
            kept.append(span)
    return kept


def _joined(first: Span, second: Span) -> Span:
    return Span(first.start, second.end, heads=first.heads, protected=first.protected or second.protected)


def overlapping(of: Measure, spans: Sequence[Span], units: Sequence[Span], overlap: int) -> list[Span]:
    """Each span begins up to `overlap` earlier, at the start of a sentence or else of a word."""
    fixed = [unit for unit in units if unit.protected]
    ends = sorted([*(unit.end for unit in fixed), *(end for _, end in of.formulas)])
    starts = {unit.start for unit in fixed}
    made: list[Span] = []
    for position, span in enumerate(spans):
        if position == 0 or span.heads or (span.protected and span.start in starts):
            made.append(span)
            continue
        before = bisect_right(ends, span.start) - 1
        earliest = max(
            spans[position - 1].start + 1, of.ruler.start(span.start, overlap), ends[before] if before >= 0 else 0
        )
        start = _good_start(of.text, min(earliest, span.start), span.start)
        made.append(Span(start, span.end, protected=span.protected))
    return made


def _good_start(text: str, earliest: int, latest: int) -> int:
    region = text[earliest:latest]
    for pattern in (SENTENCE, SPACE):
        for found in pattern.finditer(region):
            if region[found.end() :].strip():
                return earliest + found.end() + _blank(region[found.end() :])
    start = earliest
    while start < latest and continues(text, start):
        start += 1
    return start + _blank(text[start:latest]) if text[start:latest].strip() else latest


def _blank(text: str) -> int:
    return len(text) - len(text.lstrip())
