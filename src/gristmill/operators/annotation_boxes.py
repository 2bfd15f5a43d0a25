"""From what a detector says to boxes: units are declared and never guessed, corners are clamped, and only then is the
size taken."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypeAliasType

from gristmill.data.annotations import Box, Dropped
from gristmill.operators.annotation_options import Named, known_label, spellings

Unit = Literal["pixels", "percent", "thousandths", "fractions"]
Order = Literal["xyxy", "xywh", "yxyx", "cxcywh"]
FULL: Mapping[str, float] = {"percent": 100, "thousandths": 1000, "fractions": 1}
STRAYS = 1.25  # times the picture: a corner further out was never meant to be in it
Overlap = TypeAliasType("Overlap", Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)])


@dataclass(frozen=True, slots=True)
class Corners:
    """What a detector found: corners in its own unit, a label as it spells it."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    score: float | None = None


def corners_of(numbers: Sequence[float], order: Order) -> tuple[float, float, float, float]:
    """Left, top, right and bottom out of four numbers that stand in that order."""
    a, b, c, d = numbers
    if order == "xyxy":
        return a, b, c, d
    if order == "yxyx":
        return b, a, d, c
    if order == "xywh":
        return a, b, a + c, b + d
    return a - c / 2, b - d / 2, a + c / 2, b + d / 2


def to_boxes(
    found: Iterable[Corners], unit: Unit, width: int, height: int, labels: Sequence[Named] = (), *,
    min_score: float = 0.0, most: int = 1000,
) -> tuple[list[Box], list[Dropped]]:  # fmt: skip
    """The boxes with ids b1, b2 ..., and what was left out.

    `width` and `height` (pixels) are those of the picture that the detector saw; `labels` are the ones that count,
    without any all do. Swapped corners are turned, corners outside are clamped to the edge. Left out are boxes without
    area, far outside ("outside"), under `min_score`, of unknown labels, said twice, and those beyond `most`.
    """
    known = spellings(labels)
    full = (width, height) if unit == "pixels" else (FULL[unit], FULL[unit])
    kept: dict[tuple[str, float, float, float, float], Box] = {}
    dropped: list[Dropped] = []
    for one in found:
        label = str(known_label(one.label, known)).strip()
        reason = "unknown_label" if not label or (known and label not in known.values()) else ""
        sides = _sides(one, *full)
        reason = reason or ("outside" if sides is None else "no_area" if not _area(sides) else "")
        reason = reason or ("low_score" if one.score is not None and one.score < min_score else "")
        key = (label, *sides) if sides else (label, 0.0, 0.0, 0.0, 0.0)
        reason = reason or ("repeated" if key in kept else "too_many" if len(kept) >= most else "")
        if reason or sides is None:
            dropped.append(Dropped(what=_said(one), label=one.label[:200], reason=reason))
            continue
        kept[key] = _box(f"b{len(kept) + 1}", label, sides, one.score)
    return list(kept.values()), dropped


def best_boxes(found: Iterable[Corners], overlap: float) -> list[Corners]:
    """The surest first, without those of the same label that overlap a surer one by more than `overlap` (0 to 1)."""
    kept: list[Corners] = []
    for one in sorted(found, key=lambda entry: -(entry.score or 0)):
        sides = one.left, one.top, one.right, one.bottom
        if not any(
            k.label == one.label and overlap_of(sides, (k.left, k.top, k.right, k.bottom)) > overlap for k in kept
        ):
            kept.append(one)
    return kept


def overlap_of(a: Sequence[float], b: Sequence[float]) -> float:
    """Shared area over joint area of two rectangles (left, top, right, bottom), 0 to 1."""
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    joint = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / joint if joint > 0 else 0.0


def _sides(one: Corners, width: float, height: float) -> tuple[float, float, float, float] | None:
    """Fractions of the picture, clamped; None for a box that is not in it."""
    if not all(map(math.isfinite, (one.left, one.top, one.right, one.bottom))):
        return None
    left, right = sorted((one.left / width, one.right / width))
    top, bottom = sorted((one.top / height, one.bottom / height))
    if max(right, bottom) > STRAYS or min(left, top) < 1 - STRAYS or max(left, top) >= 1 or min(right, bottom) <= 0:
        return None
    return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)


def _area(sides: tuple[float, float, float, float]) -> float:
    return round(sides[2] - sides[0], 9) * round(sides[3] - sides[1], 9)


def _box(id_: str, label: str, sides: tuple[float, float, float, float], score: float | None) -> Box:
    left, top, right, bottom = (round(side, 9) for side in sides)
    sure = None if score is None else min(max(round(score, 4), 0.0), 1.0)
    return Box(id=id_, label=label, x=left, y=top, width=right - left, height=bottom - top, score=sure)


def _said(one: Corners) -> str:
    return f"{one.left:g}, {one.top:g}, {one.right:g}, {one.bottom:g}"
