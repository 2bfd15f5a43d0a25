"""From mentions to spans: the model says which words it means, and code finds where they stand.

A model counts badly and copies with small changes, so it is never asked for an offset. What cannot be found is left out
and remembered, never placed by guess.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz import fuzz

from gristmill.data.annotations import Dropped, Entity
from gristmill.operators.annotation_asking import least_sure
from gristmill.operators.evidence import cuts_word, occurrences
from gristmill.operators.wording import Folded, fold_with_offsets, numbers, words

Repeated = Literal["all", "first", "listed"]
Overlapping = Literal["longest", "first", "all"]
ACCENTS_MINIMUM = 3  # letters; in shorter words an accent makes another word
FUZZY_MINIMUM = 5  # characters; shorter words resemble too many
_TRIMMED = " \t\r\n\"'“”„‟«»‘’‚‛`.,;:…"


@dataclass(frozen=True, slots=True)
class Mention:
    """Words that the model names, with their label."""

    text: str
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Code points of the text, end exclusive."""

    start: int
    end: int
    match: Literal["exact", "normalized", "fuzzy"]
    likeness: float = 1.0


class Finder:
    """Finds mentions in one text: its exact characters, then folded ones (case, white space, typography, composed and
    decomposed characters), then the same letters with other accents, then, from 5 characters on, words that resemble
    it by at least `fuzzy` (0 to 1; 1: neither of the last two).

    Only whole words are found. A resembling place has the same numbers in it.
    """

    def __init__(self, text: str, fuzzy: float = 0.9) -> None:
        self._text, self._fuzzy = text, fuzzy
        self._folded: Folded | None = None
        self._bare: tuple[str, list[int]] | None = None  # the folded text without accents, and where its letters stand

    def places(self, mention: str) -> list[Place]:
        """All places of the mention, in order; those of the first way that finds any."""
        for wanted in dict.fromkeys((mention.strip(), mention.strip(_TRIMMED))):
            if wanted and (found := self._exact(wanted) or self._normalized(wanted)):
                return found
        bare = mention.strip(_TRIMMED)
        if not bare or self._fuzzy >= 1:
            return []
        return self._unaccented(bare) or self._resembling(bare)

    def _exact(self, wanted: str) -> list[Place]:
        return [
            Place(start, start + len(wanted), "exact")
            for start in occurrences(wanted, self._text)
            if not cuts_word(self._text, start) and not cuts_word(self._text, start + len(wanted))
        ]

    def _normalized(self, wanted: str) -> list[Place]:
        text, key = self._even(), fold_with_offsets(wanted).text.strip()
        found = []
        for start in occurrences(key, text.text) if key else ():
            last = start + len(key) - 1
            whole = text.first(start) and text.last(last)
            if whole and not cuts_word(text.text, start) and not cuts_word(text.text, last + 1):
                found.append(Place(text.starts[start], text.ends[last], "normalized"))
        return found

    def _unaccented(self, wanted: str) -> list[Place]:
        text, spelled = self._even().text, fold_with_offsets(wanted).text.strip()
        if self._bare is None:
            places = [at for at, character in enumerate(text) if not unicodedata.combining(character)]
            self._bare = "".join(text[at] for at in places), places
        plain, places = self._bare
        key = "".join(character for character in spelled if not unicodedata.combining(character))
        found = []
        for begin in occurrences(key, plain) if len(key) >= ACCENTS_MINIMUM else ():
            start, stop = places[begin], places[begin + len(key) - 1] + 1
            while stop < len(text) and unicodedata.combining(text[stop]):
                stop += 1
            if not cuts_word(text, start) and not cuts_word(text, stop) and self._even().last(stop - 1):
                likeness = round(fuzz.ratio(spelled, text[start:stop]) / 100, 4)
                found.append(Place(self._even().starts[start], self._even().ends[stop - 1], "fuzzy", likeness))
        return found

    def _resembling(self, wanted: str) -> list[Place]:
        text, key = self._even(), fold_with_offsets(wanted).text.strip()
        if len(key) < FUZZY_MINIMUM or len(key) > len(text.text):
            return []
        found = fuzz.partial_ratio_alignment(key, text.text, score_cutoff=100 * self._fuzzy)
        if found is None:
            return []
        start, stop = found.dest_start, found.dest_end
        while cuts_word(text.text, start):
            start -= 1
        while cuts_word(text.text, stop):
            stop += 1
        piece = text.text[start:stop]
        start, stop = start + len(piece) - len(piece.lstrip(_TRIMMED)), stop - len(piece) + len(piece.rstrip(_TRIMMED))
        likeness = fuzz.ratio(key, text.text[start:stop]) / 100
        if likeness < self._fuzzy or not (text.first(start) and text.last(stop - 1)):
            return []
        span = text.starts[start], text.ends[stop - 1]
        if numbers(words(wanted)) != numbers(words(self._text[span[0] : span[1]])):
            return []
        same = self._exact(self._text[span[0] : span[1]])
        return [Place(one.start, one.end, "fuzzy", round(likeness, 4)) for one in same]

    def _even(self) -> Folded:
        if self._folded is None:
            self._folded = fold_with_offsets(self._text)
        return self._folded


