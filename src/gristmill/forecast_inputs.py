"""The inputs of a run that is to come: all of them counted, a few kept for a walk, figures scaled from those to all."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gristmill.data import selection
from gristmill.data.intake import found_in
from gristmill.data.scan import Found
from gristmill.forecast_sample import Tally

KEPT = 6  # candidates of each type
LARGEST = 5_000_000  # bytes of a file that is walked; larger ones are scaled from the others


@dataclass(slots=True)
class Stratum:
    """The files of one type: all of them counted, a few kept for a walk."""

    files: int = 0
    bytes: int = 0
    candidates: list[Found] = field(default_factory=list)
    walked: list[tuple[int, list[Tally]]] = field(default_factory=list)  # size, and what each step did


@dataclass(frozen=True, slots=True)
class Inputs:
    strata: dict[str, Stratum]
    unreadable: int

    @property
    def files(self) -> int:
        return sum(part.files for part in self.strata.values())

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.strata.values())


def count(wanted: Sequence[Path | str] | selection.Inputs, seed: int = 0) -> Inputs:
    """Looks at every input once and keeps a random few of each type; constant memory."""
    chance = random.Random(seed)
    strata: dict[str, Stratum] = {}
    unreadable = 0
    for entry in found_in(selection.Inputs.of(wanted), ordered=False):
        if not isinstance(entry, Found):
            unreadable += 1
            continue
        part = strata.setdefault(entry.media_type, Stratum())
        part.files += 1
        part.bytes += entry.size
        if entry.size > LARGEST and part.candidates:
            continue
        if len(part.candidates) < KEPT:
            part.candidates.append(entry)
        elif (place := chance.randrange(part.files)) < KEPT:
            part.candidates[place] = entry
    return Inputs(strata, unreadable)


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with the bounds between which it probably lies."""

    low: float
    likely: float
    high: float

    def plain(self) -> list[int]:
        """[low, likely, high], rounded."""
        return [round(value) for value in (self.low, self.likely, self.high)]


def scaled(inputs: Inputs, place: int, name: str) -> Range:
    """The total of one figure of one step over all inputs: by bytes within each type, with twice its standard error."""
    total = variance = 0.0
    for part in inputs.strata.values():
        values = [(size, getattr(tallies[place], name)) for size, tallies in part.walked]
        read = sum(size for size, _ in values)
        if not read:
            continue
        ratio = sum(value for _, value in values) / read
        total += ratio * part.bytes
        n = len(values)
        if part.files > n:
            spread = (
                sum((value - ratio * size) ** 2 for size, value in values) / (n - 1) if n > 1 else (ratio * read) ** 2
            )
            variance += part.files**2 * spread / n * (1 - n / part.files)
    error = min(2 * math.sqrt(variance), total)
    return Range(max(0.0, total - error), total, total + error)
