"""How far annotators agree, beyond what chance would do: pure figures, None where one is not defined.

A unit is what several annotators gave the same thing; units with fewer than two values say nothing and are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal, TypeVar

V = TypeVar("V", bound=Hashable)
Level = Literal["nominal", "ordinal", "interval"]


def percent(units: Iterable[Sequence[V]]) -> float | None:
    """The share of pairs that agree, of all pairs of values within a unit, each unit with the same weight."""
    shares = []
    for unit in units:
        if len(unit) > 1:
            agreeing = sum(count * (count - 1) for count in Counter(unit).values())
            shares.append(agreeing / (len(unit) * (len(unit) - 1)))
    return sum(shares) / len(shares) if shares else None


def cohen(pairs: Sequence[tuple[V, V]]) -> float | None:
    """Cohen's kappa of two annotators. None without pairs, and where both give one value all the time."""
    if not pairs:
        return None
    total = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = sum(a == b for a, b in pairs) / total
    expected = sum(first[value] * second[value] for value in first) / total**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def fleiss(units: Iterable[Sequence[V]]) -> float | None:
    """Fleiss' kappa, over the units that have as many values as the fullest one. None where it is not defined."""
    counted = [Counter(unit) for unit in units]
    raters = max((unit.total() for unit in counted), default=0)
    full = [unit for unit in counted if unit.total() == raters]
    if raters < 2:
        return None
    observed = sum(sum(n * (n - 1) for n in unit.values()) for unit in full) / (len(full) * raters * (raters - 1))
    totals: Counter[V] = Counter()
    for unit in full:
        totals += unit
    expected = sum((n / totals.total()) ** 2 for n in totals.values())
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff(
    units: Iterable[Sequence[V]], level: Level = "nominal", order: Sequence[V] | Mapping[V, float] = ()
) -> float | None:  # fmt: skip
    """Krippendorff's alpha; values may be missing. None without pairs, and where there is only one value.

    `order` is the sequence of the values for the level "ordinal", and their numbers for "interval".
    """
    coincidences: dict[tuple[V, V], float] = defaultdict(float)
    for unit in units:
        if len(unit) > 1:
            counts = Counter(unit)
            for a, b in product(counts, repeat=2):
                together = counts[a] * (counts[b] - (a == b))
                coincidences[a, b] += together / (len(unit) - 1)
    totals: dict[V, float] = defaultdict(float)
    for (a, _), count in coincidences.items():
        totals[a] += count
    distance = _distance(level, totals, order)
    observed = sum(count * distance(a, b) for (a, b), count in coincidences.items())
    expected = sum(totals[a] * totals[b] * distance(a, b) for a, b in product(totals, repeat=2))
    return None if expected == 0 else 1 - (sum(totals.values()) - 1) * observed / expected


def _distance(
    level: Level, totals: Mapping[V, float], order: Sequence[V] | Mapping[V, float]
) -> Callable[[V, V], float]:  # fmt: skip
    if level == "nominal":
        return lambda a, b: float(a != b)
    if isinstance(order, Mapping):
        numbers = order
        return lambda a, b: (numbers[a] - numbers[b]) ** 2
    place = {value: at for at, value in enumerate(order)}
    sums = [0.0]
    for value in order:
        sums.append(sums[-1] + totals.get(value, 0.0))

    def ordinal(a: V, b: V) -> float:
        low, high = sorted((place[a], place[b]))
        between = sums[high + 1] - sums[low] - (totals.get(a, 0.0) + totals.get(b, 0.0)) / 2
        return between**2 if low != high else 0.0

    return ordinal


@dataclass(frozen=True, slots=True)
class Counts:
    """Of what one annotator said: right, too much (`extra`), and what it missed."""

    right: int = 0
    extra: int = 0
    missed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.extra + other.extra, self.missed + other.missed)

    @property
    def precision(self) -> float | None:
        """How much of what was said is right; None where nothing was said."""
        said = self.right + self.extra
        return self.right / said if said else None

    @property
    def recall(self) -> float | None:
        """How much of what is there was said; None where there is nothing."""
        there = self.right + self.missed
        return self.right / there if there else None

    @property
    def f1(self) -> float | None:
        """Their harmonic mean; None where nothing was said and nothing is there."""
        whole = 2 * self.right + self.extra + self.missed
        return 2 * self.right / whole if whole else None


def summed(counts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Counts by label, added up, in the order of the labels."""
    found: dict[str, Counts] = {}
    for by_label in counts:
        for label, one in by_label.items():
            found[label] = found.get(label, Counts()) + one
    return dict(sorted(found.items()))


def pairs_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each two of the names, once, in order."""
    return list(combinations(sorted(set(names)), 2))