def place_mentions(
    mentions: Iterable[Mention], text: str, *, repeated: Repeated = "all", overlapping: Overlapping = "longest",
    fuzzy: float = 0.9, finder: Finder | None = None,
) -> tuple[list[Entity], list[Dropped]]:  # fmt: skip
    """The spans of the mentions in order, with ids e1, e2 ..., and what was left out.

    A mention that stands in the text several times is taken at "all" of its places, at the "first", or, "listed", the
    n-th time that it is named at its n-th place. One that is named with several labels is always taken as listed. Where
    spans overlap the "longest" stays (the first of equals), or the one that begins "first", or "all" do.
    """
    finder = finder or Finder(text, fuzzy)
    dropped: list[Dropped] = []
    found: list[tuple[Place, Mention]] = []
    groups: dict[tuple[Place, ...], list[Mention]] = defaultdict(list)
    for mention in mentions:
        places = tuple(finder.places(mention.text))
        if places:
            groups[places].append(mention)
        else:
            dropped.append(Dropped(what=mention.text[:500], label=mention.label, reason="not_found"))
    for places, named in groups.items():
        chosen, surplus = _choose(places, named, repeated)
        found += chosen
        dropped += [Dropped(what=one.text[:500], label=one.label, reason="repeated") for one in surplus]
    kept, overlapped = _untangle(found, overlapping)
    dropped += [Dropped(what=one.text[:500], label=one.label, reason="overlaps") for one in overlapped]
    return _numbered(kept, text), dropped


def _choose(
    places: Sequence[Place], named: Sequence[Mention], repeated: Repeated
) -> tuple[list[tuple[Place, Mention]], list[Mention]]:
    """Which of the places each naming gets, and namings for which there is no place left."""
    labels = {one.label for one in named}
    if repeated == "listed" or (len(labels) > 1 and len(places) > 1):
        pairs = list(zip(places, named, strict=False))
        return pairs, list(named[len(pairs) :])
    first: dict[str, Mention] = {}
    for one in named:
        first.setdefault(one.label, one)
    taken = places[:1] if repeated == "first" else places
    return [(place, one) for place in taken for one in first.values()], []


def _untangle(
    found: Sequence[tuple[Place, Mention]], overlapping: Overlapping
) -> tuple[list[tuple[Place, Mention]], list[Mention]]:
    unique: dict[tuple[int, int, str], tuple[Place, Mention]] = {}
    for place, one in found:
        unique.setdefault((place.start, place.end, one.label), (place, one))
    ranked = list(unique.values())  # both sorts leave equals in the order in which they were named
    if overlapping == "longest":
        ranked.sort(key=lambda entry: entry[0].start - entry[0].end)
    else:
        ranked.sort(key=lambda entry: entry[0].start)
    if overlapping == "all":
        return ranked, []
    kept: list[tuple[Place, Mention]] = []
    lost: list[Mention] = []
    taken: list[tuple[int, int]] = []  # spans in order, none of which overlap
    for place, one in ranked:
        at = bisect_left(taken, (place.start, place.end))
        clear = (at == 0 or taken[at - 1][1] <= place.start) and (at == len(taken) or place.end <= taken[at][0])
        if clear:
            taken.insert(at, (place.start, place.end))
            kept.append((place, one))
        else:
            lost.append(one)
    return kept, lost


def _numbered(kept: Iterable[tuple[Place, Mention]], text: str) -> list[Entity]:
    in_order = sorted(kept, key=lambda entry: (entry[0].start, entry[0].end))
    return [
        Entity(
            id=f"e{number}", start=place.start, end=place.end, text=text[place.start : place.end], label=one.label,
            match=place.match, score=least_sure((one.score, place.likeness if place.match == "fuzzy" else None)),
        )
        for number, (place, one) in enumerate(in_order, 1)
    ]  # fmt: skip
