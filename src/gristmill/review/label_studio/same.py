"""Whether two annotations say the same."""

from __future__ import annotations

from typing import Any

from gristmill.data.annotations import Annotation, Boxes, Classes, Entities, Entity, Rating, Relations


def same(one: Annotation, other: Annotation) -> bool:
    """Whether both say the same, whoever says it, however sure, and in whatever order. Ids do not matter."""
    return _said(one) == _said(other)


def _said(annotation: Annotation) -> tuple[Any, ...]:
    if isinstance(annotation, Classes):
        return (frozenset(annotation.labels),)
    if isinstance(annotation, Rating):
        return annotation.scale, frozenset(annotation.values)
    if isinstance(annotation, Entities):
        return (frozenset(_spot(one) for one in annotation.entities),)
    if isinstance(annotation, Relations):
        spots = {one.id: _spot(one) for one in annotation.entities}
        ends = frozenset(
            (frozenset((spots[r.head], spots[r.tail])) if r.symmetric else (spots[r.head], spots[r.tail]), r.label)
            for r in annotation.relations
        )
        return frozenset(spots.values()), ends
    if isinstance(annotation, Boxes):
        sides = ("label", "x", "y", "width", "height", "rotation")
        return (frozenset(tuple(getattr(one, name) for name in sides) for one in annotation.boxes),)
    raise TypeError(type(annotation))


def _spot(one: Entity) -> tuple[int, int, str]:
    return one.start, one.end, one.label
