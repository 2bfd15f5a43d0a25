"""Where a quote stands in a text. Models copy with small changes; what cannot be found is not made up."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from rapidfuzz import fuzz

from gristmill.operators.wording import Folded, fold_with_offsets, is_ideograph, negations, numbers, words

FUZZY_MINIMUM = 20  # characters; a shorter quote resembles too much
FUZZY_SCORE = 90.0  # of 100
_TRIMMED = " \t\r\n\"'“”„‟«»‘’‚‛`.…[]()"


def locate(quote: str, text: str) -> tuple[int, int] | None:
    """Start and end (exclusive) of the quote in the text, in code points; None when it is not there.

    Tried in this order: the exact characters; the folded ones (white space, case, quotation marks, dashes, accents
    composed or not); a resembling passage, for quotes of at least 20 characters. A resembling passage has the same
    numbers and the same negations. A quote that exists only inside of a longer word or number is not found.
    """
    quote = quote.strip()
    if not quote or not text:
        return None
    exact = _exactly(quote, text)
    if exact is not None:
        return exact
    folded_text = fold_with_offsets(text)
    # Models put quotation marks around a quote and dots where they broke it off.
    for candidate in dict.fromkeys((quote, quote.strip(_TRIMMED))):
        found = _folded(fold_with_offsets(candidate).text.strip(), folded_text)
        if found is not None:
            return found
    return _resembling(quote.strip(_TRIMMED), text, folded_text)


def _exactly(quote: str, text: str) -> tuple[int, int] | None:
    for start in occurrences(quote, text):
        end = start + len(quote)
        if not cuts_word(text, start) and not cuts_word(text, end):
            return start, end
    return None


def _folded(quote: str, text: Folded) -> tuple[int, int] | None:
    if not quote:
        return None
    for start in occurrences(quote, text.text):
        last = start + len(quote) - 1
        whole = text.first(start) and text.last(last)
        if whole and not cuts_word(text.text, start) and not cuts_word(text.text, last + 1):
            return text.starts[start], text.ends[last]
    return None


def _resembling(quote: str, text: str, folded_text: Folded) -> tuple[int, int] | None:
    wanted = fold_with_offsets(quote).text.strip()
    if len(wanted) < FUZZY_MINIMUM or not folded_text.text:
        return None
    if len(wanted) >= len(folded_text.text):
        # The shorter side would be searched in the longer one: a text that is a part of the quote does not hold it.
        start, stop = 0, len(folded_text.text)
    else:
        alignment = fuzz.partial_ratio_alignment(wanted, folded_text.text, score_cutoff=FUZZY_SCORE)
        if alignment is None:
            return None
        start, stop = alignment.dest_start, alignment.dest_end
    for edges in _word_edges(folded_text.text, start, stop):
        first, last = _trim(folded_text.text, *edges, wanted)
        if fuzz.ratio(wanted, folded_text.text[first:last]) < FUZZY_SCORE:
            continue
        span = folded_text.starts[first], folded_text.ends[last - 1]
        if _same_facts(quote, text[span[0] : span[1]]):
            return span
    return None


def _same_facts(quote: str, found: str) -> bool:
    left, right = words(quote), words(found)
    return numbers(left) == numbers(right) and negations(left) == negations(right)


def _word_edges(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The window widened to whole words, then narrowed to whole words: its length is the quote's, not the passage's."""
    wide_start, wide_stop = start, stop
    while cuts_word(text, wide_start):
        wide_start -= 1
    while cuts_word(text, wide_stop):
        wide_stop += 1
    narrow_start, narrow_stop = start, stop
    while narrow_start < narrow_stop and cuts_word(text, narrow_start):
        narrow_start += 1
    while narrow_stop > narrow_start and cuts_word(text, narrow_stop):
        narrow_stop -= 1
    for first in dict.fromkeys((wide_start, narrow_start)):
        for last in dict.fromkeys((wide_stop, narrow_stop)):
            if first < last:
                yield first, last


def _trim(text: str, start: int, stop: int, wanted: str) -> tuple[int, int]:
    """Without the spaces and punctuation at the edges that the quote does not have there."""
    while start < stop and not text[start].isalnum() and text[start] != wanted[0]:
        start += 1
    while stop > start and not text[stop - 1].isalnum() and text[stop - 1] != wanted[-1]:
        if unicodedata.combining(text[stop - 1]):
            break
        stop -= 1
    return start, stop


def occurrences(part: str, text: str) -> Iterator[int]:
    """Where the part begins in the text, overlapping ones too."""
    position = text.find(part)
    while position >= 0:
        yield position
        position = text.find(part, position + 1)


def cuts_word(text: str, position: int) -> bool:
    """Whether an edge there would cut a word, a number or an accent off. Scripts without spaces have no word edges."""
    if not 0 < position < len(text):
        return False
    left, right = text[position - 1], text[position]
    if unicodedata.combining(right) or right in "\u200d\ufe0f":
        return True
    return _spaced(left) and _spaced(right)


def _spaced(character: str) -> bool:
    """Part of a word in a script that separates words: letters that have case, digits, accents on them."""
    if is_ideograph(character):
        return False
    return character.isdecimal() or character.lower() != character.upper() or bool(unicodedata.combining(character))
