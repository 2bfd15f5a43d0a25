"""Two annotations of the same thing beside each other: what they share, label by label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeAlias

from gristmill.data.agreement import Counts
from gristmill.data.annotations import Annotation, Box, Boxes, Classes, Entities, Entity, Rating, Relation, Relations

OVERLAP = 0.5  # shared over joint area, from which two boxes are the same
Unit: TypeAlias = tuple[str, Hashable]  # the label, and what tells it from others of that label
Point: TypeAlias = tuple[float, float]


def units_of(annotation: Annotation) -> list[Unit]:
    """What it says, in comparable pieces: classes and values, spans, pairs of spans. Boxes have none: they are compared
    by `boxes_matched`."""
    if isinstance(annotation, Classes):
        return [(label, None) for label in annotation.labels]
    if isinstance(annotation, Rating):
        return [(value, None) for value in annotation.values]
    if isinstance(annotation, Entities):
        return [(one.label, (one.start, one.end)) for one in annotation.entities]
    if isinstance(annotation, Relations):
        spans = {one.id: one for one in annotation.entities}
        return [(one.label, ends_of(one, spans[one.head], spans[one.tail])) for one in annotation.relations]
    return []


def ends_of(relation: Relation, head: Entity, tail: Entity) -> tuple[tuple[int, int, str], tuple[int, int, str]]:
    """The spans that a relation joins; of a symmetric one in the order of the text."""
    first, second = ((one.start, one.end, one.label) for one in (head, tail))
    return (second, first) if relation.symmetric and second < first else (first, second)


def compared(said: Annotation, truth: Annotation, overlap: float = OVERLAP) -> dict[str, Counts]:
    """What `said` has right, too much, and missed of `truth`, by label. Boxes are the same from `overlap` on."""
    if isinstance(said, Boxes) and isinstance(truth, Boxes):
        return _compared_boxes(said, truth, overlap)
    left, right = Counter(units_of(said)), Counter(units_of(truth))
    found: dict[str, Counts] = {}
    for counted, counts in ((left & right, Counts(right=1)), (left - right, Counts(extra=1)),
                            (right - left, Counts(missed=1))):  # fmt: skip
        for label, _ in counted.elements():
            found[label] = found.get(label, Counts()) + counts
    return found


def _compared_boxes(said: Boxes, truth: Boxes, overlap: float) -> dict[str, Counts]:
    pairs = boxes_matched(said.boxes, truth.boxes, truth.width, truth.height, overlap)
    found: dict[str, Counts] = {}

    def count(label: str, counts: Counts) -> None:
        found[label] = found.get(label, Counts()) + counts

    for at, one in enumerate(said.boxes):
        count(one.label, Counts(right=1) if at in pairs else Counts(extra=1))
    for at, one in enumerate(truth.boxes):
        if at not in pairs.values():
            count(one.label, Counts(missed=1))
    return found


def boxes_matched(
    first: Sequence[Box], second: Sequence[Box], width: int, height: int, overlap: float = OVERLAP
) -> dict[int, int]:  # fmt: skip
    """Which box of `second` is which of `first`, by position: of the same label, each at most once, best first."""
    likely = [
        (shared_area(a, b, width, height), i, j)
        for i, a in enumerate(first) for j, b in enumerate(second) if a.label == b.label
    ]  # fmt: skip
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for likeness, i, j in sorted(likely, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if likeness >= overlap and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def shared_area(a: Box, b: Box, width: int, height: int) -> float:
    """Shared over joint area of two boxes in a picture of that size (pixels), 0 to 1; turned ones too."""
    first, second = corners(a, width, height), corners(b, width, height)
    shared = abs(_area(_clipped(first, second)))
    joint = abs(_area(first)) + abs(_area(second)) - shared
    return min(shared / joint, 1.0) if joint > 0 else 0.0


def corners(box: Box, width: int, height: int) -> list[Point]:
    """The four corners in pixels, clockwise from the upper left one, turned as the box is."""
    left, top, wide, high = box.x * width, box.y * height, box.width * width, box.height * height
    turn = math.radians(box.rotation)
    cos, sin = math.cos(turn), math.sin(turn)
    return [
        (left + dx * cos - dy * sin, top + dx * sin + dy * cos)
        for dx, dy in ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
    ]


def _area(polygon: Sequence[Point]) -> float:
    around = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in around) / 2


def _clipped(polygon: list[Point], window: Sequence[Point]) -> list[Point]:
    """The part of a polygon inside of a convex one, both clockwise on the screen."""
    for start, end in zip(window, [*window[1:], *window[:1]], strict=True):

        def inside(point: Point, a: Point = start, b: Point = end) -> float:
            return (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])

        kept: list[Point] = []
        for here, then in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
            near, far = inside(here), inside(then)
            if near >= 0:
                kept.append(here)
            if (near > 0 > far) or (near < 0 < far):
                share = near / (near - far)
                kept.append((here[0] + share * (then[0] - here[0]), here[1] + share * (then[1] - here[1])))
        polygon = kept
    return polygon
